//! The verdict, what failed, and each finding with its evidence.

use maud::{Markup, html};
use serde_json::Value;

use super::{
    Report, shown,
    table::{
        Column::{Numbers, Words},
        table,
    },
    time,
};
use crate::{
    diagnose::{Evidence, Finding, Severity},
    failures::{Cause, Place},
    needs::Needs,
    summary::Summary,
    text::counted,
    view::diagnosis,
};

/// Places of failed calls that are listed.
const MOST_PLACES: usize = 20;
/// Findings that are shown with all they say.
const MOST_FINDINGS: usize = 60;

/// The worst finding in a sentence, or that there is none.
pub fn verdict(summary: &Summary) -> Markup {
    let Some(examined) = &summary.examined else {
        return html! {
            p class="verdict notice" {
                span class="tag" { "No verdict: " }
                "what was kept has no facts of the host, on which findings rest."
            }
        };
    };
    let findings = &examined.diagnosis.findings;
    match findings.first() {
        None => html! {
            p class="verdict" { (shown(&diagnosis::no_finding(&examined.diagnosis.margins))) }
        },
        Some(worst) => html! {
            p class={ "verdict " (worst.severity.as_str()) } {
                span class="tag" { (worst.id) " " (worst.severity.as_str()) ": " }
                (shown(&worst.summary))
                @if findings.len() > 1 {
                    " (" a href="#findings" { (findings.len() - 1) " more" } ")"
                }
            }
        },
    }
}

/// What failed: how often, of whom, since when.
pub fn failed(report: &Report<'_>) -> Markup {
    let summary = report.summary;
    let counts = &summary.totals.counts.failed;
    let Some(failed) = &summary.failed else {
        return html! { p { "Whether calls failed is not known: nobody looked." } };
    };
    let binds_unseen = !summary.known().has(Needs::BINDS);
    let note = if binds_unseen { " Refused bind() calls are not seen this way." } else { "" };
    let clock = report.chronicle.clock();
    let connects = failed.connects.iter().map(|(place, tried)| (place, *tried));
    let binds = failed.binds.iter().map(|(place, _)| (place, None));
    let mut places: Vec<(&Place, Option<u64>)> = connects.chain(binds).collect();
    places.sort_by_key(|(place, _)| std::cmp::Reverse(place.count));
    if counts.total() == 0 && places.is_empty() {
        return html! { p { "No call failed for want of a port." (note) } };
    }
    let of_cause = Cause::ALL.iter().filter(|cause| counts.of(**cause) > 0);
    html! {
        @if counts.total() == 0 {
            p { "No call failed since this page was asked for. What the daemon remembers:" (note) }
        } @else { p {
            strong class="alarm" { (counted(counts.total(), "calls")) " failed for want of a port" }
            @for (index, cause) in of_cause.enumerate() {
                @if index == 0 { ": " } @else { "; " }
                (cause.words()) ", " (counted(counts.of(*cause), "times"))
            }
            "." (note)
        } }
        (table(
            "what failed",
            "What failed, of which program; before this session too, where a daemon knows",
            [
                Words("program"), Words("what"), Numbers("failed"), Numbers("of"),
                Numbers("first"), Numbers("last"),
            ],
            &html! {
                @for (place, tried) in places.iter().take(MOST_PLACES) {
                    tr {
                        th scope="row" { (shown(&place.program.to_string())) }
                        td { (what(place)) }
                        td class="n" { (place.count) }
                        td class="n" {
                            @match tried {
                                Some(tried) => (*tried.max(&place.count)),
                                None => "not known",
                            }
                        }
                        td class="n" { (time(clock.wall(place.first_ns))) }
                        td class="n" { (time(clock.wall(place.last_ns))) }
                    }
                }
            },
        ))
        @if places.len() > MOST_PLACES {
            p class="soft" { (places.len() - MOST_PLACES) " more places are not shown." }
        }
    }
}

fn what(place: &Place) -> String {
    match place.remote {
        Some(remote) => format!("{}, to {remote}", place.cause.words()),
        None => format!("{}, of {}", place.cause.words(), place.local),
    }
}

/// One part for each finding.
pub fn section(summary: &Summary) -> Markup {
    let Some(examined) = &summary.examined else {
        return html! { p { "No facts of the host were kept, so there are no findings." } };
    };
    let findings = &examined.diagnosis.findings;
    html! {
        @if findings.is_empty() {
            p { (shown(&diagnosis::no_finding(&examined.diagnosis.margins))) }
        }
        @for (number, finding) in (1..).zip(findings.iter().take(MOST_FINDINGS)) {
            (one(summary, number, finding))
        }
        @if findings.len() > MOST_FINDINGS {
            p { (findings.len() - MOST_FINDINGS) " more findings are not shown." }
        }
        @if !findings.is_empty() {
            p class="soft" { "docs/findings/ of twtrace has a page for each." }
        }
    }
}

fn one(summary: &Summary, number: usize, finding: &Finding) -> Markup {
    let severity: Severity = finding.severity;
    html! {
        article class={ "finding " (severity.as_str()) } {
            h3 {
                span class="tag" { (finding.id) " " (severity.as_str()) }
                @if let Some(netns) = finding.netns {
                    ", network namespace " (shown(&summary.namespace(netns)))
                }
            }
            p { (shown(&finding.summary)) }
            @if let Some((peer, name)) = summary.named_peer(finding) {
                p { (peer) " is " (shown(name)) "." }
            }
            @if !finding.evidence.is_empty() {
                (table(
                    &format!("evidence of finding {number}, {}", finding.id),
                    "What it rests on",
                    [Words("figure"), Words("value"), Words("from")],
                    &html! {
                        @for figure in &finding.evidence {
                            tr {
                                th scope="row" { (figure.name()) }
                                td { (value(figure)) }
                                td { (figure.source) }
                            }
                        }
                    },
                ))
            }
            dl {
                dt { "So" } dd { (shown(&finding.consequence)) }
                dt { "Do" } dd { (shown(&finding.remedy)) }
                @if !finding.dont.is_empty() { dt { "Do not" } dd { (shown(finding.dont())) } }
            }
        }
    }
}

fn value(figure: &Evidence) -> String {
    let text = match &figure.value {
        Value::Null => "not known".to_owned(),
        _ => figure.text(),
    };
    shown(&text)
}
