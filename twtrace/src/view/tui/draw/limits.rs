//! How far every limit is.

use ratatui::{
    layout::Rect,
    text::{Line, Span},
};

use super::parts::{Theme, count, gauge, rate};
use crate::{
    diagnose::{
        arithmetic::Exhaustion, buckets::Buckets, egress::EgressMargin, margins::NamespaceMargins,
        pressure::Pressure, tracking::Tracking,
    },
    host::facts::Conntrack,
    view::{
        diagnosis,
        tui::state::{Shot, State},
    },
};

/// The margins of each namespace, and of the host.
pub fn lines(_state: &State, moment: &Shot, area: Rect, theme: Theme) -> Vec<Line<'static>> {
    let Some(examined) = &moment.summary.examined else {
        return vec![Line::raw("Limits need rows by peer, and ends.")];
    };
    let margins = &examined.diagnosis.margins;
    let width = usize::from(area.width);
    let mut lines = Vec::new();
    for namespace in &margins.namespaces {
        let name = moment.summary.namespace(namespace.netns);
        lines.push(Line::styled(format!("network namespace {name}"), theme.heading()));
        lines.extend(of_namespace(namespace, width, theme));
    }
    if margins.namespaces.is_empty() {
        lines.push(Line::styled("no network namespace could be read", theme.warning()));
    }
    for margin in &margins.egress {
        lines.extend(of_egress(margin, width, theme));
    }
    lines.push(Line::raw(diagnosis::memory(margins)));
    if let Some((open, max)) = margins.files {
        lines.push(Line::raw(format!(
            "{open} of {max} files are open; TIME_WAIT sockets hold none"
        )));
    }
    lines
        .extend(margins.near_limit.iter().map(|process| Line::raw(diagnosis::near_limit(process))));
    lines
}

fn of_namespace(namespace: &NamespaceMargins, width: usize, theme: Theme) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if let Some(ports) = &namespace.ports {
        lines.extend(of_ports(ports, width, theme));
    }
    if let Some(buckets) = &namespace.buckets {
        lines.extend(of_buckets(buckets, width, theme));
    }
    if let Some(tracking) = &namespace.conntrack {
        lines.extend(of_tracking(tracking, width, theme));
    }
    lines
}

/// Two lines: the ports taken now, and where it goes at the present rate.
fn of_ports(ports: &Pressure, width: usize, theme: Theme) -> [Line<'static>; 2] {
    let words = format!("{:.0} of {} taken", ports.used(), count(ports.usable));
    let detail = format!(
        "            {}: {}/s stay {:.0} s each; ",
        ports.triple(),
        rate(ports.stuck_rate()),
        if ports.is_young() { ports.delay } else { ports.seconds }
    );
    [
        bar("ports", ports.used_share(), &words, width, theme),
        Line::from(vec![Span::raw(detail), when(ports.exhaustion, ports.share(), theme)]),
    ]
}

/// Two lines likewise.
fn of_buckets(buckets: &Buckets, width: usize, theme: Theme) -> [Line<'static>; 2] {
    let mut words = format!("{} of {} buckets", count(buckets.live), count(buckets.max));
    if buckets.overflow > 0 {
        words.push_str(&format!(", {} OVERFLOWED", count(buckets.overflow)));
    }
    let steady = buckets.share();
    let detail = format!("            {}/s come; ", rate(buckets.rate));
    [
        bar("buckets", buckets.used_share(), &words, width, theme),
        Line::from(vec![Span::raw(detail), when(buckets.exhaustion, steady, theme)]),
    ]
}

/// Two lines likewise.
fn of_tracking(tracking: &Tracking, width: usize, theme: Theme) -> [Line<'static>; 2] {
    let Conntrack { count: used, max, .. } = tracking.now;
    let words = format!("{} of {} connections tracked", count(used), count(max));
    let growth = tracking.growth.map_or_else(|| "(not known yet)".into(), rate);
    let detail = format!("            {growth}/s more; ");
    [
        bar("conntrack", tracking.used_share(), &words, width, theme),
        Line::from(vec![Span::raw(detail), when(tracking.exhaustion, tracking.share(), theme)]),
    ]
}

/// Two lines likewise, of an address that others share.
fn of_egress(margin: &EgressMargin, width: usize, theme: Theme) -> [Line<'static>; 2] {
    let words = format!("about {:.0} of {} held", margin.all.now(), count(margin.ports.into()));
    let which = margin.found.as_ref().map_or_else(
        || "shared address".to_owned(),
        |found| format!("{} in {}", found.kind.word(), found.netns),
    );
    let detail = format!(
        "            {which} towards {}: {}/s held for {:.0} s; ",
        margin.target(),
        rate(margin.all.rate),
        margin.hold_s
    );
    [
        bar("egress", margin.used_share(), &words, width, theme),
        Line::from(vec![Span::raw(detail), when(margin.exhaustion, margin.share(), theme)]),
    ]
}

/// When nothing is left, or what share will be taken in the end.
fn when(exhaustion: Exhaustion, steady: f64, theme: Theme) -> Span<'static> {
    match exhaustion {
        Exhaustion::Now => Span::styled("exhausted NOW", theme.alarm()),
        Exhaustion::In(seconds) => {
            Span::styled(format!("exhausted in {seconds:.0} s"), theme.alarm())
        }
        Exhaustion::Never => {
            Span::styled(format!("settles at {:.0} %", steady * 100.0), theme.share(steady))
        }
    }
}

/// A name, a bar, a share, and the figures.
fn bar(name: &str, share: f64, words: &str, width: usize, theme: Theme) -> Line<'static> {
    let bar = gauge(share, width.saturating_sub(50).clamp(10, 60));
    Line::from(vec![
        Span::raw(format!("  {name:<9} ")),
        Span::styled(bar, theme.share(share)),
        Span::raw(format!(" {:>3.0} %  {words}", share * 100.0)),
    ])
}
