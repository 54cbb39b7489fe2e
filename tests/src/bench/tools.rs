//! The tools that are compared: twtrace as it is used, and others that do a like job.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Bench;
use super::agent::Agent;

/// The same job for bpftrace: entries by peer with their timestamps, ends by peer and way, and
/// lifetimes, from the same tracepoints. Positions of fields come from the kernel's types.
const BPFTRACE: &str = r#"
tracepoint:timer:timer_start /args->function == kaddr("tw_timer_handler")/ {
    $tw = (struct inet_timewait_sock *)((uint64)args->timer - TIMER);
    if (@entered[$tw] == 0) {
        @entered[$tw] = nsecs;
        @entries[$tw->__tw_common.skc_daddr, $tw->__tw_common.skc_dport] = count();
    }
}
tracepoint:timer:timer_cancel /@entered[(struct inet_timewait_sock *)((uint64)args->timer - TIMER)]/ {
    $tw = (struct inet_timewait_sock *)((uint64)args->timer - TIMER);
    @ends[$tw->__tw_common.skc_daddr, $tw->__tw_common.skc_dport, kstack(8)] = count();
    @lifetimes = hist(nsecs - @entered[$tw]);
    delete(@entered[$tw]);
}
tracepoint:sock:inet_sock_set_state /args->newstate == 7/ {
    $tp = (struct tcp_sock *)args->skaddr;
    @timestamps[args->dport, $tp->rx_opt.ts_recent_stamp != 0] = count();
}
"#;

/// Programs at the same tracepoints that never do anything: the kernel calls them all the same, so
/// nothing that runs there can cost less.
const EMPTY: &str = r#"
tracepoint:timer:timer_start /args->function == 0/ { @never = count(); }
tracepoint:timer:timer_cancel /(uint64)args->timer == 0/ { @never = count(); }
tracepoint:sock:inet_sock_set_state /args->newstate == 0/ { @never = count(); }
"#;

/// A tool to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Nothing runs.
    None,
    /// twtrace as it is used.
    Twtrace,
    /// twtrace with `--no-ends`.
    NoEnds,
    /// A bpftrace script that does the same job.
    Bpftrace,
    /// A bpftrace script that does nothing where the other one runs.
    Empty,
    /// libbpf-tools' `tcplife`: a line for each TCP session.
    Tcplife,
}

impl Tool {
    /// All that trace connections.
    pub const ALL: [Self; 4] = [Self::Twtrace, Self::NoEnds, Self::Bpftrace, Self::Tcplife];

    /// Name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Twtrace => "twtrace",
            Self::NoEnds => "twtrace --no-ends",
            Self::Bpftrace => "bpftrace",
            Self::Empty => "bpftrace, empty programs",
            Self::Tcplife => "tcplife",
        }
    }

    /// Whether it is twtrace.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Twtrace | Self::NoEnds)
    }

    /// Whether this machine has it.
    pub fn is_here(self) -> bool {
        let program = match self {
            Self::None | Self::Twtrace | Self::NoEnds => return true,
            Self::Bpftrace | Self::Empty => "bpftrace",
            Self::Tcplife => "tcplife",
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let common = ["/usr/sbin", "/usr/bin"].map(PathBuf::from);
        std::env::split_paths(&path).chain(common).any(|dir| dir.join(program).is_file())
    }

    /// How many connections it told of in what it wrote: proof that it did its job.
    pub fn counted(self, said: &str) -> Result<u64> {
        match self {
            Self::None | Self::Empty => Ok(0),
            Self::Twtrace | Self::NoEnds => entered(said),
            Self::Bpftrace => entries(said),
            // A line for each end of a connection, below a heading.
            Self::Tcplife => Ok((said.lines().count() as u64).saturating_sub(1) / 2),
        }
    }

    /// Starts it and waits until it counts; `Ok(None)` for nothing.
    pub fn start(self, bench: &Bench) -> Result<Option<Agent>> {
        Ok(Some(match self {
            Self::None => return Ok(None),
            Self::Twtrace => Agent::twtrace(bench, &[])?,
            Self::NoEnds => Agent::twtrace(bench, &["--no-ends"])?,
            Self::Bpftrace => Agent::other(&["bpftrace", "-f", "json", "-e", &script()?])?,
            Self::Empty => Agent::other(&["bpftrace", "-e", EMPTY])?,
            Self::Tcplife => Agent::other(&["tcplife"])?,
        }))
    }
}

/// Entries of twtrace's document.
fn entered(document: &str) -> Result<u64> {
    let document: Value = serde_json::from_str(document).context("twtrace's document")?;
    document["totals"]["entered"].as_u64().context("totals.entered")
}

/// Entries in the map of that name which the bpftrace script prints at its end.
fn entries(said: &str) -> Result<u64> {
    let maps = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found = maps.into_iter().find_map(|map| map["data"]["@entries"].as_object().cloned());
    Ok(found.context("bpftrace printed no @entries")?.values().filter_map(Value::as_u64).sum())
}

/// The script for this kernel.
fn script() -> Result<String> {
    let types = twtrace::kernel::BtfIndex::from_file("/sys/kernel/btf/vmlinux".as_ref())?;
    let timer = types.field("inet_timewait_sock", "tw_timer")?;
    Ok(BPFTRACE.replace("TIMER", &timer.offset.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_tool_counted_is_read_from_what_it_wrote() {
        let twtrace = r#"{"totals":{"entered":3}}"#;
        assert_eq!(Tool::NoEnds.counted(twtrace).unwrap(), 3);
        let bpftrace = "{\"type\": \"map\", \"data\": {\"@ends\": {\"1,2\": 9}}}\n\n\
                        {\"type\": \"map\", \"data\": {\"@entries\": {\"1,2\": 1, \"3,4\": 2}}}\n";
        assert_eq!(Tool::Bpftrace.counted(bpftrace).unwrap(), 3);
        assert!(Tool::Bpftrace.counted("").is_err());
        assert_eq!(Tool::Tcplife.counted("PID\n1\n1\n").unwrap(), 1);
    }
}
