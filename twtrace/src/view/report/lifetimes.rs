//! How long sockets lived, with what decides over it: RTO and 3.5 x RTO.

use maud::{Markup, html};

use super::{
    amount, svg,
    table::{
        Column::{Numbers, Words},
        table,
    },
};
use crate::{
    summary::{LIFETIME_BOUNDS_MS, Summary},
    view::table::millis,
};

/// The section.
pub fn section(summary: &Summary) -> Markup {
    let row = &summary.totals;
    if !summary.follow_ends {
        return html! { p { "Ends were not followed: nothing is known of lifetimes." } };
    }
    let all: u64 = row.lifetime_buckets.iter().sum();
    if all == 0 {
        return html! { p { "No socket came and went, so no lifetime is known." } };
    }
    let most = row.lifetime_buckets.iter().copied().max().unwrap_or(1).max(1);
    let names = names();
    let bars: Vec<_> = names
        .iter()
        .zip(&row.lifetime_buckets)
        .map(|(name, count)| (*count as f64 / most as f64, format!("{name}: {count}")))
        .collect();
    let mut ticks = Vec::new();
    if row.rto_max_ms > 0 {
        for (name, at) in [("RTO", row.rto_max_ms), ("3.5 × RTO", row.recycle_ms())] {
            let label = format!("{name} {}", millis(at));
            ticks.push(svg::Tick { at: across(at), label });
        }
        // Where they would be written over each other they are one.
        if let [rto, recycle] = &ticks[..]
            && recycle.at - rto.at < 0.15
        {
            let label = format!("{}, {}", rto.label, recycle.label);
            let recycle = svg::Tick { at: recycle.at, label };
            ticks = vec![svg::Tick { at: ticks[0].at, label: String::new() }, recycle];
        }
    }
    let said = format!(
        "{all} lifetimes; half up to {}, the longest {}; the figures are in the table below",
        row.lifetimes.p50.map_or_else(|| "not known".into(), millis),
        row.lifetimes.max.map_or_else(|| "not known".into(), millis),
    );
    html! {
        p { (said.split(';').take(2).collect::<Vec<_>>().join(";")) "." }
        figure {
            figcaption { "Lifetimes of sockets that came and went; the highest bar is " (most) }
            (svg::bars("lifetimes-picture", ("Lifetimes", &said), &bars, &ticks))
            div class="axis" { @for place in [0, 4, 8, 12] { span { (names[place]) } } }
        }
        @if row.rto_max_ms > 0 {
            p class="soft" {
                "Marked: the longest retransmission timeout seen, " (millis(row.rto_max_ms))
                ", and 3.5 times it, after which kernels before 4.12 with tcp_tw_recycle let a socket go."
            }
        } @else {
            p class="soft" { "No retransmission timeout was seen, so none is marked." }
        }
        (table(
            "table of lifetimes",
            "Sockets by how long they lived",
            [Words("lifetime"), Numbers("sockets"), Numbers("share")],
            &html! {
                @for (name, count) in names.iter().zip(&row.lifetime_buckets).filter(|(_, n)| **n > 0) {
                    tr {
                        th scope="row" { (name) }
                        td class="n" { (count) }
                        td class="n" { (amount(*count as f64 * 100.0 / all as f64)) "%" }
                    }
                }
            },
        ))
    }
}

/// What each bar is of.
fn names() -> Vec<String> {
    let short = |ms: u64| if ms < 1000 { format!("{ms} ms") } else { format!("{} s", ms / 1000) };
    let up_to = LIFETIME_BOUNDS_MS.iter().map(|bound| format!("up to {}", short(*bound)));
    let above = LIFETIME_BOUNDS_MS.last().map(|bound| format!("above {}", short(*bound)));
    up_to.chain(above).collect()
}

/// Where a time is among the bars, 0 to 1.
fn across(ms: u64) -> f64 {
    let bars = LIFETIME_BOUNDS_MS.len() as f64 + 1.0;
    let bar = LIFETIME_BOUNDS_MS.partition_point(|bound| *bound < ms);
    let from = if bar == 0 { 0 } else { LIFETIME_BOUNDS_MS[bar - 1] };
    let within = match LIFETIME_BOUNDS_MS.get(bar) {
        Some(to) => (ms - from) as f64 / (to - from) as f64,
        None => 0.5,
    };
    (bar as f64 + within) / bars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_marked_within_the_bar_that_has_it() {
        assert_eq!(across(250), 0.5 / 13.0);
        assert_eq!(across(714), (1.0 + 214.0 / 500.0) / 13.0);
        assert_eq!(across(1_000_000), 12.5 / 13.0);
        assert_eq!(names()[12], "above 120 s");
    }
}
