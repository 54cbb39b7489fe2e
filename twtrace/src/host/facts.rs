//! Everything a diagnosis needs to know of the host, gathered.

use std::{collections::BTreeMap, net::SocketAddr, ops::RangeInclusive, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    HostFactError, configured,
    configured::Setting,
    netstat::{TcpExt, time_wait_sockets},
    open::{self, OpenPorts},
    sysctl, text,
};

/// Facts of the whole host, and of those of its network namespaces that matter.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
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
    /// What could not be read; each names its file.
    pub unread: Vec<String>,
}

/// Facts of one network namespace. A sysctl this kernel lacks is `None`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceFacts {
    /// `tcp_tw_reuse`: 0 off, 1 on, 2 loopback only.
    pub tw_reuse: Option<u64>,
    /// `tcp_tw_reuse_delay`, milliseconds; since 6.14.
    pub tw_reuse_delay_ms: Option<u64>,
    /// `tcp_tw_recycle`; gone since 4.12.
    pub tw_recycle: Option<u64>,
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
    #[serde(skip)]
    pub counters_before: TcpExt,
    /// Connection tracking, when it is loaded.
    pub conntrack: Option<Conntrack>,
    /// Ports that are held by something else than TIME_WAIT; `None` if they were not read.
    pub open: Option<OpenPorts>,
}

/// Connection tracking of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conntrack {
    /// `nf_conntrack_tcp_timeout_time_wait`, seconds.
    pub time_wait_s: u64,
    /// `nf_conntrack_count`.
    pub count: u64,
    /// `nf_conntrack_max`.
    pub max: u64,
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
        facts.conntrack = Some(Conntrack { time_wait_s, count, max });
    }
    let net = root.join("thread-self/net");
    facts.port_range = keep(&mut errors, sysctl::port_range(root));
    facts.reserved_ports = keep(&mut errors, sysctl::reserved_ports(root));
    facts.time_wait = keep(&mut errors, time_wait_sockets(&net));
    facts.counters = keep(&mut errors, TcpExt::read(&net));
    facts.counters_before = facts.counters.clone();
    (facts, errors)
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
        let conntrack = Conntrack { time_wait_s: 120, count: 5, max: 262_144 };
        assert_eq!(facts.conntrack, Some(conntrack));
        assert_eq!(facts.rules(), Rules::DelayInMillis);
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
