//! The command line: what a user may type, and nothing of what it does.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

pub use crate::filter::PeerAddress;
use crate::{
    attached::TypesFrom,
    config::{Attach, Flags, Key, WhichObject, parse, ring_bytes, value::Value},
    diagnose::egress::Egress,
    filter::{Expr, FilterError, Op, Side, Term},
    names,
    peer::GroupBy,
    summary::SortKey,
    view::{ExportFormat, Format, ReportFormat},
};

/// Explains why TIME_WAIT sockets pile up: which peers, which path, and why the fast one is closed.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "twtrace",
    version = env!("CARGO_PKG_VERSION"),
    long_version = concat!(
        env!("CARGO_PKG_VERSION"),
        "\ncommit: ", env!("TWTRACE_COMMIT"),
        "\nkernel programs: ringbuf ", env!("TWTRACE_RINGBUF"), ", perf ", env!("TWTRACE_PERF"),
        "\nthose built by: ", env!("TWTRACE_BPF_TOOLCHAIN"),
    ),
    after_help = "Exit status: 0 done, 1 failure, 2 usage; with `-- CMD`, that of the command.\n\
        twtrace only reads: it never changes a setting and never closes a socket."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Say more on stderr; twice for what the kernel's verifier said.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// When to use colour; NO_COLOR is honoured.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
    /// Where the host's root is mounted, such as /host in a debugging container: all files are looked
    /// for there, those of the command line with a slash in front as well.
    #[arg(long, global = true, value_name = "DIRECTORY", value_hint = clap::ValueHint::DirPath)]
    pub host_root: Option<PathBuf>,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Watch sockets enter TIME_WAIT and leave it, peer by peer.
    Watch(WatchArgs),
    /// Tell all that is known of one peer.
    Peer(PeerArgs),
    /// Keep everything that happens in a file, for `replay` and `--replay`.
    Record(RecordArgs),
    /// Watch a recording.
    Replay(ReplayArgs),
    /// Turn a recording's events into rows for other programs: docs/RECORDING.md.
    Export(ExportArgs),
    /// Observe for 15 s, then say what is wrong and what to do, or how far each limit is.
    Diagnose(DiagnoseArgs),
    /// The same for one peer, with its history: since when it has sent no timestamps, and so on.
    Explain(ExplainArgs),
    /// Write one HTML page of an incident, to look at offline or attach to a ticket.
    Report(ReportArgs),
    /// Try other settings on what happened: how many ports would have been held, what would have failed.
    WhatIf(WhatIfArgs),
    /// Run as the host's daemon: answer whoever may ask, and keep the history.
    Daemon(DaemonArgs),
    /// Show the daemon's settings.
    Config(ConfigArgs),
    /// Monitoring plugin: one line, perfdata, and exit status 0, 1, 2 or 3, after 5 s.
    Check(CheckArgs),
    /// Put what a report of a fault needs into one file, which says what is in it. Nothing is sent.
    Support(SupportArgs),
    /// Print what makes a shell complete command lines of twtrace.
    Completions {
        /// The shell.
        shell: CompletedShell,
    },
    /// Write the man pages.
    Man {
        /// Where to; it is made if it is not there.
        directory: PathBuf,
    },
}

/// A shell that completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompletedShell {
    /// To be read by bash: `source <(twtrace completions bash)`.
    Bash,
    /// A file named `_twtrace` on the `fpath`.
    Zsh,
    /// A file in `~/.config/fish/completions`.
    Fish,
}

/// Which sockets, and how the kernel is watched.
#[derive(Clone, Debug, Args)]
pub struct ObserveArgs {
    /// Stop after this long, such as 30s or 5m.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// Only this network namespace: a name of `ip netns`, an inode number, or a path.
    #[arg(long, value_name = "NETNS", help = Key::help_of("netns", "none"))]
    pub netns: Option<String>,
    /// How to attach to the kernel; auto takes the cheapest way that works.
    #[arg(long, value_name = "HOW", help = Key::help_of("attach", "auto"))]
    pub attach: Option<Attach>,
    /// Which kernel programs to load; auto takes those for ring buffers where the kernel has them.
    #[arg(long, value_name = "WHICH", help = Key::help_of("object", "auto"))]
    pub object: Option<WhichObject>,
    /// Where the kernel's types are taken from.
    #[arg(long, value_name = "FILE", help = Key::help_of("btf", "auto"), value_hint = clap::ValueHint::FilePath, value_parser = parse_btf)]
    pub btf: Option<TypesFrom>,
    /// Most sockets followed at once; beyond, counts stay right and lifetimes are sampled.
    #[arg(long, value_name = "N", help = Key::help_of("max_live", MAX_LIVE), value_parser = parse::max_live)]
    pub max_live: Option<u32>,
    /// Whether to ask the host's daemon: auto does if one answers and nothing here needs kernel
    /// programs of its own, as --attach, --object, --btf, --max-live, --buffer and --record do.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub daemon: AskDaemon,
    /// The daemon's socket.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// An address that connections leave through, shared with others: its ports for each destination
    /// (or ports-in-all), and how long it holds one after the end. Like `ports=64512 hold=120s
    /// from=10.0.0.0/8 netns=blue except=10.0.0.0/8`; may be given more than once.
    #[arg(long, value_name = "DESCRIPTION")]
    pub egress: Vec<Egress>,
    /// Take in a recording instead of watching this host.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["attach", "object", "btf", "buffer"])]
    pub replay: Option<PathBuf>,
    /// Take the recording in this many times as fast as it happened; as fast as it goes if not
    /// given.
    #[arg(long, value_name = "TIMES", value_parser = parse_speed)]
    pub speed: Option<f64>,
    /// Size of the event buffer, rounded up to a power of two.
    #[arg(long, value_name = "SIZE", help = Key::help_of("buffer", BUFFER), value_parser = parse::buffer)]
    pub buffer: Option<ByteSize>,
}

/// What is kept of a session.
#[derive(Clone, Debug, Default, Args)]
pub struct KeepArgs {
    /// Keep everything that is taken in in this file too, for `replay` and `--replay`.
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    pub record: Option<PathBuf>,
}

/// What is shown beside.
#[derive(Clone, Debug, Default, Args)]
pub struct NamesArgs {
    /// Names for peers, of the first of these that has one: `hosts` for /etc/hosts, `dns` for reverse
    /// DNS, and files of lines `address[:port] name`.
    #[arg(long, value_name = "SOURCES", value_delimiter = ',')]
    pub names: Vec<names::Source>,
}

/// Where the daemon answers unless its configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/twtrace/twtrace.sock";

/// Whether to ask the host's daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AskDaemon {
    /// If one answers.
    Auto,
    /// Fail if none answers.
    Always,
    /// Load the kernel programs here.
    Never,
}

/// Most sockets followed unless the user says otherwise: as many as of the daemon.
const MAX_LIVE: &str = "262144";
/// The event buffer unless the user says otherwise: twice the daemon's, as it is there for minutes
/// and not for months, and a screen may be drawn meanwhile.
const BUFFER: &str = "8MiB";

impl ObserveArgs {
    /// All of a recording, as fast as it goes.
    pub fn of_recording(file: PathBuf) -> Self {
        Self {
            duration: None,
            netns: None,
            egress: Vec::new(),
            attach: None,
            object: None,
            btf: None,
            max_live: None,
            daemon: AskDaemon::Never,
            socket: DEFAULT_SOCKET.into(),
            replay: Some(file),
            speed: None,
            buffer: None,
        }
    }

    /// The flags that say something of kernel programs, and would have no effect on those of a daemon.
    pub fn of_own_programs(&self) -> Vec<&'static str> {
        let given = [
            ("--attach", self.attach.is_some_and(|attach| attach != Attach::Auto)),
            ("--object", self.object.is_some_and(|object| object != WhichObject::Auto)),
            ("--btf", self.btf.as_ref().is_some_and(|btf| *btf != TypesFrom::Kernel)),
            ("--max-live", self.max_live.is_some()),
            ("--buffer", self.buffer.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect()
    }

    /// The only network namespace meant, if one is.
    pub fn only_netns(&self) -> Option<String> {
        self.netns.as_deref().and_then(|name| parse::netns(name).ok().flatten())
    }

    /// Most sockets followed at once.
    pub fn most_live(&self) -> u32 {
        let default = || parse::max_live(MAX_LIVE).expect("a test reads it");
        self.max_live.unwrap_or_else(default)
    }

    /// Size of the event buffer, bytes: a power of two.
    pub fn buffer_bytes(&self) -> u32 {
        let default = || parse::buffer(BUFFER).expect("a test reads it");
        ring_bytes(self.buffer.unwrap_or_else(default))
    }
}

/// Arguments of `twtrace watch`.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// Only sockets that match, in the syntax of ss: dst 10.0.0.0/8 and not timestamps.
    #[arg(value_name = "EXPRESSION")]
    pub expression: Vec<String>,
    /// Which sockets, and how.
    #[command(flatten)]
    pub observe: ObserveArgs,
    /// Only peers in this network or with this address; may be given several times.
    #[arg(long, value_name = "CIDR", value_parser = parse_network)]
    pub peer: Vec<IpNet>,
    /// Only connections to this port of the peer.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Only connections from this port of this host.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub local_port: Option<u16>,
    /// Only IPv4 (v4-mapped included).
    #[arg(short = '4', conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// Only IPv6.
    #[arg(short = '6', id = "ipv6")]
    pub ipv6: bool,
    /// Stop after this many entries.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Time between two tables, or two documents of ndjson.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    pub interval: Duration,
    /// What a row stands for.
    #[arg(long, value_name = "WHAT", default_value = "peer")]
    pub by: GroupBy,
    /// Prefix lengths of `--by subnet`, for IPv4 and IPv6.
    #[arg(long, value_name = "V4,V6", default_value = "24,64", value_parser = parse_prefixes)]
    pub prefixes: crate::peer::Prefixes,
    /// Most rows shown; the others are summed up. [default: 20 in tables, else all]
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,
    /// Order of the rows.
    #[arg(long, value_name = "KEY", default_value = "entered")]
    pub sort: SortKey,
    /// Most rows kept; the others are counted together.
    #[arg(long, value_name = "N", help = Key::of("max_peers").map(|key| key.help.trim()), default_value_t = 65_536, value_parser = parse::max_peers)]
    pub max_peers: usize,
    /// Entries only, at the lowest cost: what lives and how it ends stays unknown.
    #[arg(long)]
    pub no_ends: bool,
    /// Output format.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    /// One line an event instead of sums.
    #[arg(long)]
    pub events: bool,
    /// A simple table on a terminal as well, instead of the full screen.
    #[arg(long)]
    pub plain: bool,
    /// What peers are called.
    #[command(flatten)]
    pub names: NamesArgs,
    /// What is kept of it.
    #[command(flatten)]
    pub keep: KeepArgs,
    /// Watch while this command runs, and stop with it.
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

impl WatchArgs {
    /// Which sockets are meant, by the expression and by the options that stand for one.
    ///
    /// # Errors
    /// [`FilterError`] if the expression is none.
    pub fn selection(&self) -> Result<Expr, FilterError> {
        let networks = self.peer.iter().map(|net| Term::Host(Side::Remote, *net).into());
        let port = |side, port: Option<u16>| port.map(|port| Term::Port(side, Op::Eq, port).into());
        let family = match (self.ipv4, self.ipv6) {
            (true, _) => Some(IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0)),
            (_, true) => Some(IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0)),
            _ => None,
        };
        Ok(Expr::all(
            [Expr::any(networks)]
                .into_iter()
                .chain(port(Side::Remote, self.port))
                .chain(port(Side::Local, self.local_port))
                .chain(family.map(|family| Term::Host(Side::Remote, family).into()))
                .chain([self.expression.join(" ").parse()?]),
        ))
    }
}

/// Arguments of `twtrace record`.
#[derive(Clone, Debug, Args)]
pub struct RecordArgs {
    /// The file; one that is there is replaced.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Which sockets, and how.
    #[command(flatten)]
    pub observe: ObserveArgs,
    /// Begin another file when this one is that large, such as 64MiB; a number alone is MiB. The one
    /// before becomes FILE.1, and so on.
    #[arg(long, value_name = "SIZE", value_parser = <ByteSize as Value>::read)]
    pub rotate: Option<ByteSize>,
    /// Most files kept, the one being written among them.
    #[arg(long, value_name = "N", default_value_t = 8, requires = "rotate", value_parser = parse_keep)]
    pub keep: usize,
}

/// Arguments of `twtrace replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// The recording.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What to show of it, and how.
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// Arguments of `twtrace export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// The recording.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only sockets that match, in the syntax of ss: dst 10.0.0.0/8 and not timestamps.
    #[arg(value_name = "EXPRESSION")]
    pub expression: Vec<String>,
    /// What to make of it.
    #[arg(short, long, value_name = "FORMAT")]
    pub format: ExportFormat,
    /// Where to put it, instead of standard output; a file that is there is replaced.
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
}

/// Arguments of `twtrace peer`.
#[derive(Clone, Debug, Args)]
pub struct PeerArgs {
    /// Address of the peer, and its port if it is the server: 10.2.0.2:8080, [2001:db8::2]:443.
    #[arg(value_name = "ADDR[:PORT]")]
    pub peer: PeerAddress,
    /// Which sockets, and how.
    #[command(flatten)]
    pub observe: ObserveArgs,
    /// What peers are called.
    #[command(flatten)]
    pub names: NamesArgs,
    /// What is kept of it.
    #[command(flatten)]
    pub keep: KeepArgs,
    /// Output format: table or json.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// Arguments of `twtrace diagnose`.
#[derive(Clone, Debug, Args)]
pub struct DiagnoseArgs {
    /// Which sockets, and how.
    #[command(flatten)]
    pub observe: ObserveArgs,
    /// What peers are called.
    #[command(flatten)]
    pub names: NamesArgs,
    /// What is kept of it.
    #[command(flatten)]
    pub keep: KeepArgs,
    /// Output format.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: ReportFormat,
}

/// Arguments of `twtrace explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Address of the peer, and its port if it is the server: 10.2.0.2:8080, [2001:db8::2]:443.
    #[arg(value_name = "ADDR[:PORT]")]
    pub peer: PeerAddress,
    /// Which sockets, and how.
    #[command(flatten)]
    pub observe: ObserveArgs,
    /// What peers are called.
    #[command(flatten)]
    pub names: NamesArgs,
    /// What is kept of it.
    #[command(flatten)]
    pub keep: KeepArgs,
    /// Output format.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: ReportFormat,
}

/// Arguments of `twtrace report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// The page; one that is there is replaced. It observes for a minute unless told otherwise.
    #[arg(value_name = "OUT.html")]
    pub out: PathBuf,
    /// What the daemon remembers of this long, such as 2h, by the minute.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "replay")]
    pub since: Option<Duration>,
    /// Which sockets, and how.
    #[command(flatten)]
    pub observe: ObserveArgs,
    /// What peers are called.
    #[command(flatten)]
    pub names: NamesArgs,
    /// What is kept of it.
    #[command(flatten)]
    pub keep: KeepArgs,
}

/// Arguments of `twtrace what-if`.
#[derive(Clone, Debug, Args)]
pub struct WhatIfArgs {
    /// What would have been different, such as tcp_tw_reuse=1; several are tried together. Without, what
    /// is worth a try anywhere is tried one by one.
    #[arg(long, value_name = "NAME=VALUE", help = set_help())]
    pub set: Vec<String>,
    /// Which sockets, and how.
    #[command(flatten)]
    pub observe: ObserveArgs,
    /// Output format.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: ReportFormat,
}

/// What `--set` takes.
fn set_help() -> String {
    format!(
        "What would have been different; several are tried together: {}. Without, what is worth a try \
         anywhere is tried one by one.",
        crate::what_if::EXAMPLES
    )
}

/// Arguments of `twtrace daemon`.
#[derive(Clone, Debug, Args)]
pub struct DaemonArgs {
    /// Read the settings from this file. [default: /etc/twtrace/twtrace.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Only say what is wrong with the settings, with line and column; nothing if they are good.
    #[arg(long)]
    pub check_config: bool,
    /// Settings that precede the file.
    #[command(flatten)]
    pub flags: Flags,
}

/// Arguments of `twtrace config`.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// Print the default settings, each with what it is for: a file to begin with.
    #[arg(long, required = true)]
    pub print_default: bool,
}

/// Arguments of `twtrace check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Which sockets, and how.
    #[command(flatten)]
    pub observe: ObserveArgs,
    /// WARNING above this share of a limit: ports of a peer, tcp_max_tw_buckets, nf_conntrack_max.
    #[arg(long, value_name = "PERCENT", default_value_t = 70)]
    pub warn: u32,
    /// CRITICAL above this share of a limit; from 90 on only where what is left is not known to do.
    #[arg(long, value_name = "PERCENT", default_value_t = 90)]
    pub crit: u32,
}

/// Arguments of `twtrace support`.
#[derive(Clone, Debug, Args)]
pub struct SupportArgs {
    /// The file, an archive of tar and gzip; one that is there is replaced.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Which sockets, and how: as of the command that did not do what it should.
    #[command(flatten)]
    pub observe: ObserveArgs,
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    text.parse::<IpNet>()
        .map(crate::filter::canonical)
        .map_err(|_| "give an address or a network, such as 10.2.0.0/16 or 2001:db8::/32".into())
}

/// A file may be named from where one stands; the daemon stands nowhere.
fn parse_btf(text: &str) -> Result<TypesFrom, String> {
    parse::btf(text).or_else(|error| {
        let path = std::path::absolute(text).map_err(|_| error)?;
        Ok(TypesFrom::File(path))
    })
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval < Duration::from_millis(50) {
        return Err("an interval is at least 50ms".into());
    }
    Ok(interval)
}

fn parse_speed(text: &str) -> Result<f64, String> {
    let speed = text.parse::<f64>().ok().filter(|speed| speed.is_finite() && *speed > 0.0);
    speed.ok_or_else(|| "a speed is a number above 0, such as 10 or 0.5".into())
}

fn parse_keep(text: &str) -> Result<usize, String> {
    let keep = text.parse::<usize>().ok().filter(|keep| *keep > 0);
    keep.ok_or_else(|| "at least one file is kept".into())
}

fn parse_prefixes(text: &str) -> Result<crate::peer::Prefixes, String> {
    let parsed = text.split_once(',').and_then(|(v4, v6)| {
        Some(crate::peer::Prefixes { v4: v4.parse().ok()?, v6: v6.parse().ok()? })
    });
    parsed
        .filter(|prefixes| prefixes.v4 <= 32 && prefixes.v6 <= 128)
        .ok_or_else(|| "give two prefix lengths, such as 24,64".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    fn observed(flags: &[&str]) -> Result<ObserveArgs, clap::Error> {
        let words = ["twtrace", "watch"].iter().chain(flags);
        let Command::Watch(args) = Cli::try_parse_from(words)?.command else { panic!("watch") };
        Ok(args.observe)
    }

    #[test]
    fn a_setting_is_read_as_the_daemon_reads_it() {
        let none = observed(&[]).unwrap();
        assert_eq!((none.most_live(), none.buffer_bytes()), (262_144, 8 << 20));
        for text in ["32", "32MiB", "32 MiB", "31MiB"] {
            assert_eq!(observed(&["--buffer", text]).unwrap().buffer_bytes(), 32 << 20, "{text}");
        }
        let error = observed(&["--buffer", "2GiB"]).unwrap_err().to_string();
        assert!(error.contains("must be from 1.0 MiB to 1.0 GiB"), "{error}");
        let btf = |text| observed(&["--btf", text]).unwrap().btf;
        assert_eq!(btf("none"), Some(TypesFrom::Nowhere));
        assert_eq!(btf("auto"), Some(TypesFrom::Kernel));
        let here = std::env::current_dir().unwrap().join("a.btf");
        assert_eq!(btf("a.btf"), Some(TypesFrom::File(here)));
        assert_eq!(observed(&["--netns", "none"]).unwrap().only_netns(), None);
    }

    #[test]
    fn flags_that_a_daemon_would_not_heed_are_named() {
        let named = |flags: &[&str]| observed(flags).unwrap().of_own_programs();
        assert!(named(&["--attach", "auto", "--object", "auto", "--btf", "auto"]).is_empty());
        assert!(named(&["--netns", "7", "--for", "1s"]).is_empty());
        assert_eq!(
            named(&["--buffer", "8", "--max-live", "9", "--btf", "none", "--object", "perf"]),
            ["--object", "--btf", "--max-live", "--buffer"]
        );
    }

    #[test]
    fn networks_are_truncated_and_single_addresses_taken_whole() {
        assert_eq!(parse_network("10.2.3.4/16").map(|n| n.to_string()), Ok("10.2.0.0/16".into()));
        assert_eq!(parse_network("10.2.3.4").map(|n| n.to_string()), Ok("10.2.3.4/32".into()));
        assert!(parse_network("10.2.3.4/33").is_err());
    }
}
