//! Clients that mean no good, or do no good. Whatever they do, others are answered, the counts
//! are exact, and the server ends without a panic (which dropping the harness checks).

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};

use proptest::prelude::*;
use twtrace::daemon::places::Quota;

use crate::{
    harness::{Harness, ask, read},
    made_up::{entry, peers},
};

/// Bytes after which a reader has enough of what should have ended: a stream that is not broken off
/// goes on for ever.
const ENOUGH: u64 = 16 << 20;

/// Reads to the end; a reset is as good an end as another.
fn drain(stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.take(ENOUGH).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 == ENOUGH => panic!("the server did not end the connection"),
        Ok(_) => bytes,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => bytes,
        Err(error) => panic!("the server did not end the connection: {error}"),
    }
}

#[test]
fn a_request_that_never_comes_to_its_end_is_given_up() {
    let harness = Harness::start(|config| config.request_time = Duration::from_millis(200));
    let mut half = harness.connect();
    half.write_all(b"GET /v1/status HTT").expect("the server takes it");
    let silent = harness.connect();
    assert_eq!(harness.get("/healthz").status, 200, "others are answered meanwhile");
    drain(&half);
    drain(&silent);
}

#[test]
fn a_connection_that_is_kept_and_not_used_is_closed() {
    let harness = Harness::start(|config| config.request_time = Duration::from_millis(200));
    let mut kept = harness.connect();
    kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").expect("the server takes it");
    let all = drain(&kept);
    assert!(String::from_utf8_lossy(&all).ends_with("ok\n"), "{all:?}");
}

#[test]
fn a_header_without_end_is_refused() {
    let harness = Harness::start(|_| {});
    let mut stream = harness.connect();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ").expect("taken");
    let filler = [b'a'; 4096];
    // The server stops reading at some point; then writing fails, or what it said can be read.
    while stream.write_all(&filler).is_ok() {}
    let said = String::from_utf8_lossy(&drain(&stream)).into_owned();
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 431"), "{said}");
    let many: String = (0..100).map(|n| format!("X-{n}: a\r\n")).collect();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    let mut stream = harness.connect();
    stream.write_all(request.as_bytes()).expect("the server takes it");
    assert_eq!(read(stream).status, 431, "a hundred headers");
}

#[test]
fn who_listens_and_leaves_gives_the_place_back_though_more_was_sent_than_asked() {
    const PLACES: u64 = 8;
    let harness = Harness::start(|config| config.max_connections = PLACES as usize);
    for target in ["/v1/events", "/v1/feed", "/v1/summaries?interval=1h"] {
        for behind in ["", "X", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n{behind}");
            for _ in 0..PLACES / 2 {
                let mut stream = harness.connect();
                stream.write_all(request.as_bytes()).expect("the server takes it");
                let mut begun = [0; 12];
                stream.read_exact(&mut begun).expect("it is told");
                assert_eq!(&begun, b"HTTP/1.1 200", "{request:?}");
            }
            // Nothing happens that could be told.
            harness.await_status("/clients/connected", |connected| connected == 1);
        }
    }
}

#[test]
fn a_thousand_connections_take_no_more_than_the_places_there_are() {
    raise_descriptor_limit();
    let harness = Harness::start(|config| {
        config.max_connections = 16;
        config.request_time = Duration::from_secs(600);
    });
    harness.happen(peers(100));
    let crowd: Vec<_> = (0..1000).map(|_| harness.connect()).collect();
    let mut turned_away = 0;
    // A quarter of the places is that of TCP.
    for stream in crowd.iter().rev().take(1000 - 12) {
        let reply = read(stream);
        assert_eq!(reply.status, 503, "{}", reply.text());
        assert!(reply.json()["error"].as_str().expect("a sentence").contains("max_connections"));
        turned_away += 1;
    }
    assert_eq!(turned_away, 988);
    drop(crowd);
    // The places are given back as the server sees that they are free.
    while harness.get("/healthz").status != 200 {}
    let status = harness.document("/v1/status");
    assert!(status["clients"]["refused"].as_u64() >= Some(988), "{status:#}");
    assert_eq!(harness.document("/v1/summary?top=0")["totals"]["entered"], 100);
}

#[test]
fn a_reader_that_takes_nothing_of_an_answer_is_cut_off() {
    let harness = Harness::start(|config| config.stall_time = Duration::from_millis(200));
    harness.happen(peers(1000));
    let mut stream = harness.connect();
    let request = b"GET /v1/summary?top=1000 HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).expect("the server takes it");
    harness.await_status("/clients/connected", |connected| connected == 2);
    harness.await_status("/clients/connected", |connected| connected == 1);
    let got = drain(&stream);
    assert!(got.len() < 1_000_000, "the answer was longer than what fits the socket's buffer");
}

#[test]
fn those_who_take_all_memory_of_their_kind_keep_nobody_else_waiting() {
    let harness = Harness::start(|config| {
        config.metrics_peers = 10_000;
        let long = Duration::from_secs(600);
        (config.request_time, config.stall_time, config.answer_time) = (long, long, long);
    });
    harness.happen(peers(4000));
    // Each answer is larger than what one address may have, and than what the system takes from the
    // server for a reader who takes nothing.
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(harness.tcp).expect("the server listens");
            let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
            stream.write_all(request).expect("the server takes it");
            stream
        })
        .collect();
    // Each look at the status is a request as well.
    let status = || harness.document("/v1/status")["clients"]["requests"].as_u64();
    while (1..).find_map(|asked| (status()? == 8 + asked).then_some(())).is_none() {}
    let metrics = harness.get("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.len() > 4 << 20, "{} bytes: too few to take much", metrics.body.len());
    assert_eq!(harness.get("/healthz").status, 200);
    let network = TcpStream::connect(harness.tcp).expect("the server listens");
    assert_eq!(read(network).status, 503, "one address has half of the places");
    drop(readers);
}

#[test]
fn an_answer_that_is_taken_too_slowly_is_broken_off() {
    let harness = Harness::start(|config| {
        // Longer than a busy machine keeps the server from its first piece.
        config.answer_time = Duration::from_millis(500);
        config.stall_time = Duration::from_secs(600);
    });
    harness.happen(peers(1000));
    for target in ["/v1/summary?top=1000", "/v1/summaries?top=1000"] {
        let mut stream = harness.connect();
        write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .expect("the server takes it");
        // More than the head, which comes before there is an answer.
        let mut got = vec![0; 16 * 1024];
        stream.read_exact(&mut got).expect("it begins");
        // The system's buffers are full meanwhile, and the time for the rest is over.
        std::thread::sleep(Duration::from_millis(1000));
        got.extend(drain(&stream));
        let text = String::from_utf8_lossy(&got);
        let (head, body) = text.split_once("\r\n\r\n").expect("the head comes");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let whole = length.map_or(1_000_000, |length| length.parse().expect("a number"));
        assert!(body.len() < whole, "{target}: all of {whole} bytes came");
    }
    harness.await_status("/clients/connected", |connected| connected == 1);
}

#[test]
fn a_page_whose_name_was_made_to_lead_here_reads_nothing() {
    let harness = Harness::start(|_| {});
    let asked = |host: &str| {
        let stream = TcpStream::connect(harness.tcp).expect("the server listens");
        ask(stream, &format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    };
    assert_eq!(asked(&harness.tcp.to_string()).status, 200);
    assert_eq!(asked("localhost").status, 200);
    let refused = asked(&format!("evil.example:{}", harness.tcp.port()));
    assert_eq!(refused.status, 421, "{}", refused.text());
    assert!(refused.text().contains("listen_names"), "{}", refused.text());
    assert_eq!(harness.get("/metrics").status, 200, "the socket has no name that could lie");
}

#[test]
fn a_reader_of_events_that_does_not_keep_up_is_dropped_with_a_count_and_told_so() {
    let harness = Harness::start(|_| {});
    let mut slow = harness.stream("/v1/events");
    let mut happened = 0;
    for round in 0..40_u64 {
        let events: Vec<_> =
            (1..=2000).map(|id| entry(round * 2000 + id, "10.1.0.1", true)).collect();
        happened += events.len();
        harness.happen(events);
    }
    harness.await_status("/clients/dropped", |dropped| dropped == 1);
    let totals = &harness.document("/v1/summary")["totals"];
    assert_eq!(totals["entered"], happened, "not one count the less");
    let error = loop {
        match slow.chunk() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a transfer that lacks events must not end as if it were whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    harness.await_status("/clients/connected", |connected| connected == 1);
}

#[test]
fn new_limits_hold_for_new_connections() {
    let harness = Harness::start(|_| {});
    let mut limits = *harness.limits.borrow();
    limits.connections = Quota { local: 4, network: 4 };
    harness.limits.send(limits).expect("the server listens");
    let streams: Vec<_> = (0..4).map(|_| harness.stream("/v1/events")).collect();
    assert_eq!(read(harness.connect()).status, 503);
    drop(streams);
    while harness.get("/healthz").status != 200 {}
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_garbage_harms_anybody(
        requests in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..600),
            "(GET|HEAD|FOO) /[a-z0-9/%?=&.:\\[\\]]{0,40} HTTP/1.[01]\r\n(Host: x\r\n)?\r\n"
                .prop_map(String::into_bytes),
            "GET /v1/peers\\?(sort|top|skip|peer)=[a-zA-Z0-9%:+.-]{0,30} HTTP/1.1\r\n\
             Connection: close\r\n\r\n".prop_map(String::into_bytes),
            "GET /v1/peers/[^\r\n ]{0,40} HTTP/1.1\r\n\r\n".prop_map(String::into_bytes),
        ], 1..20),
    ) {
        let harness = Harness::start(|config| config.request_time = Duration::from_millis(100));
        harness.happen(peers(3));
        for request in &requests {
            let mut stream = harness.connect();
            // It may have closed at the first wrong byte.
            let _ = stream.write_all(request);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            drain(&stream);
        }
        prop_assert_eq!(harness.get("/healthz").status, 200);
        prop_assert_eq!(&harness.document("/v1/summary")["totals"]["entered"], 3);
    }
}

/// A thousand connections are two thousand descriptors, both ends being in this process.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("up to the maximum anybody may");
}
