//! The event path: records decoded, sockets tracked, rows aggregated.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use twtrace::{
    event::{Batch, BatchBuilder},
    feed::owners::Resolver,
};

use crate::workload::{self, Workload};

/// Playings before anything is measured: rows, sockets and histograms are there by then.
const WARM_UP: u32 = 2;

/// Registers the benchmarks of the event path.
pub fn benchmark(criterion: &mut Criterion) {
    let workload = workload::ALL[0];
    let batches = workload.batches();
    let mut group = criterion.benchmark_group("event path");
    group.throughput(Throughput::Elements(workload.events()));
    group.bench_function("copy out of the ring buffer", |bencher| {
        let mut builder = BatchBuilder::default();
        bencher.iter(|| copy(&batches, &mut builder));
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            for event in batches.iter().flat_map(Batch::events) {
                black_box(&event).as_ref().expect("the workload makes whole records");
            }
        });
    });
    group.bench_function(OWNERS, |bencher| {
        let mut resolver = Resolver::new();
        bencher.iter(|| meet(&batches, &mut resolver));
    });
    for workload in workload::ALL {
        group.throughput(Throughput::Elements(workload.events()));
        group.bench_function(format!("decode, track, aggregate: {}", workload.name), |bencher| {
            let batches = workload.batches();
            let mut aggregate = workload.aggregate();
            (0..WARM_UP).for_each(|_| _ = workload::play(&batches, &mut aggregate));
            bencher.iter(|| workload::play(&batches, &mut aggregate));
        });
    }
    group.finish();
}

/// What the source does with each record that the ring buffer hands out.
fn copy(batches: &[Batch], builder: &mut BatchBuilder) {
    for batch in batches {
        batch.records().for_each(|record| builder.push(record));
        black_box(builder.take());
    }
}

/// What the feed does with each batch before it is taken in.
fn meet(batches: &[Batch], resolver: &mut Resolver) {
    for batch in batches {
        black_box(resolver.meet(batch));
    }
}

/// The name of that, here and for an instrument outside.
const OWNERS: &str = "whose sockets they are";

/// Plays one workload, for an instrument outside. False if there is none of that name.
pub fn instructions(name: &str, times: u32) -> bool {
    if name == OWNERS {
        let (batches, mut resolver) = (workload::ALL[0].batches(), Resolver::new());
        (0..WARM_UP + times).for_each(|_| meet(&batches, &mut resolver));
        return true;
    }
    let found: Option<&Workload> = workload::ALL.iter().find(|workload| workload.name == name);
    let Some(workload) = found else { return false };
    let batches = workload.batches();
    let mut aggregate = workload.aggregate();
    for _ in 0..WARM_UP + times {
        black_box(workload::play(&batches, &mut aggregate));
    }
    true
}
