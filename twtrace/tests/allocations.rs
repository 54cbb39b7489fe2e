//! The event path allocates nothing once rows, sockets and histograms are there; a row that is written
//! next to nothing.

use allocation_counter::measure;
use twtrace::{
    attached::Backend,
    event::{Batch, BatchBuilder},
    feed::Core,
    host::facts::{HostFacts, NamespaceFacts},
    origin::{Input, Moment, Origin},
    summary::{Context, RowChoice, Summary},
    units::{Clock, Hz},
    view,
};

#[path = "../benches/workload.rs"]
mod workload;

#[test]
fn events_of_known_peers_are_folded_in_without_an_allocation() {
    for workload in &workload::ALL[..3] {
        let batches = workload.batches();
        let mut aggregate = workload.aggregate();
        // Each peer has to have ended as many sockets as make a histogram of its lifetimes.
        let playings = 16 * workload.peers / workload.sockets + 2;
        for _ in 0..playings {
            workload::play(&batches, &mut aggregate);
        }
        let mut events = 0;
        let allocated = measure(|| events = workload::play(&batches, &mut aggregate));
        assert_eq!(events, workload.events());
        assert_eq!(allocated.count_total, 0, "{}: {allocated:?}", workload.name);
    }
}

#[test]
fn a_flood_of_peers_allocates_less_than_once_in_a_hundred_events() {
    let flood = workload::Workload { name: "flood", peers: 100_000, sockets: 100_000, live: 512 };
    let batches = flood.batches();
    let mut aggregate = flood.aggregate();
    workload::play(&batches, &mut aggregate);
    assert!(aggregate.table().evicted() > 0, "the table is full");
    let allocated = measure(|| _ = workload::play(&batches, &mut aggregate));
    assert!(allocated.count_total < flood.events() / 100, "{allocated:?}");
}

#[test]
fn records_leave_the_ring_buffer_into_memory_that_is_used_again() {
    let workload = workload::ALL[0];
    let batches = workload.batches();
    let mut builder = BatchBuilder::default();
    let mut copy = |batch: &Batch| {
        batch.records().for_each(|record| builder.push(record));
        builder.take()
    };
    copy(&batches[0]);
    copy(&batches[0]);
    let allocated = measure(|| drop(copy(&batches[0])));
    assert!(allocated.count_total <= 2, "a batch and not a record: {allocated:?}");
}

/// A row that is built as a tree of values first takes a hundred allocations and more.
#[test]
fn a_row_is_written_as_json_with_few_more_allocations_than_as_csv() {
    let workload = workload::ALL[1];
    let mut aggregate = workload.aggregate();
    workload::play(&workload.batches(), &mut aggregate);
    let summary = Summary::new(&aggregate, &RowChoice::default(), Context::bare(Backend::Kprobe));
    let rows = summary.rows.len() as u64;
    assert_eq!(rows, workload.peers as u64);
    let mut sink = std::io::sink();
    let json = measure(|| view::json::write_line(&mut sink, &summary).expect("a sink takes all"));
    let csv = measure(|| view::csv::write(&mut sink, &summary).expect("a sink takes all"));
    assert!(json.count_total <= csv.count_total + rows + 100, "{json:?} {csv:?}");
    assert!(json.bytes_max < 64 << 10, "{json:?}");
}

#[test]
fn a_summary_of_sixty_five_thousand_peers_takes_little_more_than_its_rows() {
    let workload = workload::ALL[2];
    let clock = |mono_ns| Clock { mono_ns, wall: std::time::SystemTime::UNIX_EPOCH };
    let origin = Origin::bare(Backend::Kprobe, clock(1_000_000_000_000), Hz::new(250));
    let mut core = Core::new(origin, workload.aggregate().settings().clone());
    core.take(Input::Ready(1_000_000_000_000), &mut |_| {});
    for batch in workload.batches() {
        core.take(Input::Records(batch), &mut |_| {});
    }
    let namespace =
        NamespaceFacts { port_range: Some(32_768..=60_999), ..NamespaceFacts::default() };
    let facts =
        HostFacts { namespaces: [(4_026_531_840, namespace)].into(), ..HostFacts::default() };
    let moment = Moment { facts: Some(facts), ..Moment::bare(clock(1_010_000_000_000)) };
    core.take(Input::Moment(Box::new(moment)), &mut |_| {});
    let choice = RowChoice { top: Some(0), ..RowChoice::default() };
    let mut peers = 0;
    let allocated = measure(|| peers = core.summary(&choice).expect("there is a moment").peers);
    assert_eq!(peers, 65_536);
    assert!(allocated.bytes_max < 32 << 20, "{allocated:?}");
}
