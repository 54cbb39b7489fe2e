//! What is wrong and what to do: for people, and as `twtrace.diagnosis/2`.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::style::Palette;
use crate::text::{COLUMNS, are, counted, visible, wrapped};
use crate::{
    diagnose::{
        Evidence, Finding, Severity,
        arithmetic::Exhaustion,
        buckets::Buckets,
        egress::EgressMargin,
        finding::rounded,
        margins::{Margins, NamespaceMargins},
        pressure::{Holder, Pressure},
        tracking::Tracking,
    },
    filter::PeerAddress,
    host::{
        facts::{Conntrack, NamespaceFacts},
        files::ProcessFiles,
    },
    summary::{Examined, Summary},
    units::PerSecond,
};

/// Name and version of the document.
pub const SCHEMA: &str = "twtrace.diagnosis/2";

/// Share of a limit from which on it is named where there is no finding.
const WORTH_A_LOOK: f64 = 0.5;

/// Column at which a figure's source begins.
const SOURCE_AT: usize = 50;

/// Writes the findings, worst first, and the margins, as JSON.
///
/// # Errors
/// Those of the writer.
pub fn write_json(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &document(summary))?;
    writeln!(out)
}

/// Findings and margins as programs read them.
pub fn document(summary: &Summary) -> Value {
    let Some(examined) = &summary.examined else {
        return json!({ "schema": SCHEMA, "findings": [], "margins": {} });
    };
    let findings: Vec<Value> = examined.diagnosis.findings.iter().map(Finding::document).collect();
    let wall = humantime::format_rfc3339_millis(examined.clock.wall);
    let mut document = json!({
        "schema": SCHEMA,
        "at": wall.to_string(),
        "backend": summary.backend.as_str(),
        "elapsed_s": rounded(summary.elapsed.as_secs_f64()),
        "kernel": examined.facts.kernel,
        "findings": findings,
        "margins": margins_document(&examined.diagnosis.margins),
        "histories": history_documents(summary, examined),
        "unread": examined.facts.unread,
    });
    if let Some(filter) = super::json::row_filter(summary) {
        document["row_filter"] = filter;
    }
    document
}

/// The findings alone: those of one peer, and those at least as bad as asked for.
pub fn findings(summary: &Summary, peer: Option<PeerAddress>, severity: Option<Severity>) -> Value {
    let wanted = |finding: &&Finding| {
        let named = |peer: &PeerAddress| {
            finding.peer.as_deref().and_then(|name| name.parse::<PeerAddress>().ok()).is_some_and(
                |named| named.ip == peer.ip && (peer.port.is_none() || named.port == peer.port),
            )
        };
        peer.as_ref().is_none_or(named) && severity.is_none_or(|least| finding.severity >= least)
    };
    let findings = summary.examined.iter().flat_map(|examined| &examined.diagnosis.findings);
    json!({ "findings": findings.filter(wanted).map(Finding::document).collect::<Vec<_>>() })
}

/// The margins alone.
pub fn margins(summary: &Summary) -> Value {
    let margins = summary.examined.as_ref().map(|examined| &examined.diagnosis.margins);
    json!({ "margins": margins.map(margins_document) })
}

/// The past of each row.
pub fn histories(summary: &Summary) -> Value {
    let examined = summary.examined.as_ref();
    json!({ "histories": examined.map(|examined| history_documents(summary, examined)) })
}

fn history_documents(summary: &Summary, examined: &Examined) -> Vec<Value> {
    let documents = summary.rows.iter();
    documents.filter_map(|row| super::history::document(row, &examined.clock, summary)).collect()
}

fn margins_document(margins: &Margins) -> Value {
    let namespaces: Vec<Value> = margins
        .namespaces
        .iter()
        .map(|namespace| {
            json!({
                "netns": namespace.netns,
                "rules": namespace.rules.sentence(),
                "ports": namespace.ports.as_ref().map(ports_document),
                "buckets": namespace.buckets.as_ref().map(buckets_document),
                "conntrack": namespace.conntrack.as_ref().map(conntrack_document),
            })
        })
        .collect();
    let egress: Vec<Value> = margins.egress.iter().map(egress_document).collect();
    json!({
        "namespaces": namespaces,
        "egress": egress,
        "time_wait_sockets": margins.sockets,
        "time_wait_bytes": margins.bytes,
        "open_files": margins.files.map(|(open, max)| json!({ "open": open, "max": max })),
        "processes_near_limit": margins.near_limit.iter().map(|process| json!({
            "pid": process.pid,
            "comm": process.comm,
            "netns": process.netns,
            "open": process.open,
            "max": process.limit,
            "sockets": process.sockets,
        })).collect::<Vec<_>>(),
    })
}

fn egress_document(margin: &EgressMargin) -> Value {
    let takers = margin.by_netns.iter().map(|(netns, taken)| {
        json!({ "netns": netns, "open": taken.open.round(), "held": taken.held.round() })
    });
    json!({
        "egress": margin.egress,
        "found": margin.found.as_ref().map(|found| {
            json!({ "netns": found.netns, "table": found.table, "kind": found.kind.word() })
        }),
        "gives_away": margin.gives_away,
        "to": margin.to,
        "ports": margin.ports,
        "hold_s": margin.hold_s,
        "open": margin.all.open.round(),
        "held": margin.all.held.round(),
        "now": margin.all.now().round(),
        "to_come": margin.to_come().round(),
        "rate": margin.all.rate,
        "seconds_to_exhaustion": margin.exhaustion.seconds().map(rounded),
        "takers": takers.collect::<Vec<_>>(),
    })
}

fn ports_document(ports: &Pressure) -> Value {
    json!({
        "triple": ports.triple(),
        "sources": ports.sources,
        "usable": ports.usable,
        "stuck": ports.stuck.round() as u64,
        "open": ports.open.map(|open| open.ports),
        "steady_state": ports.steady().round() as u64,
        "share": ports.share(),
        "rate": rounded(ports.rate),
        "blocked_rate": rounded(ports.blocked_rate),
        "rate_window_s": rounded(ports.window),
        "lasting_rate": rounded(ports.held_rate),
        "highest_rate": rounded(ports.highest_rate()),
        "highest_rate_if": {
            "takeover": rounded(ports.what_if.takeover),
            "two_sources": rounded(ports.what_if.two_sources),
            "widest_range": rounded(ports.what_if.widest_range),
        },
        "seconds_to_exhaustion": ports.exhaustion.seconds().map(rounded),
    })
}

fn buckets_document(buckets: &Buckets) -> Value {
    json!({
        "live": buckets.live,
        "max": buckets.max,
        "share": buckets.used_share(),
        "rate": rounded(buckets.rate),
        "steady_state": buckets.steady.round() as u64,
        "seconds_to_full": buckets.exhaustion.seconds().map(rounded),
        "overflow": buckets.overflow,
        "overflow_rate": rounded(buckets.overflow_rate),
    })
}

fn conntrack_document(tracking: &Tracking) -> Value {
    json!({
        "count": tracking.now.count,
        "max": tracking.now.max,
        "time_wait_s": tracking.now.time_wait_s,
        "share": tracking.used_share(),
        "growth": tracking.growth.map(rounded),
        "steady_state": tracking.most.round() as u64,
        "seconds_to_full": tracking.exhaustion.seconds().map(rounded),
        "dropped": tracking.dropped,
    })
}

/// Writes the findings, worst first, or that there is none; then the margins.
///
/// # Errors
/// Those of the writer.
pub fn write(out: &mut impl Write, summary: &Summary, palette: Palette) -> io::Result<()> {
    let Some(examined) = &summary.examined else { return Ok(()) };
    writeln!(
        out,
        "twtrace: observed through {} for {:.1} s, kernel {}",
        summary.backend,
        summary.elapsed.as_secs_f64(),
        visible(&examined.facts.kernel)
    )?;
    let blind = summary.blind_spots();
    if !blind.is_empty() {
        wrapped(out, "  not seen this way: ", &blind.join(", "))?;
    }
    writeln!(out)?;
    write_findings(out, summary, examined, palette)?;
    write_margins(out, summary, examined, palette)
}

/// Writes the findings alone, or that there is none.
///
/// # Errors
/// Those of the writer.
pub fn write_findings(
    out: &mut impl Write,
    summary: &Summary,
    examined: &Examined,
    palette: Palette,
) -> io::Result<()> {
    if examined.diagnosis.findings.is_empty() {
        wrapped(out, "", &no_finding(&examined.diagnosis.margins))?;
        return writeln!(out);
    }
    let findings = &examined.diagnosis.findings;
    for (index, finding) in findings.iter().enumerate() {
        write_finding(out, summary, finding, &findings[..index], palette)?;
    }
    Ok(())
}

/// What is said where there is no finding.
pub fn no_finding(margins: &Margins) -> String {
    let (sockets, are) = (counted(margins.sockets, "sockets"), are(margins.sockets));
    match margins.worst() {
        _ if margins.namespaces.is_empty() => {
            "No finding, but no network namespace could be read: nothing is known of its limits."
                .to_owned()
        }
        Some(limit) if margins.would_be_reached() => format!(
            "No finding: {sockets} {are} in TIME_WAIT now. If it went on as it was seen, a limit would \
             be reached, as stands below; that it has lasted was not seen. Taken now: {}.",
            limit.sentence()
        ),
        Some(limit) if limit.share >= WORTH_A_LOOK => format!(
            "No finding: {sockets} {are} in TIME_WAIT now, and nothing will fail at this \
             rate. The nearest limit: {}; what takes it stands below.",
            limit.sentence()
        ),
        _ => format!(
            "No finding: {sockets} {are} in TIME_WAIT now, and no limit is near. TIME_WAIT \
             is how TCP ends; by itself it is harmless."
        ),
    }
}

fn write_finding(
    out: &mut impl Write,
    summary: &Summary,
    finding: &Finding,
    before: &[Finding],
    palette: Palette,
) -> io::Result<()> {
    let heading = format!("{} {}", finding.id, finding.severity.as_str().to_uppercase());
    let heading = match finding.severity {
        Severity::Critical => palette.alarm(heading),
        Severity::Warning => palette.warning(heading),
        Severity::Notice => palette.heading(heading),
    };
    match finding.netns {
        Some(netns) => {
            let namespace = summary.namespace(netns);
            writeln!(out, "{heading}  network namespace {}", visible(&namespace))?;
        }
        None => writeln!(out, "{heading}")?,
    }
    wrapped(out, "  ", &finding.summary)?;
    if let Some((peer, name)) = summary.named_peer(finding) {
        wrapped(out, "  ", &format!("{peer} is {name}."))?;
    }
    // What was said of the same peer a moment ago need not be said again.
    let of_peer = |other: &&Finding| {
        finding.peer.is_some() && other.peer == finding.peer && other.netns == finding.netns
    };
    let known = |figure: &Evidence| {
        before.iter().filter(of_peer).any(|other| other.evidence.contains(figure))
    };
    for figure in finding.evidence.iter().filter(|figure| !known(figure)) {
        write_figure(out, figure)?;
    }
    if !before.iter().filter(of_peer).any(|other| other.consequence == finding.consequence) {
        wrapped(out, "  So:     ", &finding.consequence)?;
    }
    wrapped(out, "  Do:     ", &finding.remedy)?;
    if !finding.dont.is_empty() {
        wrapped(out, "  Do not: ", finding.dont())?;
    }
    writeln!(out)
}

/// One figure: name, value, unit, and where it comes from.
fn write_figure(out: &mut impl Write, figure: &Evidence) -> io::Result<()> {
    let text = figure.text();
    let text = visible(&text);
    let name = figure.name();
    let name = format!("    {name:<26} ");
    let left = format!("{name}{text}");
    let width = left.chars().count();
    if width.max(SOURCE_AT) + 2 + figure.source.len() <= COLUMNS {
        writeln!(out, "{left:<SOURCE_AT$}  {}", figure.source)
    } else {
        wrapped(out, &name, &text)?;
        writeln!(out, "{:name$}({})", "", figure.source, name = name.len())
    }
}

/// How far every limit is, and what holds in each namespace.
fn write_margins(
    out: &mut impl Write,
    summary: &Summary,
    examined: &Examined,
    palette: Palette,
) -> io::Result<()> {
    let margins = &examined.diagnosis.margins;
    writeln!(out, "{}", palette.heading("Margins"))?;
    for namespace in &margins.namespaces {
        let name = summary.namespace(namespace.netns);
        writeln!(out, "  network namespace {}", visible(&name))?;
        write_namespace(out, namespace)?;
        if let Some(facts) = examined.facts.namespaces.get(&namespace.netns) {
            wrapped(out, "    settings     ", &settings(facts))?;
        }
        wrapped(out, "    rules        ", namespace.rules.sentence())?;
    }
    for margin in &margins.egress {
        let (all, ports) = (&margin.all, margin.ports);
        let found = margin.found.as_ref().map(|found| format!(" ({found})")).unwrap_or_default();
        let given = if margin.gives_away { ", given away when ports are short" } else { "" };
        let text = format!(
            "about {:.0} of {ports} ports of the shared address{found} are held towards {}: {:.0} open, \
             {:.0} after the end{given}; {:.0} to come. An estimate of what the NAT keeps.",
            all.now(),
            margin.target(),
            all.open,
            all.held,
            margin.to_come()
        );
        wrapped(out, "  egress         ", &text)?;
    }
    let memory = format!("{}; memory is no reason to avoid them", memory(margins));
    wrapped(out, "  memory         ", &memory)?;
    if let Some((open, max)) = margins.files {
        let files = format!("{open} of {max} files are open; TIME_WAIT sockets hold none");
        wrapped(out, "  descriptors    ", &files)?;
    }
    for process in &margins.near_limit {
        wrapped(out, "  descriptors    ", &near_limit(process))?;
    }
    for fault in &examined.facts.unread {
        wrapped(out, "  not known      ", fault)?;
    }
    Ok(())
}

/// A process near its limit, in words.
pub fn near_limit(process: &ProcessFiles) -> String {
    let ProcessFiles { pid, comm, open, limit, sockets, .. } = process;
    let name = visible(comm);
    format!("{name} (pid {pid}) has {open} of the {limit} open that it may; {sockets} are sockets")
}

fn write_namespace(out: &mut impl Write, namespace: &NamespaceMargins) -> io::Result<()> {
    let ports = match &namespace.ports {
        None if namespace.buckets.is_some_and(|buckets| buckets.live > 0) => {
            "connect() took none: what is in TIME_WAIT was accepted here".to_owned()
        }
        None => "none is in TIME_WAIT".to_owned(),
        Some(ports) => ports_margin(ports),
    };
    wrapped(out, "    ports        ", &ports)?;
    if let Some(buckets) = &namespace.buckets {
        wrapped(out, "    buckets      ", &buckets_margin(buckets))?;
    }
    if let Some(tracking) = &namespace.conntrack {
        wrapped(out, "    conntrack    ", &conntrack_margin(tracking))?;
    }
    Ok(())
}

/// How far the ports suffice that a program names itself.
fn named_margin(ports: &Pressure) -> String {
    let triple = ports.triple();
    if ports.is_fixed() {
        return match ports.free_in {
            Some((_, last)) => format!(
                "{triple}: the program names this one port; it is held in TIME_WAIT, free in \
                 {last:.0} s"
            ),
            None => format!("{triple}: the program names this one port; it is not held"),
        };
    }
    let mut text = format!(
        "{triple}: the program names its ports, {} so far; {:.0} are held in TIME_WAIT",
        ports.usable, ports.stuck
    );
    if let Some((next, last)) = ports.free_in {
        text.push_str(&format!(", the next is free in {next:.0} s and the last in {last:.0} s"));
    }
    if ports.blocked_rate > 0.0 {
        text.push_str(&format!(
            ". At {:.1}/s it needs {:.0} until the first comes back",
            ports.blocked_rate,
            ports.steady()
        ));
    }
    text.push_str("; how many it has is seen when it begins anew");
    text
}

/// What the sockets take.
pub fn memory(margins: &Margins) -> String {
    let sockets = counted(margins.sockets, "sockets");
    format!("{sockets} in TIME_WAIT: {} KiB at most", margins.bytes.div_ceil(1024))
}

/// How far the ports suffice.
fn ports_margin(ports: &Pressure) -> String {
    if !ports.is_complete() || ports.is_fixed() {
        return named_margin(ports);
    }
    let open = match ports.open {
        None => "how many are open is not known".to_owned(),
        Some(open) => format!("{} are open", open.ports),
    };
    // Of calls that fail none gets stuck, and there is nothing to settle.
    let comes = if ports.failing() {
        format!("{:.1}/s are wanted", PerSecond(ports.wanted))
    } else {
        let rate = PerSecond(ports.stuck_rate());
        format!("{rate:.1}/s get stuck, which settles at {:.0}", ports.steady())
    };
    let fit = match ports.highest_rate() {
        f64::INFINITY => "the program takes its own over at once".to_owned(),
        rate => format!("{:.1}/s fit", PerSecond(rate)),
    };
    let mut text = format!(
        "{}: of {} ports {:.0} are stuck {} and {open}; {comes}; {fit}",
        ports.triple(),
        ports.usable,
        ports.stuck,
        stuck_how(ports),
    );
    let bound = ports.holders.of(Holder::Bound);
    if bound > 0.0 {
        text.push_str(&format!("; {bound:.0} are held by what others bound first"));
    }
    match ports.exhaustion {
        // What is held for a second only may be free again a moment after it was wanted.
        Exhaustion::Now if ports.used_share() < WORTH_A_LOOK => {
            let ago = ports.failed_ago.map_or(String::new(), |ago| format!(" {ago:.0} s ago"));
            text.push_str(&format!("; calls found none{ago}"));
        }
        Exhaustion::Now => text.push_str("; none is left"),
        Exhaustion::In(seconds) => text.push_str(&format!("; none is left in {seconds:.0} s")),
        Exhaustion::Never => {}
    }
    if ports.sources > 1 {
        text.push_str(&format!("; shortest of {} source addresses", ports.sources));
    }
    text
}

/// In what most of the stuck ports are, and why they stay.
fn stuck_how(ports: &Pressure) -> &'static str {
    match ports.holder() {
        Some(Holder::NoTimestamps) => "in TIME_WAIT, for want of timestamps,",
        Some(Holder::Forbidden) => "in TIME_WAIT, as tcp_tw_reuse has it,",
        Some(Holder::Young) => "for being younger than the reuse delay",
        Some(Holder::FinWait2) => "in FIN_WAIT2",
        Some(Holder::Assumed) => "in TIME_WAIT, as is assumed,",
        _ => "in TIME_WAIT",
    }
}

/// How far the buckets suffice.
fn buckets_margin(buckets: &Buckets) -> String {
    let mut text = format!(
        "{} of {} TIME_WAIT sockets (tcp_max_tw_buckets), {:.1} %; {:.1}/s come, which settles at \
         {:.0}",
        buckets.live,
        buckets.max,
        buckets.used_share() * 100.0,
        buckets.rate,
        buckets.steady
    );
    match buckets.exhaustion {
        Exhaustion::Now => text.push_str("; none is left"),
        Exhaustion::In(seconds) => text.push_str(&format!("; full in {seconds:.0} s")),
        Exhaustion::Never => {}
    }
    match buckets.overflow {
        0 => text.push_str("; none overflowed"),
        overflow => text.push_str(&format!("; {overflow} overflowed")),
    }
    text
}

/// How far connection tracking suffices.
fn conntrack_margin(tracking: &Tracking) -> String {
    let Conntrack { count, max, time_wait_s, .. } = tracking.now;
    let mut text = format!("{count} of {max} entries (nf_conntrack_max)");
    match tracking.growth {
        None => {}
        Some(growth) if growth >= 0.0 => text.push_str(&format!(", {growth:.1}/s more")),
        Some(growth) => text.push_str(&format!(", {:.1}/s less", -growth)),
    }
    match tracking.exhaustion {
        Exhaustion::Now => text.push_str("; none is left"),
        Exhaustion::In(seconds) => text.push_str(&format!("; full in {seconds:.0} s")),
        Exhaustion::Never => {}
    }
    match tracking.dropped {
        Some(0) | None => {}
        Some(dropped) => {
            text.push_str(&format!("; {} dropped of late", counted(dropped, "packets")))
        }
    }
    text.push_str(&format!("; its own TIME_WAIT lasts {time_wait_s} s and is not the sockets'"));
    text
}

/// The settings that matter, as `sysctl` names them.
fn settings(facts: &NamespaceFacts) -> String {
    let words = facts.settings().into_iter().map(|(name, value)| format!("{name}={value}"));
    words.collect::<Vec<_>>().join(" ")
}
