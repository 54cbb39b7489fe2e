//! Everything a diagnosis needs to know of the host, gathered.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::Path,
};

use super::{
    HostFactError, configured,
    configured::Setting,
    files::ProcessFiles,
    nat::FoundNat,
    netstat::{TcpExt, time_wait_sockets},
    open::{self, HALVES_NS, OpenGrowth, OpenPorts},
    sysctl, text,
};

/// Facts of the whole host, and of those of its network namespaces that matter.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// `uname -r`.
    pub kernel: String,
    /// Open files, and the most there may be (`fs.file-nr`).
    pub files: Option<(u64, u64)>,
    /// Bytes a TIME_WAIT socket takes, from the slab's own figures.
    pub socket_bytes: Option<u64>,
    /// Lines in sysctl configuration files that set `tcp_tw_recycle`.
    pub recycle_configured: Vec<Setting>,
    /// By inode number.
    pub namespaces: BTreeMap<u32, NamespaceFacts>,
    /// Network namespaces that give connections another source address, by what they say themselves.
    pub nats: Vec<FoundNat>,
    /// Processes that have most of the files they may open, and most of these sockets; of the namespace
    /// asked for, if one was.
    pub near_limit: Vec<ProcessFiles>,
    /// What could not be read; each names its file.
    pub unread: Vec<String>,
}

/// Facts of one network namespace. A sysctl this kernel lacks is `None`.
#[derive(Clone, Debug, Default)]
pub struct NamespaceFacts {
    /// Its cookie, which no other one ever has; 0 where it cannot be had.
    pub cookie: u64,
    /// `tcp_tw_reuse`: 0 off, 1 on, 2 loopback only.
    pub tw_reuse: Option<u64>,
    /// `tcp_tw_reuse_delay`, milliseconds; since 6.14.
    pub tw_reuse_delay_ms: Option<u64>,
    /// `tcp_tw_recycle`; gone since 4.12.
    pub tw_recycle: Option<u64>,
    /// Whether a port is freed by `tcp_tw_reuse` up to two seconds after the last timestamp: kernels
    /// that keep its time as a `long` (`ts_recent_stamp`, up to 4.18, not RHEL 8's).
    ///
    /// # Source
    /// `tcp_twsk_unique()`, net/ipv4/tcp_ipv4.c: `get_seconds() - tw_ts_recent_stamp > 1` up to 4.18.
    pub long_stamps: bool,
    /// `tcp_timestamps`: 0 off, 1 on, 2 on without a random offset.
    pub timestamps: Option<u64>,
    /// `ip_local_port_range`.
    pub port_range: Option<RangeInclusive<u16>>,
    /// `ip_local_reserved_ports`.
    pub reserved_ports: Vec<RangeInclusive<u16>>,
    /// `tcp_max_tw_buckets`.
    pub max_tw_buckets: Option<u64>,
    /// `tcp_fin_timeout`, seconds.
    pub fin_timeout: Option<u64>,
    /// `tcp_rfc1337`.
    pub rfc1337: Option<u64>,
    /// `tcp_tw_timeout`, a vendor's length of TIME_WAIT, seconds.
    pub tw_timeout: Option<u64>,
    /// TIME_WAIT sockets now, by the kernel's own count.
    pub time_wait: Option<u64>,
    /// Counters now.
    pub counters: TcpExt,
    /// Counters when the session began, or when the namespace was first seen; whoever takes the
    /// moments in knows them.
    pub counters_before: TcpExt,
    /// Connection tracking, when it is loaded.
    pub conntrack: Option<Conntrack>,
    /// What some of these counts did of late; whoever takes the moments in knows it.
    pub lately: Option<Lately>,
    /// Ports that are held by something else than TIME_WAIT; `None` if they were not read.
    pub open: Option<OpenPorts>,
    /// By how many a second the open connections to a peer from an address grew of late, where they
    /// did; whoever takes the moments in knows it.
    pub open_growth: BTreeMap<(SocketAddr, IpAddr), OpenGrowth>,
}

/// What counts of a namespace did within the last minute, or since they were first read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lately {
    /// Over how long, seconds.
    pub seconds: f64,
    /// Connections that closed without a TIME_WAIT socket.
    pub overflow: u64,
    /// What connection tracking did.
    pub conntrack: Option<Growth>,
}

/// How a number grew, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Growth {
    /// On the whole; less than 0 if it shrank.
    pub rate: f64,
    /// The less of both halves, where it was read between: a burst does not fill both.
    pub lasting: f64,
    /// Packets dropped because the table was full; `None` where that is not counted.
    pub dropped: Option<u64>,
    /// Packets dropped because their connection would have had the addresses and ports of another one:
    /// NAT found none that were free. `None` where that is not counted.
    pub clashed: Option<u64>,
}

/// What is kept of a namespace's counts at a moment.
#[derive(Clone, Copy, Debug)]
struct Counts {
    mono_ns: u64,
    overflow: u64,
    conntrack: Option<Conntrack>,
}

impl Counts {
    /// Entries a second by which connection tracking grew until a later moment.
    fn growth(&self, later: &Self) -> Option<f64> {
        let seconds = later.mono_ns.saturating_sub(self.mono_ns) as f64 / 1e9;
        let entries = later.conntrack?.count as f64 - self.conntrack?.count as f64;
        (seconds > 0.0).then_some(entries / seconds)
    }
}

/// The counts of a namespace at some moments of the last minute, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Minute(VecDeque<Counts>);

impl Minute {
    /// Nanoseconds that are looked back.
    const SPAN_NS: u64 = 60_000_000_000;
    /// Nanoseconds between two moments that are kept.
    const APART_NS: u64 = 1_000_000_000;

    /// Takes in a moment's facts, and answers what changed.
    pub fn lately(&mut self, now_ns: u64, facts: &NamespaceFacts) -> Option<Lately> {
        let now = Counts {
            mono_ns: now_ns,
            overflow: facts.counters.get("TCPTimeWaitOverflow").unwrap_or(0),
            conntrack: facts.conntrack,
        };
        while self.0.get(1).is_some_and(|second| second.mono_ns + Self::SPAN_NS <= now_ns) {
            self.0.pop_front();
        }
        let lately = self.0.front().map(|then| Lately {
            seconds: now_ns.saturating_sub(then.mono_ns) as f64 / 1e9,
            overflow: now.overflow.saturating_sub(then.overflow),
            conntrack: self.growth(then, &now),
        });
        if self.0.back().is_none_or(|last| last.mono_ns + Self::APART_NS <= now_ns) {
            self.0.push_back(now);
        }
        lately
    }

    /// What connection tracking did since `then`.
    fn growth(&self, then: &Counts, now: &Counts) -> Option<Growth> {
        let rate = then.growth(now)?;
        let span_ns = now.mono_ns.saturating_sub(then.mono_ns);
        let from_half = |at: &&Counts| at.mono_ns.abs_diff(then.mono_ns + span_ns / 2);
        let near = |at: &&Counts| span_ns >= HALVES_NS && from_half(at) <= span_ns / 4;
        let middle = self.0.iter().filter(near).min_by_key(from_half);
        let halves = middle.and_then(|at| Some(then.growth(at)?.min(at.growth(now)?)));
        let more = |count: fn(&Conntrack) -> Option<u64>| {
            let at = |at: &Counts| at.conntrack.as_ref().and_then(count);
            Some(at(now)?.saturating_sub(at(then)?))
        };
        let (dropped, refused) = (more(|ct| ct.dropped), more(|ct| ct.refused));
        let clashed = dropped.zip(refused).map(|(dropped, refused)| dropped.min(refused));
        Some(Growth {
            rate,
            lasting: halves.unwrap_or(rate),
            dropped: dropped.map(|dropped| dropped - clashed.unwrap_or(0)),
            clashed,
        })
    }
}

/// Connection tracking of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conntrack {
    /// `nf_conntrack_tcp_timeout_time_wait`, seconds.
    pub time_wait_s: u64,
    /// `nf_conntrack_count`.
    pub count: u64,
    /// `nf_conntrack_max`.
    pub max: u64,
    /// Packets dropped (`drop` in `net/stat/nf_conntrack`); `None` where that is not there.
    ///
    /// # Source
    /// net/netfilter/nf_conntrack_core.c: no entry was to be had (`nf_conntrack_in()`), or another
    /// connection has the same addresses and ports (`nf_ct_resolve_clash()`). Only the latter is counted
    /// in `insert_failed` too.
    pub dropped: Option<u64>,
    /// Entries that could not be put into the table (`insert_failed` there), clashes that were resolved
    /// among them on some kernels.
    pub refused: Option<u64>,
}

/// Which rules for TIME_WAIT a kernel follows, told by what it offers and never by its version,
/// since stable branches and vendors change both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// `tcp_tw_recycle` exists: before 4.12.
    Recycling,
    /// `tcp_tw_timeout` exists: a vendor's kernel with a TIME_WAIT of another length.
    VendorLength,
    /// `tcp_tw_reuse_delay` exists: 6.14 and later.
    DelayInMillis,
    /// None of these: 60 s, and takeover after a second.
    Plain,
}

impl Rules {
    /// The rules in one sentence.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Recycling => "TIME_WAIT lasts 60 s, or 3.5 x RTO with tcp_tw_recycle",
            Self::VendorLength => "TIME_WAIT lasts tcp_tw_timeout seconds (a vendor's kernel)",
            Self::DelayInMillis => {
                "TIME_WAIT lasts 60 s; a port may be taken over after tcp_tw_reuse_delay"
            }
            Self::Plain => "TIME_WAIT lasts 60 s; a port may be taken over after about 1 s",
        }
    }
}

impl NamespaceFacts {
    /// The rules of this kernel.
    pub const fn rules(&self) -> Rules {
        if self.tw_recycle.is_some() {
            Rules::Recycling
        } else if self.tw_timeout.is_some() {
            Rules::VendorLength
        } else if self.tw_reuse_delay_ms.is_some() {
            Rules::DelayInMillis
        } else {
            Rules::Plain
        }
    }

    /// Whether `connect()` may choose a port.
    pub fn may_choose(&self, port: u16) -> bool {
        let in_range = self.port_range.as_ref().is_some_and(|range| range.contains(&port));
        in_range && !self.reserved_ports.iter().any(|reserved| reserved.contains(&port))
    }

    /// The settings that matter, by the names that `sysctl` has for them; of those this kernel has.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let list = |range: &RangeInclusive<u16>| format!("{}-{}", range.start(), range.end());
        let mut settings: Vec<(&'static str, String)> = [
            ("tcp_tw_reuse", self.tw_reuse),
            ("tcp_tw_reuse_delay", self.tw_reuse_delay_ms),
            ("tcp_tw_recycle", self.tw_recycle),
            ("tcp_timestamps", self.timestamps),
            ("tcp_fin_timeout", self.fin_timeout),
            ("tcp_rfc1337", self.rfc1337),
            ("tcp_tw_timeout", self.tw_timeout),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?.to_string())))
        .collect();
        settings.extend(self.port_range.iter().map(|range| ("ip_local_port_range", list(range))));
        if !self.reserved_ports.is_empty() {
            let reserved: Vec<String> = self.reserved_ports.iter().map(list).collect();
            settings.push(("ip_local_reserved_ports", reserved.join(",")));
        }
        settings
    }

    /// What a counter grew by in this session.
    pub fn grown(&self, counter: &str) -> u64 {
        self.counters.since(&self.counters_before, counter)
    }
}

/// Reads the facts of the namespace that the calling thread is in, below a procfs `root`.
///
/// The sysctls below `sys/net` and the counters below `thread-self/net` are those of the thread's
/// own namespace (`/proc/net` is the process's). Errors come beside: one fact missing must not
/// hide the others.
pub fn namespace(root: &Path) -> (NamespaceFacts, Vec<HostFactError>) {
    let mut errors = Vec::new();
    let mut facts = NamespaceFacts::default();
    let mut number = |name: &str| {
        sysctl::number(root, name).unwrap_or_else(|error| {
            errors.push(error);
            None
        })
    };
    facts.tw_reuse = number("net/ipv4/tcp_tw_reuse");
    facts.tw_reuse_delay_ms = number("net/ipv4/tcp_tw_reuse_delay");
    facts.tw_recycle = number("net/ipv4/tcp_tw_recycle");
    facts.timestamps = number("net/ipv4/tcp_timestamps");
    facts.max_tw_buckets = number("net/ipv4/tcp_max_tw_buckets");
    facts.fin_timeout = number("net/ipv4/tcp_fin_timeout");
    facts.rfc1337 = number("net/ipv4/tcp_rfc1337");
    facts.tw_timeout = number("net/ipv4/tcp_tw_timeout");
    let conntrack = (
        number("net/netfilter/nf_conntrack_tcp_timeout_time_wait"),
        number("net/netfilter/nf_conntrack_count"),
        number("net/netfilter/nf_conntrack_max"),
    );
    if let (Some(time_wait_s), Some(count), Some(max)) = conntrack {
        facts.conntrack = Some(Conntrack { time_wait_s, count, max, dropped: None, refused: None });
    }
    let net = root.join("thread-self/net");
    if let Some(conntrack) = &mut facts.conntrack {
        let statistics =
            keep(&mut errors, text(&net.join("stat/nf_conntrack"))).unwrap_or_default();
        conntrack.dropped = column(&statistics, "drop");
        conntrack.refused = column(&statistics, "insert_failed");
    }
    facts.port_range = keep(&mut errors, sysctl::port_range(root));
    facts.reserved_ports = keep(&mut errors, sysctl::reserved_ports(root));
    facts.time_wait = keep(&mut errors, time_wait_sockets(&net));
    facts.counters = keep(&mut errors, TcpExt::read(&net));
    facts.counters_before = facts.counters.clone();
    (facts, errors)
}

/// Settings that old kernels have once for all namespaces, and show in the initial one alone:
/// `tcp_tw_reuse` before 4.10, `tcp_timestamps` before 4.13, `tcp_tw_recycle` always.
///
/// # Source
/// `ipv4_table` (of the initial namespace) and `ipv4_net_table`, net/ipv4/sysctl_net_ipv4.c.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    tw_reuse: Option<u64>,
    tw_recycle: Option<u64>,
    timestamps: Option<u64>,
}

impl Shared {
    /// Those of the namespace that the calling thread is in, below a procfs `root`.
    ///
    /// # Errors
    /// [`HostFactError`].
    pub fn read(root: &Path) -> Result<Self, HostFactError> {
        let number = |name: &str| sysctl::number(root, name);
        Ok(Self {
            tw_reuse: number("net/ipv4/tcp_tw_reuse")?,
            tw_recycle: number("net/ipv4/tcp_tw_recycle")?,
            timestamps: number("net/ipv4/tcp_timestamps")?,
        })
    }
}

impl NamespaceFacts {
    /// Whether settings that every kernel has are not shown in this namespace, `recycles` telling
    /// whether this kernel recycles.
    pub const fn lacks_shared(&self, recycles: bool) -> bool {
        self.tw_reuse.is_none()
            || self.timestamps.is_none()
            || recycles && self.tw_recycle.is_none()
    }

    /// Takes what is not shown here from what holds for all.
    pub fn take_shared(&mut self, shared: Shared) {
        self.tw_reuse = self.tw_reuse.or(shared.tw_reuse);
        self.tw_recycle = self.tw_recycle.or(shared.tw_recycle);
        self.timestamps = self.timestamps.or(shared.timestamps);
    }
}

/// Reads which of a namespace's ports are held by something else than TIME_WAIT, for some peers. A
/// thread inside the namespace calls it, as [`namespace`], whose facts say which ports matter. It
/// looks at every socket, so not as often as at the rest.
///
/// # Errors
/// [`HostFactError`].
pub fn open_ports(
    root: &Path,
    facts: &NamespaceFacts,
    peers: &[SocketAddr],
) -> Result<OpenPorts, HostFactError> {
    open::read(&root.join("thread-self/net"), |port| facts.may_choose(port), peers)
}

/// Reads the facts of the whole host: procfs below `proc`, configuration below `root` (`/`).
pub fn host(proc: &Path, root: &Path) -> HostFacts {
    let mut errors = Vec::new();
    let kernel = keep(&mut errors, text(&proc.join("sys/kernel/osrelease"))).unwrap_or_default();
    let files = keep(&mut errors, text(&proc.join("sys/fs/file-nr"))).and_then(|text| {
        let mut numbers = text.split_whitespace().map(str::parse::<u64>);
        Some((numbers.next()?.ok()?, numbers.nth(1)?.ok()?))
    });
    // Only root may read it, and without it the size is known well enough.
    let slab = text(&proc.join("slabinfo")).ok().flatten().unwrap_or_default();
    HostFacts {
        kernel: kernel.trim().to_owned(),
        files,
        socket_bytes: slab_object(&slab, "tw_sock_TCP"),
        recycle_configured: configured::settings(root, "tcp_tw_recycle"),
        namespaces: BTreeMap::new(),
        nats: Vec::new(),
        near_limit: Vec::new(),
        unread: errors.iter().map(ToString::to_string).collect(),
    }
}

/// The value, or its default and one more error.
fn keep<T: Default>(errors: &mut Vec<HostFactError>, read: Result<T, HostFactError>) -> T {
    read.unwrap_or_else(|error| {
        errors.push(error);
        T::default()
    })
}

/// The sum of a column of hexadecimal numbers, below its name in the first line: a line a processor.
fn column(table: &str, name: &str) -> Option<u64> {
    let mut lines = table.lines();
    let at = lines.next()?.split_whitespace().position(|word| word == name)?;
    lines.map(|line| u64::from_str_radix(line.split_whitespace().nth(at)?, 16).ok()).sum()
}

/// Bytes of an object of a slab: the fourth word of its line, after name, active and all.
fn slab_object(slabinfo: &str, name: &str) -> Option<u64> {
    let mut lines = slabinfo.lines().map(str::split_whitespace);
    let mut words = lines.find_map(|mut words| (words.next() == Some(name)).then_some(words))?;
    words.nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_namespaces_facts_are_read_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("sys/net/ipv4/tcp_tw_reuse", "2\n"),
            ("sys/net/ipv4/tcp_tw_reuse_delay", "1000\n"),
            ("sys/net/ipv4/ip_local_port_range", "20000\t20999\n"),
            ("sys/net/ipv4/tcp_max_tw_buckets", "4096\n"),
            ("sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait", "120\n"),
            ("sys/net/netfilter/nf_conntrack_count", "5\n"),
            ("sys/net/netfilter/nf_conntrack_max", "262144\n"),
            ("thread-self/net/sockstat", "TCP: inuse 1 orphan 0 tw 9 alloc 1 mem 0\n"),
            (
                "thread-self/net/stat/nf_conntrack",
                "entries insert_failed drop early_drop\n05 03 10 01\n05 00 02 00\n",
            ),
            ("thread-self/net/netstat", "TcpExt: TW TWKilled\nTcpExt: 4 1\n"),
        ] {
            write(root.path(), name, text);
        }
        let (facts, errors) = namespace(root.path());
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!((facts.tw_reuse, facts.tw_recycle), (Some(2), None));
        assert_eq!(facts.port_range, Some(20_000..=20_999));
        assert_eq!(facts.time_wait, Some(9));
        assert_eq!(facts.counters.get("TW"), Some(4));
        let (dropped, refused) = (Some(18), Some(3));
        let conntrack = Conntrack { time_wait_s: 120, count: 5, max: 262_144, dropped, refused };
        assert_eq!(facts.conntrack, Some(conntrack));
        assert_eq!(facts.rules(), Rules::DelayInMillis);
    }

    #[test]
    fn what_an_old_kernel_shows_in_its_initial_namespace_alone_holds_for_the_others() {
        let (initial, child) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, value) in
            [("tcp_tw_recycle", "1"), ("tcp_tw_reuse", "1"), ("tcp_timestamps", "0")]
        {
            write(initial.path(), &format!("sys/net/ipv4/{name}"), &format!("{value}\n"));
        }
        let (mut facts, errors) = namespace(child.path());
        assert!(errors.is_empty() && facts.lacks_shared(true), "{errors:?}");
        assert_eq!(facts.rules(), Rules::Plain, "as if it could not recycle");
        facts.take_shared(Shared::read(initial.path()).unwrap());
        assert_eq!(
            (facts.tw_recycle, facts.tw_reuse, facts.timestamps),
            (Some(1), Some(1), Some(0))
        );
        assert_eq!((facts.rules(), facts.lacks_shared(true)), (Rules::Recycling, false));
        // From 4.10 on it is the namespace's own, and nothing else holds.
        write(child.path(), "sys/net/ipv4/tcp_tw_reuse", "0\n");
        let (mut facts, _) = namespace(child.path());
        facts.take_shared(Shared::read(initial.path()).unwrap());
        assert_eq!((facts.tw_reuse, facts.timestamps), (Some(0), Some(0)));
        // A kernel of today shows all it has, and is asked for nothing more.
        write(child.path(), "sys/net/ipv4/tcp_timestamps", "1\n");
        assert!(!namespace(child.path()).0.lacks_shared(false));
    }

    #[test]
    fn a_vendors_length_of_time_wait_is_read_where_it_exists() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "sys/net/ipv4/tcp_tw_timeout", "15\n");
        let (facts, errors) = namespace(root.path());
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!((facts.tw_timeout, facts.rules()), (Some(15), Rules::VendorLength));
    }

    #[test]
    fn what_changed_within_the_last_minute_is_told_and_what_was_before_is_not() {
        let mut minute = Minute::default();
        let mut at = |second: u64, overflow| {
            let counters = TcpExt::default().with("TCPTimeWaitOverflow", overflow);
            let facts = NamespaceFacts { counters, ..NamespaceFacts::default() };
            let lately = minute.lately(second * 1_000_000_000, &facts);
            lately.map(|lately| (lately.seconds, lately.overflow))
        };
        assert_eq!(at(100, 7), None, "nothing to compare with");
        assert_eq!(at(104, 9), Some((4.0, 2)));
        assert_eq!(at(110, 9), Some((10.0, 2)));
        assert_eq!(at(163, 9), Some((63.0, 2)));
        assert_eq!(at(164, 9), Some((60.0, 0)));
    }

    #[test]
    fn what_connection_tracking_grew_by_has_lasted_where_both_halves_have_it() {
        let mut minute = Minute::default();
        let mut at = |second: u64, count| {
            let conntrack = Conntrack { count, dropped: Some(second), ..Conntrack::default() };
            let facts = NamespaceFacts { conntrack: Some(conntrack), ..NamespaceFacts::default() };
            let lately = minute.lately(second * 1_000_000_000, &facts)?;
            let growth = lately.conntrack?;
            Some((growth.rate, growth.lasting, growth.dropped))
        };
        assert_eq!(at(100, 0), None);
        assert_eq!(at(104, 400), Some((100.0, 100.0, Some(4))), "nobody looked between");
        assert_eq!(at(105, 500), Some((100.0, 100.0, Some(5))));
        assert_eq!(at(110, 500), Some((50.0, 0.0, Some(10))), "a burst");
        assert_eq!(at(115, 300), Some((20.0, -20.0, Some(15))));
    }

    #[test]
    fn packets_dropped_as_ports_clash_are_told_from_those_dropped_for_want_of_an_entry() {
        let mut minute = Minute::default();
        let mut at = |second: u64, dropped, refused| {
            let conntrack = Conntrack { dropped, refused, ..Conntrack::default() };
            let facts = NamespaceFacts { conntrack: Some(conntrack), ..NamespaceFacts::default() };
            let growth = minute.lately(second * 1_000_000_000, &facts)?.conntrack?;
            Some((growth.dropped, growth.clashed))
        };
        assert_eq!(at(100, Some(7), Some(7)), None);
        assert_eq!(at(101, Some(37), Some(37)), Some((Some(0), Some(30))));
        assert_eq!(at(102, Some(42), Some(37)), Some((Some(5), Some(30))), "no entry for five");
        assert_eq!(at(103, Some(42), Some(80)), Some((Some(0), Some(35))), "resolved, not dropped");
        assert_eq!(at(104, Some(47), None), Some((Some(40), None)), "as it was counted before");
    }

    #[test]
    fn reserved_ports_are_not_chosen() {
        let facts = NamespaceFacts {
            port_range: Some(20_000..=20_999),
            reserved_ports: vec![20_010..=20_019],
            ..NamespaceFacts::default()
        };
        let chosen = |port| facts.may_choose(port);
        assert!(chosen(20_000) && chosen(20_999) && chosen(20_009) && chosen(20_020));
        assert!(!chosen(19_999) && !chosen(21_000) && !chosen(20_010) && !chosen(20_019));
        assert!(!NamespaceFacts::default().may_choose(40_000), "the range is not known");
    }

    #[test]
    fn one_bad_file_is_named_and_the_rest_is_read() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "sys/net/ipv4/tcp_tw_reuse", "on\n");
        write(root.path(), "sys/net/ipv4/tcp_timestamps", "1\n");
        let (facts, errors) = namespace(root.path());
        assert_eq!((facts.tw_reuse, facts.timestamps), (None, Some(1)));
        assert_eq!(errors.len(), 1);
        assert!(errors[0].to_string().contains("tcp_tw_reuse"), "{errors:?}");
    }

    #[test]
    fn the_rules_are_told_by_what_the_kernel_offers() {
        let facts = NamespaceFacts::default();
        assert_eq!(facts.rules(), Rules::Plain);
        let recycling = NamespaceFacts { tw_recycle: Some(0), ..NamespaceFacts::default() };
        assert_eq!(recycling.rules(), Rules::Recycling);
        let vendor = NamespaceFacts { tw_timeout: Some(60), ..NamespaceFacts::default() };
        assert_eq!(vendor.rules(), Rules::VendorLength);
    }

    #[test]
    fn host_facts_need_no_file_in_particular() {
        let root = tempfile::tempdir().unwrap();
        let facts = host(root.path(), root.path());
        assert_eq!((facts.files, facts.socket_bytes), (None, None));
        assert!(facts.unread.is_empty());
        write(root.path(), "sys/fs/file-nr", "1082\t0\t2466193\n");
        write(root.path(), "slabinfo", "tw_sock_TCPv6 1 2 3\ntw_sock_TCP 513 1776 256 16 1\n");
        let facts = host(root.path(), root.path());
        assert_eq!(facts.files, Some((1082, 2_466_193)));
        assert_eq!(facts.socket_bytes, Some(256));
    }
}
