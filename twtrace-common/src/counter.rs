//! Exact totals, kept per CPU in the kernel: right even when events are lost.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Index of a total in the per-CPU counter map.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Counter { $($(#[$doc])* $name,)* }

        impl Counter {
            /// All counters in index order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
            /// How many counters there are.
            pub const COUNT: u32 = Self::ALL.len() as u32;
        }
    };
}

counters! {
    /// Sockets that `tcp_time_wait()` was called for and that match the filter.
    Entered,
    /// Those of them that entered as FIN_WAIT2 mini-sockets.
    EnteredFinWait2,
    /// Those of them for which no TIME_WAIT socket could be allocated.
    Overflow,
    /// Sockets found in TIME_WAIT (or FIN_WAIT2 mini) when the session began.
    Present,
    /// Ends of sockets that entered under our eyes or were present.
    Ended,
    /// Ends of sockets that were beyond the cap, or that nobody had seen before.
    EndedUntracked,
    /// Entry events the full buffer had no room for.
    LostEntered,
    /// Presence events the full buffer had no room for.
    LostPresent,
    /// End events the full buffer had no room for.
    LostEnded,
    /// Sockets beyond the cap of the live map: counted, but their lifetime is unknown.
    Untracked,
    /// An address was allocated again although its end was never seen.
    MissedEnd,
    /// Reads of kernel memory that failed.
    ReadFailed,
    /// Refusals that found no room in the refusal map.
    RefusalsDropped,
    /// `connect()` calls that found no port, or theirs busy.
    ConnectsFailed,
    /// Those of them that came with a port.
    PortBusy,
    /// `bind()` calls that were refused.
    AddressInUse,
    /// Failure events the full buffer had no room for: the calls are counted all the same.
    LostFailed,
    /// Failed calls that found no room in the map that tells where and in which program.
    FailuresDropped,
    /// Calls of `bind()`, and where types are not known of `connect()`, whose answer was not seen, the kernel
    /// having no place left to keep track of their return (kprobe only).
    AnswersMissed,
    /// Changes to maps that the kernel did not make, for want of room or of a lock in time, where no
    /// other counter says what that means.
    MapFailed,
    /// Sockets whose entry was missed and that were found later; the reader counts these.
    Adopted,
}
