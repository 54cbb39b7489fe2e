//! The event path allocates nothing once rows, sockets and histograms are there.

use allocation_counter::measure;
use twtrace::event::{Batch, BatchBuilder};

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
