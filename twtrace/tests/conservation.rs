//! No socket appears or vanishes, whatever order, repetition and loss the events come in.

use proptest::prelude::*;
use twtrace::{
    aggregate::{Aggregate, Settings},
    event::Event,
    filter::Selection,
    path::{Block, Outcome},
    peer::{Group, GroupBy},
};
use twtrace_common::{
    EndReason, Ended, Entered, Flow, Header, Kind, PortChoice, TCP_FIN_WAIT2, TCP_TIME_WAIT,
    ended_flags, entered_flags,
};

/// Inode number of the network namespace of all.
const NETNS: u32 = 1;

fn settings(max_peers: usize, max_live: usize) -> Settings {
    Settings { max_peers, max_live, ..Settings::default() }
}

/// A socket's whole story, as the kernel programs would tell it.
#[derive(Clone, Copy, Debug)]
struct Story {
    id: u64,
    /// Few addresses, so that the same one is used again and again.
    tw: u64,
    peer: u8,
    present: bool,
    overflow: bool,
    untracked: bool,
    reason: u8,
    ends: bool,
}

impl Story {
    fn flow(&self) -> Flow {
        let remote = std::net::Ipv4Addr::new(10, 0, 0, self.peer).to_ipv6_mapped().octets();
        Flow { remote, local_port: 40_000, remote_port: 80, ..Flow::default() }
    }

    fn entry(&self) -> Event {
        let mut flags = 0;
        if self.overflow {
            flags |= entered_flags::OVERFLOW;
        } else {
            flags |= entered_flags::FOLLOWED;
            if self.untracked {
                flags |= entered_flags::UNTRACKED;
            }
        }
        let kind = if self.present { Kind::Present } else { Kind::Entered };
        let entered = Entered {
            header: Header { kind: kind as u8, state: TCP_TIME_WAIT, flags, netns: NETNS },
            mono_ns: self.id * 10 + 1,
            tw: if self.overflow { 0 } else { self.tw },
            flow: self.flow(),
            ..Entered::default()
        };
        if self.present { Event::Present(entered) } else { Event::Entered(entered) }
    }

    fn end(&self) -> Option<Event> {
        if self.overflow || !self.ends {
            return None;
        }
        let mut flags = 0;
        if self.present {
            flags |= ended_flags::PRESENT;
        }
        if self.untracked {
            flags |= ended_flags::UNTRACKED;
        }
        let known = !self.present && !self.untracked;
        Some(Event::Ended(Ended {
            header: Header { kind: Kind::Ended as u8, state: TCP_TIME_WAIT, flags, netns: NETNS },
            mono_ns: self.id * 10 + 5,
            tw: self.tw,
            entered_ns: if known { self.id * 10 + 1 } else { 0 },
            flow: self.flow(),
            reason: self.reason,
            ..Ended::default()
        }))
    }
}

fn story() -> impl Strategy<Value = Story> {
    (0_u64..8, 0_u8..6, 0_u8..7, prop::bool::weighted(0.1), prop::bool::weighted(0.1))
        .prop_flat_map(|(tw, peer, reason, present, overflow)| {
            (prop::bool::weighted(0.1), prop::bool::weighted(0.8)).prop_map(
                move |(untracked, ends)| Story {
                    id: 0,
                    tw: 0xff00 + tw * 8,
                    peer,
                    present,
                    overflow: overflow && !present,
                    untracked,
                    reason,
                    ends,
                },
            )
        })
}

/// What happens to one event on its way.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Arrives,
    IsLost,
    ComesTwice,
    ComesLate,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        8 => Just(Fate::Arrives),
        1 => Just(Fate::IsLost),
        1 => Just(Fate::ComesTwice),
        1 => Just(Fate::ComesLate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_appears_or_vanishes(
        stories in prop::collection::vec(story(), 0..120),
        fates in prop::collection::vec(fate(), 240),
        max_peers in 0_usize..6,
        max_live in 0_usize..12,
    ) {
        let mut events = Vec::new();
        for (id, story) in stories.iter().enumerate() {
            let story = Story { id: id as u64 + 1, ..*story };
            events.push(story.entry());
            events.extend(story.end());
        }
        let mut aggregate = Aggregate::new(settings(max_peers, max_live));
        let mut late = Vec::new();
        for (event, fate) in events.iter().zip(&fates) {
            match fate {
                Fate::Arrives => {
                    aggregate.apply(event);
                }
                Fate::IsLost => {}
                Fate::ComesTwice => {
                    aggregate.apply(event);
                    aggregate.apply(event);
                }
                Fate::ComesLate => late.push(event),
            }
            let conservation = aggregate.conservation();
            prop_assert!(conservation.holds(), "{conservation:?} after {event:?}");
        }
        late.into_iter().for_each(|event| {
            aggregate.apply(event);
        });
        prop_assert!(aggregate.conservation().holds(), "after the late ones");

        // Healing turns what is followed but gone into unknown ends, one for one.
        let before = aggregate.followed() as u64;
        let unknown = aggregate.table().sum().counts().outcome(Outcome::Unknown);
        let vanished: Vec<_> =
            aggregate.live().map(|(tw, socket)| (tw, socket.entered_ns)).collect();
        prop_assert_eq!(aggregate.heal_vanished(&vanished), before);
        prop_assert_eq!(aggregate.followed(), 0);
        let healed = aggregate.table().sum().counts().outcome(Outcome::Unknown) - unknown;
        prop_assert_eq!(healed, before);
        prop_assert!(aggregate.conservation().holds(), "after healing");

        // So does looking for what is not followed and does not live.
        let before = aggregate.unfollowed();
        aggregate.heal_unfollowed(NETNS, before / 2);
        prop_assert_eq!(aggregate.unfollowed(), before / 2);
        aggregate.heal_unfollowed(NETNS, 0);
        prop_assert_eq!(aggregate.unfollowed(), 0);
        prop_assert!(aggregate.conservation().holds(), "after healing what is not followed");
        prop_assert!(aggregate.table().rows().iter().all(|row| row.tally.live() == 0));
        prop_assert!(aggregate.table().rows().len() <= max_peers);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_filter_moves_sockets_out_of_sight_and_changes_no_sum(
        stories in prop::collection::vec(story(), 0..120),
        fates in prop::collection::vec(fate(), 240),
        filter in prop::sample::select(vec![
            "dst 10.0.0.2", "dst 10.0.0.2 or dst 10.0.0.4", "not dst 10.0.0.2", "timestamps",
            "uid 5 or dst 10.0.0.3", "state time-wait",
        ]),
    ) {
        let mut all = Aggregate::new(settings(64, 64));
        let here = filter.parse().unwrap();
        let selection = Selection { here, ..Selection::default() };
        let mut some = Aggregate::new(Settings { selection, ..settings(64, 64) });
        for (id, story) in stories.iter().enumerate() {
            let story = Story { id: id as u64 + 1, ..*story };
            let events = [Some(story.entry()), story.end()];
            for (event, fate) in events.iter().flatten().zip(&fates[id * 2..]) {
                if !matches!(fate, Fate::IsLost) {
                    all.apply(event);
                    some.apply(event);
                }
                prop_assert!(some.conservation().holds(), "{:?}", some.conservation());
            }
        }
        let (all, mut sum) = (all.table().sum().counts(), some.table().sum().counts());
        sum += &some.left_out().counts();
        prop_assert_eq!(all, sum);
    }

    #[test]
    fn a_filter_shows_exactly_the_sockets_that_match(
        stories in prop::collection::vec(story(), 0..120),
    ) {
        let here = "dst 10.0.0.2 or dst 10.0.0.4".parse().unwrap();
        let selection = Selection { here, ..Selection::default() };
        let mut aggregate = Aggregate::new(Settings { selection, ..settings(64, 1024) });
        let (mut entered, mut ended) = (0, 0);
        for (id, story) in stories.iter().enumerate() {
            // Each at an address of its own, so that no end is taken for missed.
            let id = id as u64 + 1;
            let story = Story { id, tw: id * 8, untracked: false, ..*story };
            let wanted = [2, 4].contains(&story.peer);
            prop_assert_eq!(aggregate.apply(&story.entry()), wanted);
            entered += u64::from(wanted);
            if let Some(end) = story.end() {
                prop_assert_eq!(aggregate.apply(&end), wanted);
                ended += u64::from(wanted);
            }
        }
        let counts = aggregate.table().sum().counts();
        prop_assert_eq!(counts.entered + counts.present, entered);
        prop_assert_eq!(counts.ended_total(), ended);
        prop_assert_eq!(aggregate.undecided(), 0);
    }
}

#[test]
fn when_nothing_is_lost_every_socket_is_accounted_for_exactly() {
    let mut aggregate = Aggregate::new(settings(64, 64));
    for id in 1..=1000 {
        let story = Story {
            id,
            tw: 0xff00 + (id % 16) * 8,
            peer: (id % 5) as u8,
            present: false,
            overflow: id % 10 == 0,
            untracked: false,
            reason: EndReason::Expired as u8,
            ends: true,
        };
        aggregate.apply(&story.entry());
        story.end().iter().for_each(|end| {
            aggregate.apply(end);
        });
    }
    let counts = aggregate.table().sum().counts();
    assert_eq!((counts.entered, counts.overflow), (1000, 100));
    assert_eq!(counts.outcome(Outcome::TwoMsl), 900);
    assert_eq!((counts.live(), counts.entry_lost, aggregate.healed()), (0, 0, 0));
    assert_eq!(aggregate.table().rows().len(), 5);
}

/// A FIN_WAIT2 mini-socket without timestamps, beyond the cap, of an owner, whose port its program named
/// outside the range of `connect()`.
fn beyond_the_cap() -> (Event, Event) {
    let flow = Flow { local_port: 700, remote_port: 80, ..Flow::default() };
    let flags = entered_flags::FOLLOWED | entered_flags::UNTRACKED;
    let header =
        Header { kind: 0, state: TCP_FIN_WAIT2, flags: ended_flags::UNTRACKED, netns: NETNS };
    let entered = Entered {
        header: Header { kind: Kind::Entered as u8, flags, ..header },
        mono_ns: 1,
        tw: 8,
        flow,
        uid: 5,
        chosen: PortChoice::Program as u8,
        tcp_timestamps: 1,
        ..Entered::default()
    };
    let header = Header { kind: Kind::Ended as u8, ..header };
    let reason = EndReason::Killed as u8;
    let ended = Ended { header, mono_ns: 9, tw: 8, flow, reason, ..Ended::default() };
    (Event::Entered(entered), Event::Ended(ended))
}

#[test]
fn entry_and_end_of_a_socket_not_followed_are_in_one_row_with_one_reason() {
    let (entry, end) = beyond_the_cap();
    for group_by in [GroupBy::Peer, GroupBy::Uid] {
        let mut aggregate = Aggregate::new(Settings { group_by, ..settings(8, 8) });
        aggregate.apply(&entry);
        assert_eq!(aggregate.unfollowed(), 1);
        aggregate.apply(&end);
        assert_eq!((aggregate.unfollowed(), aggregate.unseen_ends()), (0, 0));
        let rows: Vec<_> = aggregate.table().rows().iter().filter(|row| !row.is_empty()).collect();
        assert_eq!(rows.len(), 1, "{group_by:?}");
        let counts = rows[0].counts();
        assert_eq!((counts.entered, counts.outcome(Outcome::Killed), counts.live()), (1, 1, 0));
        let reasons = Block::ALL.map(|block| counts.blocked(block));
        assert_eq!(reasons.iter().sum::<u64>(), 1, "{reasons:?}");
        if group_by == GroupBy::Uid {
            assert_eq!(rows[0].group, Group::UnknownOwner, "its end does not tell");
        }
    }
}

#[test]
fn a_kernel_seen_to_take_mini_sockets_over_is_not_blamed_for_refusing_them() {
    let mut aggregate = Aggregate::new(settings(8, 8));
    let socket = |tw: u64, reason: EndReason| {
        let (Event::Entered(mut entered), Event::Ended(mut ended)) = beyond_the_cap() else {
            unreachable!()
        };
        (entered.tw, ended.tw) = (tw, tw);
        (entered.ts_recent_stamp, entered.tcp_tw_reuse) = (7, 1);
        entered.header.flags = entered_flags::FOLLOWED;
        (ended.header.flags, ended.entered_ns, ended.reason) = (0, entered.mono_ns, reason as u8);
        [Event::Entered(entered), Event::Ended(ended)]
    };
    let refused = |aggregate: &Aggregate| aggregate.table().sum().counts().blocked(Block::FinWait2);
    assert!(socket(8, EndReason::Expired).iter().all(|event| aggregate.apply(event)));
    assert_eq!(refused(&aggregate), 1, "assumed");
    assert!(socket(16, EndReason::Reused).iter().all(|event| aggregate.apply(event)));
    assert!(socket(24, EndReason::Expired).iter().all(|event| aggregate.apply(event)));
    assert_eq!(refused(&aggregate), 1);
}
