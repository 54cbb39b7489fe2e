//! An owner of a pipeline that is fed by the test instead of by a kernel; all else is as it is.

use std::{
    collections::HashMap,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::SystemTime,
};

use bytes::Bytes;
use tokio::sync::mpsc;
use twtrace::{
    agent::Status,
    aggregate::Settings,
    attached::{Backend, FailedWay, ObjectKind, ProgramCost, Types},
    config::DaemonConfig,
    daemon::hub::{Ask, Asks, Events, Feed, HubError, Subscribers},
    event::{BatchBuilder, Event},
    feed::{Core, boot_id, monotonic_ns},
    host::facts,
    origin::{Input, Moment, Origin},
    peer::{GroupBy, Prefixes, minutes::Memory},
    totals::Totals,
    units::{Clock, Hz},
    view::{Format, events::EventWriter},
};
use twtrace_common::{Counter, Decode};

/// Inode number of the network namespace the test runs in.
pub fn own_netns() -> u32 {
    let file = std::fs::metadata("/proc/self/ns/net").expect("procfs is mounted");
    u32::try_from(file.ino()).expect("inode numbers of namespaces fit")
}

/// What the test tells the owner.
#[derive(Debug)]
pub enum Tell {
    /// These happened.
    Events(Vec<Event>),
    /// This goes to whoever follows the feed.
    Feed(Bytes),
}

pub struct Owner {
    core: Core,
    entered: u64,
    config: DaemonConfig,
    clock: Clock,
    events: Subscribers<Arc<[Event]>>,
    feed: Subscribers<Bytes>,
}

impl Owner {
    pub fn new(config: DaemonConfig, dropped: &Arc<AtomicU64>) -> Self {
        let origin = Origin {
            boot_id: boot_id(),
            refused: vec![FailedWay { backend: Backend::Fentry, reason: "not here".into() }],
            ..Origin::bare(Backend::Kprobe, twtrace::feed::now(), Hz::new(250))
        };
        let settings = Settings {
            selection: origin.selection.clone(),
            group_by: GroupBy::Peer,
            also_by_owner: false,
            prefixes: Prefixes::default(),
            max_peers: config.max_peers,
            max_live: config.max_live as usize,
            memory: Memory::default(),
            hz: origin.hz,
            recycle_exists: false,
            follow_ends: true,
        };
        let mut core = Core::new(origin, settings);
        core.take(Input::Ready(monotonic_ns()), &mut |_| {});
        Self {
            core,
            entered: 0,
            config,
            clock: Clock { mono_ns: monotonic_ns(), wall: SystemTime::now() },
            events: Subscribers::new(Arc::clone(dropped)),
            feed: Subscribers::new(Arc::clone(dropped)),
        }
    }

    /// Owns until it is told to stop.
    pub async fn run(mut self, mut asks: Asks, mut told: mpsc::UnboundedReceiver<Tell>) {
        loop {
            tokio::select! {
                biased;
                Some(tell) = told.recv() => self.take(tell),
                ask = asks.next() => match ask {
                    None => return,
                    Some(Ask::Stop { reply }) => {
                        let _ = reply.send(Ok(()));
                        return;
                    }
                    Some(ask) => self.answer(ask),
                },
            }
        }
    }

    fn take(&mut self, tell: Tell) {
        match tell {
            Tell::Feed(bytes) => self.feed.send(&bytes),
            Tell::Events(events) => {
                let mut builder = BatchBuilder::default();
                for event in &events {
                    match event {
                        Event::Entered(event) => {
                            self.entered += 1;
                            builder.push(event.as_bytes());
                        }
                        Event::Present(event) => builder.push(event.as_bytes()),
                        Event::Ended(event) => builder.push(event.as_bytes()),
                        Event::Failed(event) => builder.push(event.as_bytes()),
                    }
                }
                self.core.take(Input::Records(builder.take()), &mut |_| {});
                self.events.send(&Arc::from(events));
            }
        }
    }

    fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Summary { choice, reply } => {
                self.core.take(Input::Moment(Box::new(self.moment())), &mut |_| {});
                let summary = self.core.summary(&choice);
                let summary = summary.map_err(|error| HubError::Failed(error.to_string()));
                let _ = reply.send(summary.map(Arc::new));
            }
            Ask::Events { reply } => {
                let writer = EventWriter::bare(Format::Ndjson, self.core.origin().hz, false);
                let _ = reply.send(Ok(Events { events: self.events.subscribe(), writer }));
            }
            Ask::Feed { reply } => {
                let (pieces, opening) = mpsc::channel(1);
                let _ = pieces.try_send(Ok(Bytes::from_static(b"header")));
                let _ = reply.send(Ok(Feed { opening, live: self.feed.subscribe() }));
            }
            Ask::Status { reply } => {
                let _ = reply.send(Ok(self.status()));
            }
            Ask::Reload { config, reply } => {
                let changes = self.config.changes(&config);
                self.config = self.config.reloaded(&config);
                let _ = reply.send(Ok(changes));
            }
            Ask::Stop { .. } => unreachable!("taken care of above"),
        }
    }

    fn moment(&self) -> Moment {
        let mut facts = facts::host(Path::new("/proc"), Path::new("/"));
        let (namespace, _) = facts::namespace(Path::new("/proc"));
        facts.namespaces.insert(own_netns(), namespace);
        Moment {
            clock: Clock { mono_ns: monotonic_ns(), wall: SystemTime::now() },
            totals: Totals::default().with(Counter::Entered, self.entered),
            skipped: 0,
            audit: None,
            facts: Some(facts),
            netns_names: HashMap::from([(own_netns(), "own \"net\"".into())]),
            cgroup_names: HashMap::new(),
        }
    }

    fn status(&self) -> Status {
        Status {
            backend: Backend::Kprobe,
            object: ObjectKind::RingBuf,
            types: Types::Known,
            refused_backends: self.core.origin().refused.clone(),
            sees_binds: true,
            since_ns: self.clock.mono_ns,
            clock: self.clock,
            programs: vec![
                ProgramCost { name: "counted", runs: Some((7, 900)) },
                ProgramCost { name: "not_counted", runs: None },
            ],
            limits: vec!["network namespaces other than its own cannot be entered".into()],
            audit: None,
            netns_names: Default::default(),
            restart_needed: vec!["max_peers"],
            state_saved: None,
            state_fault: Some("no space left".into()),
        }
    }
}
