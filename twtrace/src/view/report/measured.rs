//! Settings of each namespace, and how far all of it can be trusted.

use maud::{Markup, html};

use super::{
    Report, amount, shown,
    table::{
        Column::{Numbers, Words},
        table,
    },
};
use crate::{
    audit::{Audited, Compared},
    summary::Summary,
    trust::DOUBTS,
};

/// Namespaces of which the settings are shown.
const MOST: usize = 30;

/// The section of settings.
pub fn settings(summary: &Summary) -> Markup {
    let Some(examined) = &summary.examined else {
        return html! { p { "No settings were kept." } };
    };
    let namespaces = &examined.facts.namespaces;
    html! {
        @for (netns, facts) in namespaces.iter().take(MOST) {
            h3 { "Network namespace " (shown(&summary.namespace(*netns))) }
            p class="soft" { (facts.rules().sentence()) "." }
            dl {
                @for (name, value) in facts.settings() { dt { (name) } dd { (value) } }
                @if let Some(most) = facts.max_tw_buckets { dt { "tcp_max_tw_buckets" } dd { (most) } }
                @if let Some(tracked) = &facts.conntrack { dt { "nf_conntrack_max" } dd { (tracked.max) } }
            }
        }
        @if namespaces.len() > MOST {
            p class="soft" { (namespaces.len() - MOST) " more namespaces are not shown." }
        }
        @if namespaces.is_empty() { p { "No network namespace could be read." } }
        @for setting in &examined.facts.recycle_configured {
            p {
                (shown(&setting.file.display().to_string())) ", line " (setting.line) ": tcp_tw_recycle is set to "
                (shown(&setting.value))
            }
        }
    }
}

/// The section of how it was measured.
pub fn section(report: &Report<'_>) -> Markup {
    let (summary, origin) = (report.summary, report.origin);
    let blind = summary.blind_spots();
    html! {
        dl {
            dt { "attached through" } dd { (summary.backend.as_str()) }
            @for refused in &summary.refused_backends {
                dt { "did not work" }
                dd { (refused.backend.as_str()) ": " (shown(&refused.reason)) }
            }
            dt { "looked for" } dd { (amount(summary.elapsed.as_secs_f64())) " s" }
            dt { "host" } dd { (shown(&origin.host)) }
            dt { "kernel" } dd { (shown(&origin.kernel)) }
            dt { "boot" } dd { (shown(&origin.boot_id)) }
            dt { "recorded by" } dd { "twtrace " (shown(&origin.program)) }
            @if !summary.selection.is_any() {
                dt { "only sockets that match" } dd { (shown(&summary.selection.to_string())) }
            }
        }
        h3 { "Not seen this way" }
        @if blind.is_empty() { p { "Nothing: every hook is there." } }
        @else { ul { @for spot in blind { li { (spot) } } } }
        (audit(summary))
        (doubts(summary))
        @if let Some(examined) = &summary.examined {
            @if !examined.facts.unread.is_empty() {
                h3 { "Could not be read" }
                ul { @for fault in &examined.facts.unread { li { (shown(fault)) } } }
            }
        }
    }
}

/// What the kernel counted, against what its programs did.
fn audit(summary: &Summary) -> Markup {
    let Some(audit) = &summary.audit else {
        return html! {
            h3 { "Audit" }
            p { "Counts could not be held against the kernel's own." }
        };
    };
    html! {
        h3 { "Audit" }
        p {
            @match audit.fault() {
                Some(fault) => strong class="alarm" { (fault) "." },
                None => "Nothing that the kernel counted is missing.",
            }
        }
        (table(
            "audit",
            "The kernel's own counters against what was seen, by network namespace",
            [
                Words("namespace"), Numbers("kernel"), Numbers("counted"), Numbers("missing"),
                Numbers("taken over, missing"), Numbers("overflow, missing"),
            ],
            &html! {
                @for (netns, audited) in audit.namespaces.iter().take(MOST) {
                    (compared(&summary.namespace(*netns), audited))
                }
                @if audit.namespaces.len() > MOST {
                    (compared("all together", &audit.total()))
                }
            },
        ))
    }
}

fn compared(name: &str, audited: &Audited) -> Markup {
    let missing = |figure: Option<Compared>| match figure {
        Some(figure) => figure.missing.to_string(),
        None => "not compared".to_owned(),
    };
    html! {
        tr {
            th scope="row" { (shown(name)) }
            td class="n" { (audited.entries.kernel) }
            td class="n" { (audited.entries.counted) }
            td class="n" { (audited.entries.missing) }
            td class="n" { (missing(audited.reused)) }
            td class="n" { (missing(audited.overflow)) }
        }
    }
}

/// Whatever makes counts less than exact.
fn doubts(summary: &Summary) -> Markup {
    let (trust, known) = (&summary.trust, summary.known());
    let counts = DOUBTS.iter().map(|doubt| (doubt, doubt.known(trust, known)));
    let there: Vec<_> = counts.filter(|(_, count)| *count != Some(0)).collect();
    html! {
        h3 { "What makes counts less than exact" }
        @if there.is_empty() { p { "Nothing: no event was lost, and no socket was missed." } }
        @else {
            dl {
                @for (doubt, count) in there {
                    dt { (doubt.words) }
                    dd {
                        @match count { Some(count) => strong { (count) }, None => "not known" }
                        ". " (doubt.sentence)
                    }
                }
            }
        }
    }
}
