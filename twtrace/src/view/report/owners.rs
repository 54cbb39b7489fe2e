//! Whose sockets they are.

use maud::{Markup, html};

use super::{
    Report, amount, shown,
    table::{
        Column::{Numbers, Words},
        table,
    },
};
use crate::text::counted;

/// Owners shown.
const MOST: usize = 30;

/// The section.
pub fn section(report: &Report<'_>) -> Markup {
    let owners = report.chronicle.owners();
    let named = owners.named(report.summary);
    let all: u64 = named.iter().map(|owned| owned.entries).sum();
    let all = all + owners.unknown() + owners.beyond();
    html! {
        @if named.is_empty() {
            p { "Of no entry of this time it is known whose it was." }
        } @else {
            (table(
                "table of owners",
                "Entries by unit, container or pod, or by control group where nobody could tell",
                [Words("owner"), Numbers("uid"), Numbers("entered"), Numbers("share")],
                &html! {
                    @for owned in named.iter().take(MOST) {
                        tr {
                            th scope="row" { (shown(&owned.name)) }
                            td class="n" { (owned.uid) }
                            td class="n" { (owned.entries) }
                            td class="n" { (amount(owned.entries as f64 * 100.0 / all.max(1) as f64)) "%" }
                        }
                    }
                },
            ))
        }
        @if named.len() > MOST { p class="soft" { (named.len() - MOST) " more owners are not shown." } }
        @if owners.unknown() > 0 {
            p class="soft" { "Of " (counted(owners.unknown(), "entries")) " it is not known whose they are." }
        }
        @if owners.beyond() > 0 {
            p class="soft" { (counted(owners.beyond(), "entries")) " are of more owners than are told apart." }
        }
    }
}
