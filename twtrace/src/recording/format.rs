//! What the JSON parts of a recording hold.
//!
//! These types are the file's own: what the program thinks with may change its names and shapes, these
//! may not. A key is never given another meaning. One may be added if it may be absent: `Option`, or
//! marked `#[serde(default)]`. All others have to be there, so that a key that was written wrongly
//! is an error and no 0. A test has all keys in a golden file.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    hash::Hash,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, Visitor},
};

use crate::{
    attached::{Backend, FailedWay, ObjectKind, Types},
    audit::{Audit, Audited, Basis, Compared},
    event::Role,
    filter::Selection,
    host::{
        configured::Setting,
        facts::{Conntrack, HostFacts, NamespaceFacts},
        files::ProcessFiles,
        nat::{Carried, FoundNat, NatKind},
        netstat::TcpExt,
        open::OpenPorts,
    },
    origin::{Moment, Origin},
    owner::{MAX_NAME, Owned, Owner, OwnerKind, Subject},
    peer::{
        Past,
        history::{Change, Span},
        minutes::Minute,
    },
    totals::Totals,
    units::{Clock, Hz},
};

/// One as the other: what the file has as what the program has, and back.
pub trait Turn<T> {
    /// The same as the other.
    fn turn(self) -> T;
}

/// Values that are the same in both: numbers, texts, and words that a value has for itself.
macro_rules! same {
    ($($type:ty),+ $(,)?) => {$(
        impl Turn<$type> for $type {
            fn turn(self) -> $type {
                self
            }
        }
    )+};
}
same!(
    bool,
    i32,
    u16,
    u32,
    u64,
    usize,
    (u64, u64),
    String,
    PathBuf,
    IpAddr,
    RangeInclusive<u16>,
    Backend,
    Basis,
    Carried,
    NatKind,
    BTreeMap<IpAddr, u64>,
    BTreeMap<SocketAddr, BTreeMap<IpAddr, u64>>,
    BTreeMap<SocketAddr, BTreeMap<IpAddr, BTreeMap<String, u64>>>,
    BTreeSet<u16>,
    Clock,
    Hz,
    ObjectKind,
    OwnerKind,
    Role,
    Selection,
    TcpExt,
    Totals,
    Types,
);

impl<A: Turn<B>, B> Turn<Option<B>> for Option<A> {
    fn turn(self) -> Option<B> {
        self.map(Turn::turn)
    }
}

impl<A: Turn<B>, B> Turn<Vec<B>> for Vec<A> {
    fn turn(self) -> Vec<B> {
        self.into_iter().map(Turn::turn).collect()
    }
}

impl<A: Turn<B>, B> Turn<BTreeMap<u32, B>> for BTreeMap<u32, A> {
    fn turn(self) -> BTreeMap<u32, B> {
        self.into_iter().map(|(key, value)| (key, value.turn())).collect()
    }
}

impl<K: Eq + Hash> Turn<HashMap<K, String>> for HashMap<K, String> {
    fn turn(self) -> Self {
        self
    }
}

/// Types of the file, each with what it is in the program. What the program adds of its own is at its
/// default when it is read.
macro_rules! file {
    ($($(#[$doc:meta])* $name:ident = $program:ident $(and $rest:expr)? => {
        $($(#[$field_doc:meta])* $field:ident: $type:ty,)+
    })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Serialize, Deserialize)]
        pub struct $name { $($(#[$field_doc])* $field: $type,)+ }

        impl Turn<$program> for $name {
            fn turn(self) -> $program {
                $program { $($field: self.$field.turn(),)+ $(..$rest)? }
            }
        }

        impl Turn<$name> for $program {
            fn turn(self) -> $name {
                $name { $($field: self.$field.turn(),)+ }
            }
        }
    )+};
}

file! {
    /// The header.
    FileOrigin = Origin => {
        abi: u32,
        program: String,
        host: String,
        kernel: String,
        boot_id: String,
        clock: Clock,
        hz: Hz,
        recycle_exists: bool,
        backend: Backend,
        #[serde(default)]
        object: ObjectKind,
        #[serde(default)]
        types: Types,
        refused: Vec<FileFailedWay>,
        #[serde(default)]
        binds_by_cgroup: bool,
        follow_ends: bool,
        #[serde(default)]
        counts_failures: bool,
        #[serde(default)]
        selection: Selection,
        #[serde(default)]
        netns_names: HashMap<u32, String>,
        #[serde(default)]
        cgroup_names: HashMap<u64, String>,
        #[serde(default)]
        totals_before: Totals,
        #[serde(default)]
        skipped_before: u64,
        #[serde(default)]
        audit_before: Option<FileAudit>,
    }

    /// A way to attach that did not work.
    FileFailedWay = FailedWay => {
        backend: Backend,
        reason: String,
    }

    /// The facts of a moment.
    FileMoment = Moment => {
        clock: Clock,
        totals: Totals,
        skipped: u64,
        #[serde(default)]
        audit: Option<FileAudit>,
        facts: Option<FileFacts>,
        netns_names: HashMap<u32, String>,
        cgroup_names: HashMap<u64, String>,
    }

    /// What the kernel counted against what its programs did.
    FileAudit = Audit => {
        basis: Basis,
        namespaces: BTreeMap<u32, FileAudited>,
        gone: FileAudited,
        unaudited: u64,
    }

    /// The same of one namespace.
    FileAudited = Audited => {
        #[serde(default)]
        cookie: u64,
        #[serde(flatten)]
        entries: FileCompared,
        #[serde(default)]
        reused: Option<FileCompared>,
        #[serde(default)]
        overflow: Option<FileCompared>,
        #[serde(default)]
        live: Option<FileCompared>,
    }

    /// One count of both.
    FileCompared = Compared => {
        kernel: u64,
        counted: u64,
        missing: u64,
    }

    /// Facts of the host.
    FileFacts = HostFacts => {
        kernel: String,
        files: Option<(u64, u64)>,
        socket_bytes: Option<u64>,
        recycle_configured: Vec<FileSetting>,
        #[serde(deserialize_with = "bounded")]
        namespaces: BTreeMap<u32, FileNamespace>,
        #[serde(default, deserialize_with = "few")]
        nats: Vec<FileNat>,
        #[serde(default, deserialize_with = "few_processes")]
        near_limit: Vec<FileProcessFiles>,
        unread: Vec<String>,
    }

    /// A process near its limit of open files.
    FileProcessFiles = ProcessFiles => {
        pid: u32,
        comm: String,
        netns: u32,
        open: u64,
        limit: u64,
        sockets: u64,
    }

    /// A network namespace that gives connections another source address.
    FileNat = FoundNat => {
        netns: u32,
        table: String,
        kind: NatKind,
        ports: u32,
        hold_s: u64,
        carried: Carried,
    }

    /// A line of a configuration file.
    FileSetting = Setting => {
        file: PathBuf,
        line: usize,
        value: String,
    }

    /// Facts of a namespace; its settings are in every moment, so that a change is told with the next.
    FileNamespace = NamespaceFacts and NamespaceFacts::default() => {
        #[serde(default)]
        cookie: u64,
        tw_reuse: Option<u64>,
        tw_reuse_delay_ms: Option<u64>,
        tw_recycle: Option<u64>,
        timestamps: Option<u64>,
        port_range: Option<RangeInclusive<u16>>,
        #[serde(default)]
        reserved_ports: Vec<RangeInclusive<u16>>,
        max_tw_buckets: Option<u64>,
        fin_timeout: Option<u64>,
        rfc1337: Option<u64>,
        tw_timeout: Option<u64>,
        time_wait: Option<u64>,
        counters: TcpExt,
        conntrack: Option<FileConntrack>,
        open: Option<FileOpenPorts>,
    }

    /// Connection tracking of a namespace.
    FileConntrack = Conntrack => {
        time_wait_s: u64,
        count: u64,
        max: u64,
        dropped: Option<u64>,
        #[serde(default)]
        refused: Option<u64>,
    }

    /// Ports held by something else than TIME_WAIT.
    FileOpenPorts = OpenPorts and OpenPorts::default() => {
        #[serde(default)]
        read_ns: u64,
        listening: u64,
        peers: BTreeMap<SocketAddr, BTreeMap<IpAddr, u64>>,
        #[serde(default)]
        fin_wait2: BTreeMap<SocketAddr, BTreeMap<IpAddr, u64>>,
        #[serde(default)]
        complete: bool,
        #[serde(default)]
        connecting: BTreeMap<SocketAddr, BTreeMap<IpAddr, u64>>,
        #[serde(default)]
        sources: BTreeMap<IpAddr, u64>,
        #[serde(default)]
        listeners: BTreeSet<u16>,
        #[serde(default)]
        unanswered: BTreeMap<SocketAddr, BTreeMap<IpAddr, u64>>,
        #[serde(default)]
        half_closed: BTreeMap<SocketAddr, BTreeMap<IpAddr, u64>>,
        #[serde(default)]
        shut_down: BTreeMap<SocketAddr, BTreeMap<IpAddr, u64>>,
        #[serde(default)]
        within: BTreeMap<SocketAddr, BTreeMap<IpAddr, BTreeMap<String, u64>>>,
        #[serde(default)]
        in_use: u64,
        #[serde(default)]
        left_open: BTreeMap<SocketAddr, BTreeMap<IpAddr, u64>>,
    }

    /// What was known of a peer.
    FilePast = Past => {
        netns: u32,
        role: Role,
        address: IpAddr,
        port: u16,
        with: FileSpan,
        without: FileSpan,
        changes: Vec<FileChange>,
        changes_seen: u64,
        minutes: Vec<FileMinute>,
    }

    /// When sockets of one kind were seen.
    FileSpan = Span => {
        first_ns: u64,
        last_ns: u64,
    }

    /// Timestamps began, or went away.
    FileChange = Change => {
        mono_ns: u64,
        before_ns: u64,
        with_timestamps: bool,
    }

    /// One minute of a peer.
    FileMinute = Minute => {
        minute: i32,
        entered: u32,
        without_timestamps: u32,
        blocked: u32,
        fast: u32,
        two_msl: u32,
        other: u32,
        overflow: u32,
        refused: u32,
    }
}

/// Whose a control group or a network namespace is.
#[derive(Debug, Serialize, Deserialize)]
pub struct FileOwned {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cgroup: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns: Option<u32>,
    #[serde(default)]
    cookie: u64,
    owner: Option<FileOwner>,
}

file! {
    /// An owner.
    FileOwner = Owner => {
        kind: OwnerKind,
        name: String,
        #[serde(default)]
        pod: Option<String>,
        #[serde(default)]
        namespace: Option<String>,
        #[serde(default)]
        container: Option<String>,
    }
}

impl From<Owned> for FileOwned {
    fn from(owned: Owned) -> Self {
        let owner = owned.owner.map(Turn::turn);
        match owned.of {
            Subject::Cgroup(id) => Self { cgroup: Some(id), netns: None, cookie: 0, owner },
            Subject::Netns { inum, cookie } => {
                Self { cgroup: None, netns: Some(inum), cookie, owner }
            }
        }
    }
}

impl FileOwned {
    /// What it says, if it is of something that this version knows. Nobody's name is longer than names
    /// are: such an owner is unknown.
    pub fn into_owned(self) -> Option<Owned> {
        let of = match (self.cgroup, self.netns) {
            (Some(id), _) => Subject::Cgroup(id),
            (None, Some(inum)) => Subject::Netns { inum, cookie: self.cookie },
            (None, None) => return None,
        };
        let fits = |owner: &FileOwner| {
            let parts = [&owner.pod, &owner.namespace, &owner.container];
            let most = 2 * MAX_NAME + 1;
            owner.name.len() <= most && parts.into_iter().flatten().all(|part| part.len() <= most)
        };
        Some(Owned { of, owner: self.owner.filter(fits).map(Turn::turn) })
    }
}

/// Most namespaces that facts are told of at once, and more than anybody tells.
const MOST_NAMESPACES: usize = 1024;

/// Reads facts by namespace: a few bytes of text become hundreds, so they are counted.
fn bounded<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<u32, FileNamespace>, D::Error> {
    struct Bounded;
    impl<'de> Visitor<'de> for Bounded {
        type Value = BTreeMap<u32, FileNamespace>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "facts of at most {MOST_NAMESPACES} network namespaces")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut namespaces = BTreeMap::new();
            while let Some((inum, facts)) = map.next_entry()? {
                if namespaces.len() == MOST_NAMESPACES {
                    return Err(A::Error::invalid_length(MOST_NAMESPACES + 1, &self));
                }
                namespaces.insert(inum, facts);
            }
            Ok(namespaces)
        }
    }
    deserializer.deserialize_map(Bounded)
}

/// Reads no more of them than there are namespaces.
fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<FileNat>, D::Error> {
    let all = Vec::<FileNat>::deserialize(deserializer)?;
    let few = all.len() <= MOST_NAMESPACES;
    few.then_some(all).ok_or_else(|| D::Error::custom("too many namespaces with NAT"))
}

fn few_processes<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<FileProcessFiles>, D::Error> {
    let all = Vec::<FileProcessFiles>::deserialize(deserializer)?;
    let few = all.len() <= MOST_NAMESPACES && all.iter().all(|one| one.limit > 0);
    few.then_some(all).ok_or_else(|| D::Error::custom("too many processes near their limit"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::open::range_key;
    use serde_json::Value;

    /// The paths of all keys; what stands for a number or an address is `*`.
    fn keys(value: &Value, at: &str, into: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| {
                let named = key
                    .chars()
                    .all(|char| char.is_ascii_lowercase() || "_0123456789".contains(char))
                    && !key.starts_with(|char: char| char.is_ascii_digit());
                keys(value, &format!("{at}.{}", if named { key } else { "*" }), into);
            }),
            Value::Array(items) => {
                items.iter().for_each(|item| keys(item, &format!("{at}[]"), into))
            }
            _ => {
                into.insert(at.to_owned());
            }
        }
    }

    fn full_facts() -> HostFacts {
        let end = || "10.0.0.1".parse::<IpAddr>().unwrap();
        let held = BTreeMap::from([(SocketAddr::new(end(), 443), BTreeMap::from([(end(), 1)]))]);
        let open = OpenPorts {
            peers: held.clone(),
            fin_wait2: held.clone(),
            connecting: held.clone(),
            unanswered: held.clone(),
            half_closed: held.clone(),
            shut_down: held.clone(),
            left_open: held,
            within: BTreeMap::from([(
                SocketAddr::new(end(), 443),
                BTreeMap::from([(end(), BTreeMap::from([(range_key((1, 2)), 1)]))]),
            )]),
            sources: BTreeMap::from([(end(), 1)]),
            listeners: BTreeSet::from([80]),
            ..OpenPorts::default()
        };
        let namespace = NamespaceFacts {
            port_range: Some(1..=2),
            reserved_ports: vec![1..=1],
            conntrack: Some(Conntrack::default()),
            open: Some(open),
            ..NamespaceFacts::default()
        };
        let carried =
            BTreeMap::from([(8, BTreeMap::from([(end(), [SocketAddr::new(end(), 443)].into())]))]);
        let (table, kind) = ("ip nat".to_owned(), NatKind::Masquerade);
        let nat = FoundNat { netns: 7, table, kind, ports: 1, hold_s: 1, carried };
        let setting = Setting { file: "/etc/sysctl.conf".into(), line: 1, value: "1".into() };
        HostFacts {
            files: Some((1, 2)),
            recycle_configured: vec![setting],
            namespaces: BTreeMap::from([(7, namespace)]),
            nats: vec![nat],
            near_limit: vec![ProcessFiles { limit: 1, ..ProcessFiles::default() }],
            unread: vec!["/proc".into()],
            ..HostFacts::default()
        }
    }

    /// A key that is renamed here makes every older file say nothing of it.
    #[test]
    fn the_keys_of_the_file_are_those_that_were_agreed() {
        let figure = Some(Compared::of(1, 1));
        let entries = Compared::of(1, 1);
        let audited =
            Audited { cookie: 1, entries, reused: figure, overflow: figure, live: figure };
        let audit = Audit {
            basis: Basis::Creations,
            namespaces: BTreeMap::from([(7, audited)]),
            gone: audited,
            unaudited: 0,
        };
        let clock = Clock { mono_ns: 1, wall: std::time::SystemTime::UNIX_EPOCH };
        let names = || HashMap::from([(7, "blue".to_owned())]);
        let refused = vec![FailedWay { backend: Backend::Fentry, reason: "no".into() }];
        let origin = Origin {
            refused,
            audit_before: Some(audit.clone()),
            netns_names: names(),
            ..Origin::bare(Backend::Kprobe, clock, Hz::new(250))
        };
        let moment = Moment {
            audit: Some(audit),
            facts: Some(full_facts()),
            netns_names: names(),
            ..Moment::bare(clock)
        };
        let change = Change { mono_ns: 2, before_ns: 1, with_timestamps: false };
        let past = Past {
            netns: 7,
            role: Role::Client,
            address: "10.0.0.1".parse().unwrap(),
            port: 443,
            with: Span::default(),
            without: Span::default(),
            changes: vec![change],
            changes_seen: 1,
            minutes: vec![Minute::default()],
        };
        let mut all = BTreeSet::new();
        let json = |value: Result<Value, _>| value.expect("plain data");
        keys(&json(serde_json::to_value(Turn::<FileOrigin>::turn(origin))), "header", &mut all);
        keys(&json(serde_json::to_value(Turn::<FileMoment>::turn(moment))), "moment", &mut all);
        keys(&json(serde_json::to_value(Turn::<FilePast>::turn(past))), "past", &mut all);
        let owner = Owner {
            kind: OwnerKind::Pod,
            name: "default/web".into(),
            pod: Some("web".into()),
            namespace: Some("default".into()),
            container: Some("nginx".into()),
        };
        for of in [Subject::Cgroup(1), Subject::Netns { inum: 7, cookie: 1 }] {
            let owned = FileOwned::from(Owned { of, owner: Some(owner.clone()) });
            keys(&json(serde_json::to_value(owned)), "owned", &mut all);
        }
        insta::assert_snapshot!(all.into_iter().collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn a_key_that_has_to_be_there_is_missed_and_one_that_came_later_is_not() {
        let without = |key: &str| {
            let facts: FileFacts = full_facts().turn();
            let mut facts = serde_json::to_value(facts).unwrap();
            facts["namespaces"]["7"].as_object_mut().unwrap().remove(key).expect(key);
            serde_json::from_value::<FileFacts>(facts)
        };
        assert!(without("counters").unwrap_err().to_string().contains("counters"));
        let facts: HostFacts = without("cookie").unwrap().turn();
        assert_eq!(facts.namespaces[&7].cookie, 0);
    }

    #[test]
    fn a_setting_that_changes_is_in_the_next_moment() {
        let at = |reuse| {
            let mut facts = full_facts();
            facts.namespaces.get_mut(&7).unwrap().tw_reuse = Some(reuse);
            let file: FileFacts = facts.turn();
            let read: FileFacts =
                serde_json::from_str(&serde_json::to_string(&file).unwrap()).unwrap();
            let facts: HostFacts = read.turn();
            facts.namespaces[&7].tw_reuse
        };
        assert_eq!((at(0), at(1)), (Some(0), Some(1)));
    }
}
