//! What somebody who begins to listen in the middle has to take in first.
//!
//! It is as large as everything that is known. The thread that counts only takes it apart
//! ([`Opening`]); whoever wants it puts it together, input by input, on a thread of its own.

use twtrace_common::{Counter, Decode, Entered, Failure, FailureKey, Kind, entered_flags};

use crate::origin::{Input, Moment, Origin};
use crate::{
    event::BatchBuilder,
    owner::Owned,
    peer::{Past, Pasts},
    totals::Totals,
    track::Tracked,
    units::{Clock, Hz},
};

/// Sockets that go into one input.
const SOCKETS_AT_ONCE: usize = 4096;

/// All that is known at one moment.
#[derive(Debug)]
pub struct Opening {
    /// Where it all comes from.
    pub origin: Origin,
    /// The moment.
    pub clock: Clock,
    /// The kernel side's totals; everything that they count was taken in.
    pub totals: Totals,
    /// What is known of peers.
    pub pasts: Pasts,
    /// What failed, as counts to recall.
    pub failures: Vec<(FailureKey, Failure)>,
    /// The sockets followed.
    pub followed: Vec<(u64, Tracked)>,
    /// Whose all that is.
    pub owners: Vec<Owned>,
    /// Records of sockets in TIME_WAIT, in the order they became known.
    pub sockets: Vec<Entered>,
    /// The moment's facts.
    pub moment: Moment,
}

impl Opening {
    /// Where the inputs come from, and the inputs.
    pub fn into_inputs(self) -> (Origin, impl Iterator<Item = Input>) {
        let Self { origin, clock, totals, pasts, failures, followed, owners, sockets, moment } =
            self;
        let mut sockets = sockets;
        // Of two records with one address the later one is meant: the sort keeps their order.
        sockets.sort_by_key(|socket| socket.tw);
        let record = |tw: u64| {
            let behind = sockets.partition_point(|socket| socket.tw <= tw);
            behind.checked_sub(1).filter(|at| sockets[*at].tw == tw)
        };
        // One that no record is known of ended while they were sought; its end is on its way.
        let present: Vec<(usize, u64)> = followed
            .iter()
            .filter_map(|(tw, tracked)| Some((record(*tw)?, tracked.entered_ns)))
            .collect();
        drop(followed);
        let before = totals.of(Counter::Present).wrapping_sub(present.len() as u64);
        let origin = origin.begun_again(clock, totals.with(Counter::Present, before), &moment);
        let hz = origin.hz;
        let mut present = present.into_iter();
        let batches = std::iter::from_fn(move || {
            let mut builder = BatchBuilder::default();
            for (at, entered_ns) in present.by_ref().take(SOCKETS_AT_ONCE) {
                builder.push(as_present(sockets[at], entered_ns, hz).as_bytes());
            }
            (!builder.is_empty()).then(|| Input::Records(builder.take()))
        });
        let last = [Input::Ready(clock.mono_ns), Input::Moment(Box::new(moment))];
        let failures = (!failures.is_empty()).then_some(Input::FailuresBefore(failures));
        let pasts = Past::parts(pasts.into_iter()).map(Input::Past);
        let owners = (!owners.is_empty()).then_some(Input::Owners(owners));
        (origin, owners.into_iter().chain(pasts).chain(failures).chain(batches).chain(last))
    }
}

/// The record of a socket that is there already. Of one whose entry is known the timer is as it was
/// armed then: a record of a walk has what was left at the walk.
fn as_present(mut socket: Entered, entered_ns: u64, hz: Hz) -> Entered {
    if entered_ns != 0 && socket.header.kind == Kind::Present as u8 {
        let lived_ms = socket.mono_ns.saturating_sub(entered_ns) / 1_000_000;
        // What is overdue is less than nothing.
        socket.armed = socket.armed.wrapping_add(hz.jiffies(lived_ms));
    }
    socket.header.kind = Kind::Present as u8;
    socket.header.flags |= entered_flags::FOLLOWED;
    if entered_ns != 0 {
        socket.header.flags |= entered_flags::ENTRY_KNOWN;
        socket.mono_ns = entered_ns;
    }
    socket
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{attached::Backend, event::Event};

    #[test]
    fn those_followed_are_present_with_their_own_entry_and_no_one_else_is() {
        let clock = Clock { mono_ns: 900, wall: std::time::SystemTime::UNIX_EPOCH };
        let record = |tw, mono_ns| Entered { tw, mono_ns, ..Entered::default() };
        let tracked = |entered_ns| Tracked {
            entered_ns,
            row: 1,
            netns: 1,
            holding: crate::track::Holding::default(),
        };
        let opening = Opening {
            origin: Origin::bare(Backend::Fentry, clock, Hz::new(250)),
            clock,
            totals: Totals::default().with(Counter::Present, 7),
            pasts: Pasts::new(Vec::new(), Vec::new()),
            failures: Vec::new(),
            // The last one ended while they were sought.
            followed: vec![(0xc0, tracked(0)), (0xa0, tracked(50)), (0xd0, tracked(60))],
            owners: Vec::new(),
            // What entered meanwhile comes after what the walk found.
            sockets: vec![record(0xc0, 500), record(0xa0, 500), record(0xb0, 1), record(0xa0, 50)],
            moment: Moment::bare(clock),
        };
        let (origin, inputs) = opening.into_inputs();
        assert_eq!(origin.totals_before.of(Counter::Present), 5, "two are told of now");
        let inputs: Vec<_> = inputs.collect();
        let [Input::Records(batch), Input::Ready(900), Input::Moment(_)] = inputs.as_slice() else {
            panic!("{inputs:?}");
        };
        let sockets: Vec<_> = batch
            .events()
            .map(|event| match event.unwrap() {
                Event::Present(socket) => {
                    let known = socket.header.flags & entered_flags::ENTRY_KNOWN != 0;
                    (socket.tw, socket.mono_ns, known)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sockets, [(0xc0, 500, false), (0xa0, 50, true)]);
    }

    #[test]
    fn a_known_entry_goes_with_the_timer_of_then_and_not_with_what_a_walk_found_left() {
        let hz = Hz::new(250);
        let (entered_ns, walk_ns) = (100_000_000_000, 125_000_000_000);
        let of = |kind: Kind, mono_ns, armed: i32, entered_ns| {
            let header = twtrace_common::Header { kind: kind as u8, ..Default::default() };
            let record = Entered { header, mono_ns, armed: armed as u32, ..Entered::default() };
            as_present(record, entered_ns, hz).armed / 250
        };
        assert_eq!(of(Kind::Present, walk_ns, 35 * 250, entered_ns), 60);
        assert_eq!(of(Kind::Present, walk_ns, -250, entered_ns), 24, "a second overdue");
        assert_eq!(of(Kind::Entered, entered_ns, 60 * 250, entered_ns), 60, "came meanwhile");
        assert_eq!(of(Kind::Present, walk_ns, 35 * 250, 0), 35, "what is left, from the walk on");
    }
}
