//! Which kernel functions are hooked, and by which programs.

/// A kernel function, and the programs for it.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The kernel's function.
    pub function: &'static str,
    /// fentry and kprobe program for its entry.
    pub entry: Option<(&'static str, &'static str)>,
    /// fexit and kretprobe program for its return; not every return has a kretprobe.
    pub exit: Option<(Fexit, Option<&'static str>)>,
    /// kprobe program needed before a kretprobe one, because a kretprobe has no arguments.
    pub kprobe_entry: Option<&'static str>,
    /// Whether a kernel without the function is still fine.
    pub optional: bool,
}

/// The fexit program of a function.
#[derive(Clone, Copy, Debug)]
pub enum Fexit {
    /// There is one.
    One(&'static str),
    /// There is one for each number of arguments the function has had in some kernel.
    ByArguments(&'static [(usize, &'static str)]),
}

impl Fexit {
    /// The program for a function of that many arguments.
    pub fn program(&self, arguments: usize) -> Option<&'static str> {
        match *self {
            Self::One(program) => Some(program),
            Self::ByArguments(programs) => programs
                .iter()
                .find_map(|(count, program)| (*count == arguments).then_some(*program)),
        }
    }
}

const NONE: Hook =
    Hook { function: "", entry: None, exit: None, kprobe_entry: None, optional: false };

/// `tcp_timewait_state_process()` has 3 arguments up to 6.11, 4 from 6.12, 5 from 6.15 on.
const STATE_PROCESS: &[(usize, &str)] =
    &[(3, "fexit_state_process_3"), (4, "fexit_state_process_4"), (5, "fexit_state_process_5")];

/// The entry alone, which is enough for `--no-ends`: the socket is hashed, on Linux 6.11 and later,
/// from 4.16 on, or before. Exactly one of them exists.
pub const ENTRY: &[Hook] = &[
    Hook {
        function: "inet_twsk_hashdance_schedule",
        entry: Some(("fentry_hashdance_schedule", "kprobe_hashdance_schedule")),
        optional: true,
        ..NONE
    },
    Hook {
        function: "inet_twsk_hashdance",
        entry: Some(("fentry_hashdance", "kprobe_hashdance")),
        optional: true,
        ..NONE
    },
    Hook {
        function: "__inet_twsk_hashdance",
        entry: Some(("fentry_hashdance", "kprobe_hashdance")),
        optional: true,
        ..NONE
    },
];

/// What tells that a `connect()` failed; with or without ends. With kprobes [`STATE`] tells it better, where
/// the kernel's types are known.
const CONNECTS: &[Hook] = &[
    Hook {
        function: "inet_hash_connect",
        exit: Some((Fexit::One("fexit_hash_connect"), Some("kretprobe_hash_connect"))),
        kprobe_entry: Some("kprobe_hash_connect"),
        ..NONE
    },
    Hook {
        function: "inet6_hash_connect",
        exit: Some((Fexit::One("fexit_hash_connect6"), Some("kretprobe_hash_connect6"))),
        kprobe_entry: Some("kprobe_hash_connect6"),
        optional: true,
        ..NONE
    },
];

/// What tells that a `bind()` failed; with or without ends.
const BINDS: &[Hook] = &[Hook {
    function: "inet_csk_get_port",
    exit: Some((Fexit::One("fexit_get_port"), Some("kretprobe_get_port"))),
    kprobe_entry: Some("kprobe_get_port"),
    ..NONE
}];

/// What tells by a socket's state that a `connect()` failed, with kprobes: a raw tracepoint, or a kprobe where
/// there is none.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// The tracepoint.
    pub point: &'static str,
    /// Program for it.
    pub tracepoint: &'static str,
    /// The function that it is in.
    pub function: &'static str,
    /// Program for that.
    pub kprobe: &'static str,
}

/// Linux 4.16 has the tracepoint, 4.17 programs for it.
pub const STATE: State = State {
    point: "inet_sock_set_state",
    tracepoint: "tracepoint_connecting",
    function: "tcp_set_state",
    kprobe: "kprobe_set_state",
};

/// What tells that a call failed, beside [`STATE`] if that is attached.
pub fn calls(with_state: bool) -> impl Iterator<Item = &'static Hook> {
    let connects = if with_state { &[] } else { CONNECTS };
    connects.iter().chain(BINDS)
}

/// All functions that are hooked in some kernel.
pub fn functions() -> impl Iterator<Item = &'static str> {
    ALL.iter().chain(calls(false)).map(|hook| hook.function).chain([STATE.function])
}

/// All hooks of sockets, in the order they are attached: ends before beginnings, so that nothing begins
/// whose end would be missed.
pub const ALL: &[Hook] = &[
    Hook {
        function: "tcp_twsk_destructor",
        entry: Some(("fentry_twsk_destructor", "kprobe_twsk_destructor")),
        ..NONE
    },
    Hook {
        function: "tw_timer_handler",
        entry: Some(("fentry_tw_timer_handler", "kprobe_tw_timer_handler")),
        ..NONE
    },
    Hook {
        function: "inet_twsk_purge",
        entry: Some(("fentry_twsk_purge", "kprobe_twsk_purge")),
        exit: Some((Fexit::One("fexit_twsk_purge"), Some("kretprobe_twsk_purge"))),
        ..NONE
    },
    Hook {
        function: "tcp_abort",
        entry: Some(("fentry_tcp_abort", "kprobe_tcp_abort")),
        optional: true,
        ..NONE
    },
    Hook {
        function: "tcp_twsk_unique",
        exit: Some((Fexit::One("fexit_twsk_unique"), Some("kretprobe_twsk_unique"))),
        kprobe_entry: Some("kprobe_twsk_unique"),
        ..NONE
    },
    Hook {
        function: "tcp_timewait_state_process",
        entry: Some(("fentry_state_process", "kprobe_state_process")),
        exit: Some((Fexit::ByArguments(STATE_PROCESS), Some("kretprobe_state_process"))),
        ..NONE
    },
    Hook {
        function: "__inet_twsk_schedule",
        entry: Some(("fentry_twsk_schedule", "kprobe_twsk_schedule")),
        ..NONE
    },
    ENTRY[0],
    ENTRY[1],
    ENTRY[2],
    Hook {
        // A kretprobe would not know the socket. It is not needed either: while a kprobe program
        // runs the kernel skips them all, so that no one of them is missed alone.
        function: "inet_twsk_alloc",
        exit: Some((Fexit::One("fexit_twsk_alloc"), None)),
        ..NONE
    },
    Hook { function: "tcp_done", entry: Some(("fentry_tcp_done", "kprobe_tcp_done")), ..NONE },
    Hook {
        function: "tcp_time_wait",
        entry: Some(("fentry_tcp_time_wait", "kprobe_tcp_time_wait")),
        ..NONE
    },
];

/// A tracepoint, and the programs for it.
#[derive(Clone, Copy, Debug)]
pub struct Tracepoint {
    /// The kernel's name.
    pub point: &'static str,
    /// Program that is told the types of arguments, which is cheaper; Linux 5.5 on.
    pub typed: &'static str,
    /// Program that is not.
    pub untyped: &'static str,
    /// Whether `--no-ends` needs it as well: without `timer_cancel` a re-arming would be an entry.
    pub for_entries: bool,
}

/// Tracepoints of the last-resort backend, in the order they are attached.
pub const TRACEPOINTS: &[Tracepoint] = &[
    Tracepoint {
        point: "timer_cancel",
        typed: "typed_timer_cancel",
        untyped: "tracepoint_timer_cancel",
        for_entries: true,
    },
    Tracepoint {
        point: "timer_expire_entry",
        typed: "typed_timer_expire",
        untyped: "tracepoint_timer_expire",
        for_entries: false,
    },
    Tracepoint {
        point: "inet_sock_set_state",
        typed: "typed_set_state",
        untyped: "tracepoint_set_state",
        for_entries: true,
    },
    Tracepoint {
        point: "timer_start",
        typed: "typed_timer_start",
        untyped: "tracepoint_timer_start",
        for_entries: true,
    },
];
