//! `/metrics`: counts, limits and findings for monitoring systems.
//!
//! Cardinality is bounded: peers by configuration, namespaces and triples by what the host's facts
//! are read of, and no label ever holds a local port.

mod exposition;
mod shown;

use std::{collections::BTreeMap, time::SystemTime};

pub use exposition::Dialect;
pub use shown::{Line, Shown};

use self::exposition::{Exposition, FamilyKind, Labels};
use crate::{
    agent::Agent,
    attached::Types,
    diagnose::egress::EgressMargin,
    failures::Cause,
    needs::Needs,
    owner::Owner,
    path::{Block, Outcome},
    peer::Refused,
    summary::{LIFETIME_BOUNDS_MS, Summary},
    trust::{DOUBTS, Metric},
};

/// Writes all metrics. `lines` are the peers shown, from [`Shown::take`].
pub fn text(summary: &Summary, lines: &[Line], agent: &Agent, dialect: Dialect) -> Vec<u8> {
    let mut out = Exposition::new(dialect);
    build(&mut out, summary);
    by_peer(&mut out, lines, summary.types);
    whole(&mut out, summary, agent.status.since());
    namespaces(&mut out, summary);
    findings(&mut out, summary);
    trust(&mut out, summary, agent.status.since());
    cost(&mut out, agent);
    out.finish()
}

fn build(out: &mut Exposition, summary: &Summary) {
    out.family(FamilyKind::Info, "twtrace_build", "", "The program.").info(&[
        ("version", &env!("CARGO_PKG_VERSION")),
        ("bpf_toolchain", &env!("TWTRACE_BPF_TOOLCHAIN")),
    ]);
    out.family(FamilyKind::Info, "twtrace_backend", "", "How the kernel programs are attached.")
        .info(&[("backend", &summary.backend)]);
}

/// Calls `show` with each line and its labels.
fn each(lines: &[Line], mut show: impl FnMut(&Line, Labels<'_>)) {
    for line in lines {
        match line.group {
            None => show(line, &[("peer", &"other")]),
            Some(group) => {
                let role = group.role().map_or("", |role| role.as_str());
                let netns = group.netns().unwrap_or(0);
                show(line, &[("peer", &group), ("role", &role), ("netns", &netns)]);
            }
        }
    }
}

/// Labels and more labels.
fn and<'a>(labels: Labels<'a>, more: Labels<'a>) -> Vec<(&'a str, &'a dyn std::fmt::Display)> {
    labels.iter().chain(more).copied().collect()
}

fn by_peer(out: &mut Exposition, lines: &[Line], types: Types) {
    let help = "Sockets that entered TIME_WAIT, or FIN_WAIT2 as a mini-socket. The peer other is \
                all peers while they are not shown by themselves.";
    let mut entered = out.family(FamilyKind::Counter, "twtrace_entered", "", help);
    each(lines, |line, labels| entered.counter(labels, line.counts.entered, line.created));
    let help = "Sockets that ended, by path (fast: before 2MSL; two_msl; other) and reason.";
    let mut ended = out.family(FamilyKind::Counter, "twtrace_ended", "", help);
    each(lines, |line, labels| {
        for outcome in Outcome::ALL {
            let count = line.counts.outcome(outcome);
            // No kernel since 4.12 recycles.
            if outcome != Outcome::Recycled || count > 0 {
                let more: Labels<'_> =
                    &[("path", &outcome.class().key()), ("reason", &outcome.key())];
                ended.counter(&and(labels, more), count, line.created);
            }
        }
    });
    let help = "Entries whose fast path was closed, by the first reason that holds.";
    let mut blocked = out.family(FamilyKind::Counter, "twtrace_blocked", "", help);
    // Where it is not known, there is nothing to tell.
    let lines_known = if types.are_known() { lines } else { &[] };
    each(lines_known, |line, labels| {
        for block in Block::ALL {
            let more: Labels<'_> = &[("reason", &block.key())];
            blocked.counter(&and(labels, more), line.counts.blocked(block), line.created);
        }
    });
    let help = "connect() calls that found no port, or theirs busy, by reason.";
    let mut failed = out.family(FamilyKind::Counter, "twtrace_failed", "", help);
    each(lines, |line, labels| {
        for cause in [Cause::NoPort, Cause::PortBusy] {
            let more: Labels<'_> = &[("reason", &cause.key())];
            failed.counter(&and(labels, more), line.counts.failed.of(cause), line.created);
        }
    });
    let help = "Sockets in TIME_WAIT now, or in FIN_WAIT2 as mini-sockets.";
    let mut live = out.family(FamilyKind::Gauge, "twtrace_live", "", help);
    each(lines, |line, labels| live.gauge(labels, line.live));
}

/// What is told of all peers together.
fn whole(out: &mut Exposition, summary: &Summary, since: SystemTime) {
    let totals = &summary.totals;
    let bounds = LIFETIME_BOUNDS_MS.map(|millis| millis as f64 / 1000.0);
    let help = "How long ended sockets lived; each was put into its bucket to within 3.2 %.";
    out.family(FamilyKind::Histogram, "twtrace_lifetime_seconds", "seconds", help).histogram(
        &bounds,
        &totals.lifetime_buckets,
        totals.lifetime_sum_ms as f64 / 1000.0,
        since,
    );
    let help = "Sockets that were in TIME_WAIT already when counting began.";
    out.family(FamilyKind::Gauge, "twtrace_present_at_start", "", help)
        .gauge(&[], totals.counts.present);
    let help = "Peers told apart.";
    out.family(FamilyKind::Gauge, "twtrace_peers", "", help).gauge(&[], summary.peers);
    let help = "Peers that gave their place away; what they counted is kept under other.";
    out.family(FamilyKind::Counter, "twtrace_peers_evicted", "", help).counter(
        &[],
        summary.peers_evicted,
        since,
    );
    // What the backend cannot see is left out: it is not 0.
    if summary.known().has(Needs::REFUSALS) {
        let help = "Takeovers by connect() that were refused, by reason.";
        let mut refused = out.family(FamilyKind::Counter, "twtrace_refused", "", help);
        for (reason, count) in Refused::KEYS.iter().zip(totals.counts.refused.by_reason) {
            refused.counter(&[("reason", reason)], count, since);
        }
    }
    if let Some(failed) = summary.failed.as_ref().filter(|_| summary.known().has(Needs::BINDS)) {
        let help = "bind() calls that were refused, the address being in use.";
        let mut refused = out.family(FamilyKind::Counter, "twtrace_binds_refused", "", help);
        // From 0 on, so that the first one is seen to be more.
        let followed = summary.examined.iter().flat_map(|all| &all.diagnosis.margins.namespaces);
        let none = followed.map(|namespace| (namespace.netns, 0));
        let counts: BTreeMap<u32, u64> =
            none.chain(failed.refused.iter().map(|(netns, count)| (*netns, *count))).collect();
        for (netns, count) in counts {
            refused.counter(&[("netns", &netns)], count, since);
        }
    }
    if summary.known().has(Needs::OVERFLOW) {
        let help = "Connections that closed without a TIME_WAIT socket, tcp_max_tw_buckets being \
                    reached.";
        out.family(FamilyKind::Counter, "twtrace_overflow", "", help).counter(
            &[],
            totals.counts.overflow,
            since,
        );
    }
}

/// Limits by network namespace.
fn namespaces(out: &mut Exposition, summary: &Summary) {
    let Some(examined) = &summary.examined else { return };
    let all = &examined.diagnosis.margins.namespaces;
    let owners = summary.owners.read();
    let names = all.iter().filter_map(|namespace| {
        let name = summary.netns_names.get(&namespace.netns);
        let owner = owners.of_netns(namespace.netns, 0).map(|known| &*known.owner);
        (name.is_some() || owner.is_some()).then_some((namespace.netns, name, owner))
    });
    let names: Vec<_> = names.collect();
    if !names.is_empty() {
        let help = "Name of a network namespace, by the number that other metrics have, and whose it \
                    is, with all that is in it: a systemd unit, a container, a pod.";
        let mut info = out.family(FamilyKind::Info, "twtrace_netns", "", help);
        for (netns, name, owner) in &names {
            let of = |part: fn(&Owner) -> Option<&str>| owner.and_then(part).unwrap_or("");
            info.info(&[
                ("netns", netns),
                ("name", &name.map_or("", String::as_str)),
                ("owner", &of(|owner| Some(&owner.name))),
                ("pod", &of(|owner| owner.pod.as_deref())),
                ("namespace", &of(|owner| owner.namespace.as_deref())),
                ("container", &of(|owner| owner.container.as_deref())),
            ]);
        }
    }
    let ports: Vec<_> = all
        .iter()
        .filter_map(|namespace| Some((namespace.netns, namespace.ports.as_ref()?)))
        .collect();
    if !ports.is_empty() {
        let help = "Ports taken of the triple of each network namespace that is shortest of them: \
                    in TIME_WAIT and not to be taken over, open, or listening.";
        let mut used = out.family(FamilyKind::Gauge, "twtrace_ports_used", "", help);
        for (netns, ports) in &ports {
            let labels: Labels<'_> =
                &[("source", &ports.space.local), ("peer", &ports.peer), ("netns", netns)];
            used.gauge(labels, ports.used().round());
        }
        let help = "Ports that triple may use.";
        let mut limit = out.family(FamilyKind::Gauge, "twtrace_ports_limit", "", help);
        for (netns, ports) in &ports {
            let labels: Labels<'_> =
                &[("source", &ports.space.local), ("peer", &ports.peer), ("netns", netns)];
            limit.gauge(labels, ports.usable);
        }
    }
    let egress = &examined.diagnosis.margins.egress;
    if !egress.is_empty() {
        let help = "Ports of a shared address held towards a destination, estimated: open, or closed here \
                    within the time that one is held.";
        let mut used = out.family(FamilyKind::Gauge, "twtrace_egress_ports_used", "", help);
        let labels = |margin: &EgressMargin| [margin.label(), margin.target()];
        for margin in egress {
            let [number, to] = labels(margin);
            used.gauge(&[("egress", &number), ("to", &to)], margin.all.now().round());
        }
        let help = "Ports there are.";
        let mut limit = out.family(FamilyKind::Gauge, "twtrace_egress_ports_limit", "", help);
        for margin in egress {
            let [number, to] = labels(margin);
            limit.gauge(&[("egress", &number), ("to", &to)], margin.ports);
        }
    }
    let buckets: Vec<_> =
        all.iter().filter_map(|namespace| Some((namespace.netns, namespace.buckets?))).collect();
    if !buckets.is_empty() {
        let help = "TIME_WAIT sockets of a network namespace, by the kernel's own count.";
        let mut used = out.family(FamilyKind::Gauge, "twtrace_time_wait_buckets_used", "", help);
        buckets.iter().for_each(|(netns, buckets)| used.gauge(&[("netns", netns)], buckets.live));
        let help = "The most there may be: tcp_max_tw_buckets.";
        let mut limit = out.family(FamilyKind::Gauge, "twtrace_time_wait_buckets_limit", "", help);
        buckets.iter().for_each(|(netns, buckets)| limit.gauge(&[("netns", netns)], buckets.max));
    }
}

/// What is wrong now.
fn findings(out: &mut Exposition, summary: &Summary) {
    let Some(examined) = &summary.examined else { return };
    let mut counts = std::collections::BTreeMap::new();
    for finding in &examined.diagnosis.findings {
        *counts.entry((finding.id, finding.severity)).or_insert(0_u64) += 1;
    }
    if counts.is_empty() {
        return;
    }
    let help = "What is wrong now, by the finding's stable name.";
    let mut family = out.family(FamilyKind::Gauge, "twtrace_findings", "", help);
    for ((id, severity), count) in &counts {
        family.gauge(&[("id", id), ("severity", &severity.as_str())], count);
    }
}

/// How far the counts can be trusted.
fn trust(out: &mut Exposition, summary: &Summary, since: SystemTime) {
    for doubt in DOUBTS {
        let Some(count) = doubt.known(&summary.trust, summary.known()) else { continue };
        match doubt.metric {
            Some(Metric::Counter(name)) => {
                out.family(FamilyKind::Counter, name, "", doubt.sentence).counter(
                    &[],
                    count,
                    since,
                );
            }
            Some(Metric::Gauge(name)) => {
                out.family(FamilyKind::Gauge, name, "", doubt.sentence).gauge(&[], count);
            }
            None => {}
        }
    }
}

/// What the agent costs, and who asks it.
fn cost(out: &mut Exposition, agent: &Agent) {
    let (status, process, clients) = (&agent.status, &agent.process, &agent.clients);
    let since = status.since();
    let counted: Vec<_> =
        status.programs.iter().filter_map(|program| Some((program.name, program.runs?))).collect();
    if !counted.is_empty() {
        let help = "Runs of a kernel program.";
        let mut runs = out.family(FamilyKind::Counter, "twtrace_bpf_runs", "", help);
        counted.iter().for_each(|(name, (count, _))| {
            runs.counter(&[("program", name)], count, since);
        });
        let help = "Time spent in a kernel program.";
        let mut time = out.family(FamilyKind::Counter, "twtrace_bpf_run_seconds", "seconds", help);
        counted.iter().for_each(|(name, (_, nanoseconds))| {
            time.counter(&[("program", name)], *nanoseconds as f64 / 1e9, since);
        });
    }
    let help = "Connections to the API now.";
    out.family(FamilyKind::Gauge, "twtrace_api_connections", "", help)
        .gauge(&[], clients.connected);
    let counters = [
        ("twtrace_api_requests", "Requests to the API.", clients.requests),
        (
            "twtrace_api_refused",
            "Connections refused, max_connections being reached.",
            clients.refused,
        ),
        (
            "twtrace_api_dropped",
            "Readers of a stream that were dropped because they did not keep up.",
            clients.dropped,
        ),
    ];
    for (name, help, count) in counters {
        out.family(FamilyKind::Counter, name, "", help).counter(&[], count, since);
    }
    let help = "CPU time of the agent, in user and kernel mode.";
    out.family(FamilyKind::Counter, "process_cpu_seconds", "seconds", help).counter(
        &[],
        process.cpu_seconds,
        since,
    );
    if let Some(bytes) = process.resident_bytes {
        let help = "Memory of the agent that is in RAM.";
        out.family(FamilyKind::Gauge, "process_resident_memory_bytes", "bytes", help)
            .gauge(&[], bytes);
    }
    if let Some(open) = process.open_fds {
        let help = "Descriptors that are open.";
        out.family(FamilyKind::Gauge, "process_open_fds", "", help).gauge(&[], open);
    }
}
