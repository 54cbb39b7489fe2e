//! What Prometheus reads.

use std::collections::HashMap;

use twtrace_common::EndReason;

use crate::{
    harness::{Harness, ask},
    made_up::{end, entry, peers},
    owner::own_netns,
};

/// Samples by name and labels.
fn scrape(harness: &Harness) -> HashMap<String, f64> {
    let text = harness.get("/metrics").text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

fn of_peer(family: &str, peer: &str) -> String {
    format!("{family}{{peer=\"{peer}\",role=\"client\",netns=\"{}\"}}", own_netns())
}

#[test]
fn counts_are_told_by_peer_path_and_reason() {
    let harness = Harness::start(|_| {});
    let sockets: Vec<_> = (1..=5).map(|id| entry(id, "10.1.0.1", id > 2)).collect();
    let mut events = sockets.clone();
    events.push(end(&sockets[0], EndReason::Reused));
    events.push(end(&sockets[1], EndReason::Expired));
    harness.happen(events);
    let samples = scrape(&harness);
    let peer = "10.1.0.1:8080";
    assert_eq!(samples[&of_peer("twtrace_entered_total", peer)], 5.0);
    assert_eq!(samples[&of_peer("twtrace_live", peer)], 3.0);
    let ended = |path: &str, reason: &str| {
        let labels = format!(",path=\"{path}\",reason=\"{reason}\"}}");
        samples[&of_peer("twtrace_ended_total", peer).replace('}', &labels)]
    };
    assert_eq!((ended("fast", "reused"), ended("two_msl", "two_msl")), (1.0, 1.0));
    assert_eq!(ended("other", "killed"), 0.0);
    assert_eq!(samples["twtrace_lifetime_seconds_count"], 2.0);
    assert_eq!(samples["twtrace_lifetime_seconds_sum"], 3.0);
    assert_eq!(samples["twtrace_lifetime_seconds_bucket{le=\"1.0\"}"], 0.0);
    assert_eq!(samples["twtrace_lifetime_seconds_bucket{le=\"2.0\"}"], 2.0);
    assert_eq!(samples["twtrace_events_lost_total"], 0.0);
    assert_eq!(samples["twtrace_refused_total{reason=\"reuse_off\"}"], 0.0);
    assert_eq!(samples["twtrace_backend_info{backend=\"kprobe\"}"], 1.0);
    assert_eq!(samples["twtrace_bpf_runs_total{program=\"counted\"}"], 7.0);
    assert!(!samples.contains_key("twtrace_bpf_runs_total{program=\"not_counted\"}"));
    assert!(samples["process_resident_memory_bytes"] > 1e6);
    assert!(samples.keys().all(|name| !name.contains("40000")), "no local port in a label");
}

#[test]
fn each_client_is_given_its_format() {
    let harness = Harness::start(|_| {});
    let get = |accept: &str| {
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        );
        ask(harness.connect(), &request)
    };
    let open = get("application/openmetrics-text; version=1.0.0");
    assert!(open.head.contains("application/openmetrics-text; version=1.0.0"), "{}", open.head);
    assert!(open.text().ends_with("# EOF\n") && open.text().contains("twtrace_entered_created"));
    let plain = get("*/*");
    assert!(plain.head.contains("text/plain; version=0.0.4"), "{}", plain.head);
    assert!(!plain.text().contains("_created"));
}

#[test]
fn the_series_stay_few_and_what_they_count_adds_up_whoever_is_shown() {
    let harness = Harness::start(|config| config.metrics_peers = 3);
    let entered = |samples: &HashMap<String, f64>| -> HashMap<String, f64> {
        let of_family =
            samples.iter().filter(|(name, _)| name.starts_with("twtrace_entered_total"));
        of_family.map(|(name, value)| (name.clone(), *value)).collect()
    };
    let mut id = 0;
    let mut happened = 0;
    let mut before: HashMap<String, f64> = HashMap::new();
    let mut increased = 0.0;
    // Ten peers that take turns in being the busiest, so that those shown change all the time.
    for round in 0..30_u64 {
        let busy = round % 10;
        let events: Vec<_> = (0..20 + round)
            .map(|n| {
                id += 1;
                let peer = if n % 4 == 0 { (busy + 1) % 10 } else { busy };
                entry(id, &format!("10.1.0.{peer}"), true)
            })
            .collect();
        happened += events.len();
        harness.happen(events);
        // Another question in between, so that the answer is not that of a moment ago.
        harness.document("/v1/summary?top=0");
        let now = entered(&scrape(&harness));
        assert!(now.len() <= 4, "three peers and the others: {now:?}");
        for (name, value) in &now {
            let old = before.get(name).copied().unwrap_or(0.0);
            if name.contains("\"other\"") {
                assert!(*value >= old, "other went back from {old} to {value}");
            }
            // A counter that is new began at the moment it was created.
            increased += if *value >= old { value - old } else { *value };
        }
        before = now;
    }
    assert_eq!(increased, happened as f64, "every entry was counted in one series, once");
}

#[test]
fn a_crowd_of_peers_makes_no_crowd_of_series() {
    let harness = Harness::start(|_| {});
    harness.happen(peers(2000));
    let text = harness.get("/metrics").text();
    let series = text.lines().filter(|line| line.starts_with("twtrace_entered_total")).count();
    assert_eq!(series, 101);
    assert!(text.contains("twtrace_entered_total{peer=\"other\"} 1900\n"));
}
