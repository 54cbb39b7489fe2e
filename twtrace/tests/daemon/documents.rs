//! Whole answers.

use serde_json::{Value, json};
use twtrace_common::EndReason;

use crate::{
    harness::{Harness, ask},
    made_up::{end, entry, peers},
};

/// Three peers, of which the second is the busiest.
fn busy() -> Harness {
    let harness = Harness::start(|_| {});
    let mut events = Vec::new();
    for (id, remote) in ["10.1.0.1", "10.1.0.2", "10.1.0.2", "2001:db8::2"].iter().enumerate() {
        events.push(entry(id as u64 + 1, remote, id == 0));
    }
    events.push(end(&events[0], EndReason::Reused));
    harness.happen(events);
    harness
}

fn names(document: &Value) -> Vec<&str> {
    let peers = document["peers"].as_array().expect("rows");
    peers.iter().filter_map(|peer| peer["peer"].as_str()).collect()
}

#[test]
fn rows_come_sorted_and_page_by_page() {
    let harness = busy();
    let all = harness.document("/v1/peers?sort=entered");
    assert_eq!(names(&all), ["10.1.0.2:8080", "10.1.0.1:8080", "[2001:db8::2]:8080"]);
    assert_eq!(all["peers_total"], 3);
    assert_eq!(names(&harness.document("/v1/peers?top=1&skip=1")), ["10.1.0.1:8080"]);
    assert_eq!(names(&harness.document("/v1/peers?sort=fast&top=1")), ["10.1.0.1:8080"]);
    assert!(names(&harness.document("/v1/peers?skip=3")).is_empty());
}

#[test]
fn a_summary_accounts_for_the_rows_it_leaves_out() {
    let harness = busy();
    let document = harness.document("/v1/summary?top=1&skip=1");
    assert_eq!(names(&document), ["10.1.0.1:8080"]);
    assert_eq!(document["totals"]["entered"], 4);
    assert_eq!(document["other"]["entered"], 3, "the row before it and the one behind");
    assert_eq!(document["other"]["peers"], 2);
}

#[test]
fn a_filter_chooses_rows_and_the_others_are_summed_up() {
    let harness = busy();
    // One of its two sockets had timestamps, so that the row answers for neither.
    harness.happen(vec![entry(5, "10.1.0.2", true)]);
    let one = harness.document("/v1/summary?filter=dst+10.1.0.1");
    assert_eq!(names(&one), ["10.1.0.1:8080"]);
    let clear = json!({ "filter": "dst 10.1.0.1", "rows": 1, "open_rows": 0, "open_by": [] });
    assert_eq!(one["row_filter"], clear);
    assert_eq!((&one["totals"]["entered"], &one["other"]["entered"]), (&json!(5), &json!(4)));
    assert_eq!((&one["other"]["peers"], &one["peers_total"]), (&json!(2), &json!(3)));

    let some = harness.document("/v1/peers?filter=timestamps&sort=peer&top=1&skip=1");
    assert_eq!(names(&some), ["10.1.0.2:8080"]);
    let open = json!({
        "filter": "timestamps", "rows": 2, "open_rows": 1, "open_by": ["timestamps"],
    });
    assert_eq!(some["row_filter"], open, "the page is one of two, and its row is open");

    let both = harness.document("/v1/peers?filter=not+dst+10.1.0.0/16&peer=10.1.0.2");
    assert!(names(&both).is_empty(), "{both:#}");
    assert_eq!(both["row_filter"]["rows"], 0);
    assert!(harness.document("/v1/peers").get("row_filter").is_none());

    let mut summaries = harness.stream("/v1/summaries?filter=dst+10.1.0.1");
    assert_eq!(names(&summaries.line()), ["10.1.0.1:8080"]);
    let diagnosis = harness.document("/v1/diagnosis?filter=dst+10.1.0.1");
    assert_eq!(diagnosis["histories"].as_array().map(Vec::len), Some(1));
    assert_eq!(diagnosis["row_filter"], clear);
}

#[test]
fn a_peer_is_found_by_address_with_port_or_without() {
    let harness = busy();
    for target in ["/v1/peers/10.1.0.2:8080", "/v1/peers/10.1.0.2", "/v1/peers?peer=10.1.0.2"] {
        let document = harness.document(target);
        assert_eq!(names(&document), ["10.1.0.2:8080"], "{target}");
        assert_eq!(document["peers"][0]["blocked"]["no_peer_timestamps"], 2);
    }
    let v6 = harness.document("/v1/peers/%5B2001:db8::2%5D:8080");
    assert_eq!(names(&v6), ["[2001:db8::2]:8080"]);
    let history = harness.document("/v1/peers/10.1.0.2:8080/history");
    assert_eq!(history["histories"][0]["peer"], "10.1.0.2:8080");
    assert!(history["histories"][0]["without_timestamps"]["first"].is_string());
}

#[test]
fn what_is_wrong_is_answered_with_a_sentence_and_the_right_status() {
    let harness = busy();
    for (target, status, words) in [
        ("/v1/peers/10.7.7.7", 404, "nothing is known of 10.7.7.7"),
        ("/v1/peers/server", 400, "server is no peer"),
        ("/v1/peers?top=1001", 400, "at most 1000"),
        ("/v1/peers?filter=uid+0", 400, "uid is known of each socket"),
        ("/v1/peers?filter=dst", 400, "expected"),
        ("/v1/status?verbose=1", 400, "this takes none"),
        ("/v1/nothing", 404, "/v1/openapi.json"),
        ("/", 404, "/v1/openapi.json"),
        ("/v1/peers/%ff", 400, "not UTF-8"),
        ("/v1/summaries?interval=1ms", 400, "at least 250ms"),
        ("/v1/findings?severity=bad", 400, "notice, warning or critical"),
    ] {
        let reply = harness.get(target);
        assert_eq!(reply.status, status, "{target}: {}", reply.text());
        let error = reply.json()["error"].as_str().expect("a sentence").to_owned();
        assert!(error.contains(words), "{target}: {error}");
    }
}

#[test]
fn nothing_but_reading_is_possible() {
    let harness = busy();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let request = format!(
            "{method} /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\
             Connection: close\r\n\r\nbody"
        );
        let reply = ask(harness.connect(), &request);
        assert_eq!(reply.status, 405, "{method}: {}", reply.text());
        assert!(reply.head.to_lowercase().contains("allow: get, head"), "{}", reply.head);
    }
    let request = "HEAD /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let reply = ask(harness.connect(), request);
    assert_eq!((reply.status, reply.body.len()), (200, 0));
}

#[test]
fn over_tcp_there_is_only_what_monitoring_needs() {
    let harness = busy();
    let get = |target: &str| {
        let stream = std::net::TcpStream::connect(harness.tcp).expect("the server listens");
        ask(
            stream,
            &format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        )
    };
    assert_eq!(get("/healthz").text(), "ok\n");
    assert!(get("/metrics").text().contains("twtrace_entered_total"));
    for target in ["/v1/status", "/v1/events", "/v1/peers", "/"] {
        assert_eq!(get(target).status, 404, "{target}");
    }
}

#[test]
fn findings_can_be_narrowed_to_a_peer_and_to_how_bad_they_are() {
    let harness = Harness::start(|_| {});
    // Nobody sends timestamps, so nothing can be taken over, and no port is left: TW001 is
    // about this peer.
    harness.happen((1..=28_232).map(|id| entry(id, "10.1.0.2", false)).collect());
    let all = harness.document("/v1/findings");
    let ids = |document: &Value| -> Vec<String> {
        let findings = document["findings"].as_array().expect("findings");
        findings.iter().map(|finding| finding["id"].to_string()).collect()
    };
    assert!(ids(&all).contains(&"\"TW001\"".to_owned()), "{all:#}");
    let of_peer = harness.document("/v1/findings?peer=10.1.0.2:8080&severity=notice");
    assert!(ids(&of_peer).contains(&"\"TW001\"".to_owned()), "{of_peer:#}");
    assert!(ids(&harness.document("/v1/findings?peer=10.1.0.3")).is_empty());
    let whole = harness.document("/v1/diagnosis?top=0");
    assert_eq!(whole["findings"].as_array().map(Vec::len), Some(ids(&all).len()));
    assert_eq!(whole["histories"], json!([]));
}

#[test]
fn a_page_of_a_crowd_is_bounded() {
    let harness = Harness::start(|_| {});
    harness.happen(peers(5000));
    let document = harness.document("/v1/summary?top=1000");
    assert_eq!(names(&document).len(), 1000);
    assert_eq!(document["totals"]["entered"], 5000);
    assert_eq!(document["other"]["entered"], 4000);
    assert_eq!(names(&harness.document("/v1/summary")).len(), 100);
}
