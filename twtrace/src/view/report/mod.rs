//! An incident as one page: HTML that opens in any browser, offline, with nothing to fetch and no
//! script.
//!
//! Its figures are those of the summary, as in every view; only what happened over time comes from the
//! [chronicle](crate::chronicle). Text of others goes through [`shown`] and the template's escaping,
//! and the page forbids itself everything but its own style sheet.

mod findings;
mod lifetimes;
mod measured;
mod owners;
mod peers;
mod remedies;
mod svg;
mod table;
mod timeline;

use std::{
    io::{self, Write},
    sync::LazyLock,
    time::SystemTime,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use crate::{
    chronicle::{self, Chronicle},
    origin::Origin,
    peer::minutes::Minute,
    summary::Summary,
    text::visible,
    what_if::WhatIf,
};

/// The style sheet, which is in the page.
const STYLE: &str = include_str!("style.css");

/// What the page may do: look as it does, and nothing else.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'")
});

/// What a page is made of.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The last moment, with all rows.
    pub summary: &'a Summary,
    /// Where it all comes from.
    pub origin: &'a Origin,
    /// What happened when.
    pub chronicle: &'a Chronicle,
    /// From when on a daemon's memory is told, in minutes of `CLOCK_MONOTONIC`; the session alone if
    /// `None`.
    pub minutes_from: Option<i32>,
    /// What would have been under other settings; `None` where there are no entries to try them on.
    pub what_if: Option<&'a WhatIf>,
    /// Why it is not whole, if it is not.
    pub broken: Option<&'a str>,
}

/// Sections, by the name of their anchor.
const SECTIONS: [(&str, &str); 9] = [
    ("time", "What happened when"),
    ("peers", "Peers"),
    ("findings", "Findings"),
    ("remedies", "Remedies, tried on what happened"),
    ("limits", "Limits over time"),
    ("lifetimes", "Lifetimes"),
    ("owners", "Owners"),
    ("settings", "Settings"),
    ("measured", "How it was measured"),
];

/// Writes the page.
///
/// # Errors
/// Those of the writer.
pub fn write(out: &mut impl Write, report: &Report<'_>) -> io::Result<()> {
    out.write_all(page(report).into_string().as_bytes())
}

fn page(report: &Report<'_>) -> Markup {
    let origin = report.origin;
    let minutes = report.minutes_from.map(|from| chronicle::minutes(&report.summary.rows, from));
    let intervals = match &minutes {
        Some(minutes) => timeline::of_minutes(minutes, report.summary.follow_ends),
        None => timeline::of_samples(report.chronicle.samples()),
    };
    let (from, to) = span(report, minutes.as_deref());
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(*POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                title { "twtrace: " (shown(&origin.host)) ", " (from) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "TIME_WAIT on " (shown(&origin.host)) }
                    p class="soft" {
                        (from) " to " (to) "; Linux " (shown(&origin.kernel))
                        "; written by twtrace " (env!("CARGO_PKG_VERSION"))
                    }
                }
                main {
                    @if let Some(broken) = report.broken {
                        p class="verdict warning" {
                            span class="tag" { "Not whole: " } (shown(broken))
                        }
                    }
                    (findings::verdict(report.summary))
                    (findings::failed(report))
                    nav aria-label="Contents" {
                        ul { @for (id, name) in SECTIONS { li { a href={ "#" (id) } { (name) } } } }
                    }
                    (part(0, &timeline::section(report, &intervals)))
                    (part(1, &peers::section(report)))
                    (part(2, &findings::section(report.summary)))
                    (part(3, &remedies::section(report.what_if)))
                    (part(4, &timeline::limits(report)))
                    (part(5, &lifetimes::section(report.summary)))
                    (part(6, &owners::section(report)))
                    (part(7, &measured::settings(report.summary)))
                    (part(8, &measured::section(report)))
                }
            }
        }
    }
}

/// One of the sections.
fn part(number: usize, content: &Markup) -> Markup {
    let (id, name) = SECTIONS[number];
    html! { section aria-labelledby=(id) { h2 id=(id) { (name) } (content) } }
}

/// From when to when.
fn span(report: &Report<'_>, minutes: Option<&[Minute]>) -> (String, String) {
    let clock = report.chronicle.clock();
    let ready = clock.wall(report.chronicle.ready_ns());
    let first = minutes.and_then(|minutes| minutes.first());
    (time(first.map_or(ready, |minute| clock.wall_at(minute.begins_ns()))), time(clock.wall))
}

/// A moment for people, to the second.
fn time(wall: SystemTime) -> String {
    humantime::format_rfc3339_seconds(wall).to_string().replace('T', " ").replace('Z', " UTC")
}

/// Text of others, made visible; what is markup in it the template escapes.
fn shown(text: &str) -> String {
    visible(text).into_owned()
}

/// A number with three digits or so.
fn amount(number: f64) -> String {
    if number == 0.0 || number >= 100.0 {
        format!("{number:.0}")
    } else if number >= 1.0 {
        let text = format!("{number:.1}");
        text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
    } else {
        format!("{number:.2}")
    }
}
