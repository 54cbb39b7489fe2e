//! The kernel's own counts of TIME_WAIT, per network namespace.

use std::fs;

use anyhow::{Context, Result};

use crate::netns::Netns;

/// `/proc/net/netstat` and `/proc/net/sockstat` of one namespace at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// TcpExt `TW`.
    pub tw: u64,
    /// TcpExt `TWKilled`: not "killed", but timers of at most four seconds.
    pub tw_killed: u64,
    /// TcpExt `TWRecycled`: ports taken over by an outgoing connect.
    pub tw_recycled: u64,
    /// TcpExt `TCPTimeWaitOverflow`.
    pub overflow: u64,
    /// sockstat `tw`: live TIME_WAIT sockets, FIN_WAIT2 mini-sockets among them.
    pub live: u64,
}

impl Counters {
    /// Reads the counters of `netns`.
    pub fn read(netns: &Netns) -> Result<Self> {
        // /proc/net would be that of the process; only thread-self follows setns.
        let (netstat, sockstat) = netns.run(|| {
            Ok((
                fs::read_to_string("/proc/thread-self/net/netstat")?,
                fs::read_to_string("/proc/thread-self/net/sockstat")?,
            ))
        })?;
        let ext =
            |name| counter(&netstat, "TcpExt:", name).with_context(|| format!("no TcpExt {name}"));
        Ok(Self {
            tw: ext("TW")?,
            tw_killed: ext("TWKilled")?,
            tw_recycled: ext("TWRecycled")?,
            overflow: ext("TCPTimeWaitOverflow")?,
            live: tcp_sockstat(&sockstat, "tw").context("no tw in sockstat")?,
        })
    }

    /// What was counted since `earlier`; `live` stays as it is, being no counter.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            tw: self.tw - earlier.tw,
            tw_killed: self.tw_killed - earlier.tw_killed,
            tw_recycled: self.tw_recycled - earlier.tw_recycled,
            overflow: self.overflow - earlier.overflow,
            live: self.live,
        }
    }
}

/// Tcp `RetransSegs` of `netns`: segments that were sent again since it was made.
pub fn retransmitted(netns: &Netns) -> Result<u64> {
    let snmp = netns.run(|| Ok(fs::read_to_string("/proc/thread-self/net/snmp")?))?;
    counter(&snmp, "Tcp:", "RetransSegs").context("no Tcp RetransSegs")
}

/// A counter of a file in which a line of names comes before the line of their values.
fn counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let names = lines.next()?.split_whitespace();
    let values = lines.next()?.split_whitespace();
    let (_, value) = names.zip(values).find(|(found, _)| *found == name)?;
    value.parse().ok()
}

fn tcp_sockstat(sockstat: &str, name: &str) -> Option<u64> {
    let line = sockstat.lines().find(|line| line.starts_with("TCP:"))?;
    let mut words = line.split_whitespace();
    words.find(|word| *word == name)?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_name_in_the_header_line() {
        let text = "TcpExt: SyncookiesSent TW TWRecycled\nTcpExt: 1 22 3\nIpExt: A\nIpExt: 5\n";
        assert_eq!(counter(text, "TcpExt:", "TW"), Some(22));
        assert_eq!(counter(text, "TcpExt:", "TWKilled"), None);
    }

    #[test]
    fn tw_is_taken_from_the_tcp_line_of_sockstat() {
        let text =
            "sockets: used 9\nTCP: inuse 5 orphan 0 tw 7 alloc 6 mem 1\nUDP: inuse 1 mem 0\n";
        assert_eq!(tcp_sockstat(text, "tw"), Some(7));
    }
}
