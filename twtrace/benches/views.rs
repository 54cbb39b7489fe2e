//! Each view, and the summary that they are written from.

use std::{
    hint::black_box,
    io,
    time::{Duration, SystemTime},
};

use criterion::{BatchSize, Criterion, Throughput};
use twtrace::{
    agent::{Agent, Clients, Status},
    aggregate::Aggregate,
    attached::Backend,
    event::{Batch, Event},
    host::process::Process,
    summary::{Context, RowChoice, Summary},
    units::Clock,
    view::{
        self, Format,
        events::EventWriter,
        metrics::{Dialect, Shown},
        style::Palette,
    },
};

use crate::workload;

/// Rows of the table as it is shown.
fn table() -> RowChoice {
    RowChoice { top: Some(20), ..RowChoice::default() }
}

/// Every row there is.
fn every() -> RowChoice {
    RowChoice::default()
}

/// Registers the benchmarks of the views.
pub fn benchmark(criterion: &mut Criterion) {
    for workload in &workload::ALL[..3] {
        let mut aggregate = workload.aggregate();
        workload::play(&workload.batches(), &mut aggregate);
        rows(criterion, workload.name, &aggregate);
    }
    metrics(criterion);
    events(criterion);
}

fn rows(criterion: &mut Criterion, name: &str, aggregate: &Aggregate) {
    let mut group = criterion.benchmark_group(format!("views, {name}"));
    group.throughput(Throughput::Elements(aggregate.table().rows().len() as u64));
    group.sample_size(10);
    for (what, choice) in [("summary of the 20 busiest", table()), ("summary of all", every())] {
        group.bench_function(what, |bencher| {
            bencher.iter_batched(
                context,
                |context| summary(aggregate, &choice, context),
                BatchSize::PerIteration,
            );
        });
    }
    let (top, all) =
        (summary(aggregate, &table(), context()), summary(aggregate, &every(), context()));
    group.bench_function("table of the 20 busiest", |bencher| {
        bencher.iter(|| view::table::write(&mut io::sink(), &top, Palette::PLAIN));
    });
    group.bench_function("table of all", |bencher| {
        bencher.iter(|| view::table::write(&mut io::sink(), &all, Palette::PLAIN));
    });
    group.bench_function("json of all", |bencher| {
        bencher.iter(|| view::json::write_line(&mut io::sink(), &all));
    });
    group.bench_function("csv of all", |bencher| {
        bencher.iter(|| view::csv::write(&mut io::sink(), &all));
    });
    group.finish();
}

/// The metrics page with as many peers as make 10,000 series.
fn metrics(criterion: &mut Criterion) {
    let workload = workload::ALL[1];
    let mut aggregate = workload.aggregate();
    workload::play(&workload.batches(), &mut aggregate);
    let page = |peers| {
        let choice = RowChoice { top: Some(peers), ..RowChoice::default() };
        let summary = summary(&aggregate, &choice, context());
        let agent = agent(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
        let lines = Shown::default().take(&summary, &agent.status, agent.status.since_ns);
        view::metrics::text(&summary, &lines, &agent, Dialect::OpenMetrics)
    };
    let series = |page: &[u8]| {
        let page = String::from_utf8_lossy(page);
        page.lines().filter(|line| !line.starts_with('#')).count()
    };
    let (none, hundred) = (series(&page(0)), series(&page(100)));
    let peers = (10_000 - none) * 100 / (hundred - none) + 1;
    let mut group = criterion.benchmark_group("views, metrics");
    group.throughput(Throughput::Elements(series(&page(peers)) as u64));
    group.bench_function("page of 10,000 series", |bencher| bencher.iter(|| page(peers)));
    group.finish();
}

/// A daemon that nobody has asked anything yet.
fn agent(since: SystemTime) -> Agent {
    let clock = Clock { mono_ns: 0, wall: since };
    Agent {
        status: Status::bare(Backend::Fentry, clock),
        process: Process::default(),
        clients: Clients::default(),
    }
}

fn events(criterion: &mut Criterion) {
    let workload = workload::ALL[0];
    let events: Vec<Event> = workload.batches()[..1]
        .iter()
        .flat_map(Batch::events)
        .map(|event| event.expect("the workload makes whole records"))
        .collect();
    let mut group = criterion.benchmark_group("views, events");
    group.throughput(Throughput::Elements(events.len() as u64));
    for (name, format) in
        [("text", Format::Table), ("ndjson", Format::Ndjson), ("csv", Format::Csv)]
    {
        let writer = EventWriter::bare(format, workload.aggregate().settings().hz, false);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for event in &events {
                    black_box(writer.write(&mut io::sink(), event)).expect("a sink takes all");
                }
            });
        });
    }
    group.finish();
}

fn summary(aggregate: &Aggregate, choice: &RowChoice, context: Context) -> Summary {
    Summary::new(aggregate, choice, context)
}

fn context() -> Context {
    Context { elapsed: Duration::from_secs(10), ..Context::bare(Backend::Fentry) }
}
