//! The one definition of every key.

use std::{path::PathBuf, time::Duration};

use bytesize::ByteSize;

use super::choice::{Attach, WhichObject};
use super::{
    TakesEffect,
    value::{Egresses, HostNames, Listen, LogLevel, Mode, Shape, Value, within},
};
use crate::attached::TypesFrom;

/// One key: what the file, the flags and the documentation say of it.
#[derive(Debug)]
pub struct Key {
    /// Heading it stands under.
    pub group: &'static str,
    /// Name in the file; the flag has dashes for underscores.
    pub name: &'static str,
    /// What it is for, one sentence or two.
    pub help: &'static str,
    /// Its default, as text.
    pub default: &'static str,
    /// What stands for the value in help texts.
    pub value_name: &'static str,
    /// How the file writes it.
    pub shape: Shape,
    /// When a change has effect.
    pub change: TakesEffect,
    /// Reads a value into the settings; the error says what is wanted instead.
    pub set: fn(&mut DaemonConfig, &str) -> Result<(), String>,
    /// Copies the value from other settings.
    pub copy: fn(&mut DaemonConfig, &DaemonConfig),
    /// Whether two settings differ in it.
    pub differs: fn(&DaemonConfig, &DaemonConfig) -> bool,
}

impl Key {
    /// Its flag, without the dashes in front.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// What help texts say of a key that a command gives another default.
    ///
    /// # Panics
    /// There is no such key.
    pub fn help_of(name: &str, default: &str) -> String {
        let key = Self::of(name).expect("a key of the list");
        format!("{} [default: {default}]", key.help.trim())
    }

    /// The key of a name.
    pub fn of(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }
}

/// Makes the settings and the table of keys from one list.
macro_rules! settings {
    ($($group:literal { $(
        $(#[doc = $help:literal])+
        $name:ident: $type:ty = $default:literal $(in $range:expr)?, $change:ident;
    )+ })+) => {
        /// The daemon's settings.
        #[derive(Clone, Debug, PartialEq)]
        pub struct DaemonConfig {
            $($( $(#[doc = $help])+ pub $name: $type, )+)+
        }

        /// Every key, in the order of the default file.
        pub static KEYS: &[Key] = &[$($(
            Key {
                group: $group,
                name: stringify!($name),
                help: concat!($($help),+),
                default: $default,
                value_name: <$type as Value>::NAME,
                shape: <$type as Value>::SHAPE,
                change: TakesEffect::$change,
                set: |config, text| {
                    config.$name = parse::$name(text)?;
                    Ok(())
                },
                copy: |config, from| config.$name.clone_from(&from.$name),
                differs: |one, other| one.$name != other.$name,
            },
        )+)+];

        /// Reads the value of one key, wherever it stands.
        pub mod parse {
            use super::*;

            $($(
                /// Reads it; the error says what is wanted instead.
                pub fn $name(text: &str) -> Result<$type, String> {
                    let value = <$type as Value>::read(text)?;
                    $( within(&value, &$range)?; )?
                    Ok(value)
                }
            )+)+
        }

        impl Default for DaemonConfig {
            fn default() -> Self {
                Self {
                    $($( $name: <$type as Value>::read($default)
                        .expect("a test reads every default"), )+)+
                }
            }
        }
    };
}

settings! {
    "What is watched" {
        /// How to attach to the kernel; auto takes the cheapest way that works.
        attach: Attach = "auto", Restart;
        /// Which kernel programs to load; auto takes those for ring buffers where the kernel has
        /// them.
        object: WhichObject = "auto", Restart;
        /// Only this network namespace: a name of `ip netns`, an inode number, or a path.
        netns: Option<String> = "none", Restart;
        /// Take the kernel's types from this file; auto takes the kernel's own,
        /// /sys/kernel/btf/vmlinux, none does without.
        btf: TypesFrom = "auto", Restart;
        /// Most sockets followed at once; beyond, counts stay right and lifetimes are sampled.
        max_live: u32 = "262144" in 1..=16_777_216, Restart;
        /// Most peers told apart; the others are counted together.
        max_peers: usize = "65536" in 1..=16_777_216, Restart;
        /// Addresses that connections leave through, shared with others: ports for each destination (or
        /// ports-in-all), how long one is held after the end, networks and namespaces whose connections
        /// leave so, and destinations that do not. In the file a table [[egress]] each, behind all other
        /// keys; as a flag ports=64512 hold=120s from=10.0.0.0/8 netns=blue except=10.0.0.0/8, several
        /// with ; between.
        egress: Option<Egresses> = "none", Reload;
        /// Size of the event buffer, such as 8MiB, rounded up to a power of two; a number alone is
        /// MiB.
        buffer: ByteSize = "4MiB" in ByteSize::mib(1)..=ByteSize::gib(1), Restart;
    }
    "What is kept" {
        /// How far back the minutes of each peer are kept.
        history: Duration = "6h" in Duration::from_secs(60)..=Duration::from_secs(172_800), Reload;
        /// Memory the whole may take; what does not fit into it is refused at the start, and what
        /// is left over is for the history.
        memory: ByteSize = "96MiB" in ByteSize::mib(16)..=ByteSize::gib(64), Restart;
        /// File that keeps the history over a restart.
        state_file: Option<PathBuf> = "/var/lib/twtrace/state", Restart;
        /// Time between two writes of that file; it is written at the end as well.
        save_every: Duration = "5m" in Duration::from_secs(10)..=Duration::from_secs(86_400), Reload;
    }
    "Who may ask" {
        /// Unix socket of the local API.
        socket: PathBuf = "/run/twtrace/twtrace.sock", Restart;
        /// Access mode of the socket, octal.
        socket_mode: Mode = "0660", Restart;
        /// Group of the socket: those in it may ask.
        socket_group: Option<String> = "none", Restart;
        /// File whose lock says that a daemon runs on this host.
        lock_file: PathBuf = "/run/twtrace/twtrace.lock", Restart;
        /// Address and port of /metrics and /healthz over TCP; a port alone is on loopback.
        listen: Option<Listen> = "none", Restart;
        /// Names by which clients over TCP may ask, beside addresses, localhost and the host's own.
        listen_names: Option<HostNames> = "none", Restart;
        /// Most peers with metrics of their own; the others are under `other`.
        metrics_peers: usize = "100" in 0..=10_000, Reload;
        /// Most connections at once. Of those on the socket a quarter is kept for root and the
        /// daemon's own user; over TCP come at most a quarter of all, if it listens there.
        max_connections: usize = "64" in 4..=4096, Reload;
        /// Longest request line and headers.
        max_header: ByteSize = "8KiB" in ByteSize::kib(8)..=ByteSize::mib(1), Reload;
        /// Time for a request to arrive, for the next one to begin, and for it to be answered.
        request_time: Duration = "10s" in Duration::from_millis(100)..=Duration::from_secs(600), Reload;
        /// Time for a large answer to be taken whole, and for the beginning of a feed.
        answer_time: Duration = "30s" in Duration::from_millis(100)..=Duration::from_secs(600), Reload;
        /// Time after which a client that takes nothing of what it asked for is cut off.
        stall_time: Duration = "10s" in Duration::from_millis(100)..=Duration::from_secs(600), Reload;
    }
    "What is logged" {
        /// error, warn, info, debug or trace.
        log: LogLevel = "info", Reload;
    }
}

/// Bytes of a process that follows nothing, its event buffer aside: the binary and the runtime.
const BASE_BYTES: u64 = 14 << 20;
/// The event buffer is resident twice: the kernel maps it once more behind itself, so that no record
/// is ever in two pieces.
const BUFFER_TIMES: u64 = 2;
/// Bytes a peer takes beside its minutes: a row, its place in the index, and for one in four the
/// histogram and the seconds of a busy one. With 65,536 peers and 200,000 live sockets, all of one
/// connection each, a daemon was seen to take 430.
const PEER_BYTES: u64 = 640;
/// Bytes a socket takes while it is followed.
const SOCKET_BYTES: u64 = 36;

/// The size of a ring buffer, which is a power of two.
pub fn ring_bytes(buffer: ByteSize) -> u32 {
    let bytes = buffer.as_u64().next_power_of_two();
    u32::try_from(bytes).unwrap_or(1 << 31)
}

impl DaemonConfig {
    /// What these settings need in the worst case, bytes, without any history.
    pub fn memory_needed(&self) -> u64 {
        let peers = (self.max_peers as u64).saturating_mul(PEER_BYTES);
        let sockets = u64::from(self.max_live).saturating_mul(SOCKET_BYTES);
        let buffer = self.buffer.as_u64().saturating_mul(BUFFER_TIMES);
        BASE_BYTES.saturating_add(buffer).saturating_add(peers).saturating_add(sockets)
    }

    /// What is left for the history, bytes.
    pub fn history_bytes(&self) -> u64 {
        self.memory.as_u64().saturating_sub(self.memory_needed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_within_its_own_bounds() {
        for key in KEYS {
            let mut config = DaemonConfig::default();
            (key.set)(&mut config, key.default).unwrap_or_else(|error| {
                panic!("{} = {}: {error}", key.name, key.default);
            });
            assert!(!(key.differs)(&config, &DaemonConfig::default()), "{}", key.name);
        }
    }

    #[test]
    fn every_key_says_what_it_is_for_in_a_sentence() {
        for key in KEYS {
            assert!(key.help.ends_with('.'), "{}: {}", key.name, key.help);
            assert!(key.help.starts_with(' '), "a doc comment begins with a space");
        }
    }

    #[test]
    fn a_value_out_of_bounds_is_refused_with_the_bounds() {
        let mut config = DaemonConfig::default();
        let set = |config: &mut DaemonConfig, name: &str, text: &str| {
            (Key::of(name).unwrap().set)(config, text).unwrap_err()
        };
        assert_eq!(set(&mut config, "max_live", "0"), "must be from 1 to 16777216");
        let buffer = set(&mut config, "buffer", "2GiB");
        assert_eq!(buffer, "must be from 1.0 MiB to 1.0 GiB");
        assert_eq!(set(&mut config, "save_every", "1s"), "must be from 10s to 1day");
        assert_eq!(config, DaemonConfig::default(), "a refused value changes nothing");
    }
}
