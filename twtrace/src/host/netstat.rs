//! The kernel's own counters of one network namespace: `netstat` and `sockstat`.
//!
//! Read here and not by a crate for all of `/proc`, because the comparison reads them of every namespace
//! every second and wants four names of some hundred and fifty: 64 namespaces take 0.6 % of a core
//! (docs/performance/moments.md).

use std::{collections::HashMap, path::Path};

use serde::{Deserialize, Serialize};

use super::{HostFactError, text};

/// The `TcpExt` counters, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpExt(HashMap<String, u64>);

impl TcpExt {
    /// Reads `net/netstat` below `net_root` (`/proc/thread-self/net`).
    ///
    /// # Errors
    /// [`HostFactError`]; a file without `TcpExt` is malformed.
    pub fn read(net_root: &Path) -> Result<Self, HostFactError> {
        Self::read_if(net_root, |_| true)
    }

    /// Likewise, those of these names alone: for whoever looks often.
    ///
    /// # Errors
    /// As for [`TcpExt::read`].
    pub fn read_some(net_root: &Path, names: &[&str]) -> Result<Self, HostFactError> {
        Self::read_if(net_root, |name| names.contains(&name))
    }

    fn read_if(net_root: &Path, wanted: impl Fn(&str) -> bool) -> Result<Self, HostFactError> {
        let path = net_root.join("netstat");
        let Some(text) = text(&path)? else { return Ok(Self::default()) };
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
            return Err(HostFactError::malformed(&path, &text, "a table of TcpExt counters"));
        };
        let pairs = names.split_ascii_whitespace().zip(values.split_ascii_whitespace()).skip(1);
        let pairs = pairs.filter(|(name, _)| wanted(name));
        // A few counters are signed, and none of those is of interest here.
        let known = pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        Ok(Self(known.collect()))
    }

    /// A counter; `None` if this kernel does not have it.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// What a counter grew by since `before`; 0 if this kernel does not have it.
    pub fn since(&self, before: &Self, name: &str) -> u64 {
        self.get(name).unwrap_or(0).saturating_sub(before.get(name).unwrap_or(0))
    }

    /// Sets a counter; for tests of what is concluded from it.
    #[must_use]
    pub fn with(mut self, name: &str, value: u64) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }
}

/// TIME_WAIT sockets of the namespace, FIN_WAIT2 mini-sockets among them (`sockstat`, `TCP: tw`).
///
/// # Errors
/// [`HostFactError`].
pub fn time_wait_sockets(net_root: &Path) -> Result<Option<u64>, HostFactError> {
    let path = net_root.join("sockstat");
    let Some(text) = text(&path)? else { return Ok(None) };
    let count = number(&text, "TCP:", "tw").map(Some);
    count.ok_or_else(|| HostFactError::malformed(&path, &text, "a line TCP: with tw"))
}

/// TCP sockets in use below `net_root`, those of TIME_WAIT left out; 0 where that cannot be read.
pub fn sockets_in_use(net_root: &Path) -> u64 {
    let of = |(file, line): (&str, &str)| {
        let text = text(&net_root.join(file)).ok()??;
        number(&text, line, "inuse")
    };
    [("sockstat", "TCP:"), ("sockstat6", "TCP6:")].into_iter().filter_map(of).sum()
}

/// The number behind a name, in the line of a `sockstat` that begins so.
fn number(sockstat: &str, line: &str, name: &str) -> Option<u64> {
    let mut words = sockstat.lines().find_map(|text| text.strip_prefix(line))?.split_whitespace();
    words.find(|word| *word == name)?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn counters_are_found_by_name_and_compared_with_before() {
        let root = tempfile::tempdir().unwrap();
        let text = "TcpExt: TW TWRecycled Odd\nTcpExt: 12 3 -4\nIpExt: A\nIpExt: 1\n";
        fs::write(root.path().join("netstat"), text).unwrap();
        let now = TcpExt::read(root.path()).unwrap();
        assert_eq!(now.get("TW"), Some(12));
        assert_eq!(now.get("Odd"), None);
        let some = TcpExt::read_some(root.path(), &["TWRecycled", "Odd"]).unwrap();
        assert_eq!(some, TcpExt::default().with("TWRecycled", 3));
        assert_eq!(now.since(&TcpExt::default().with("TW", 10), "TW"), 2);
        assert_eq!(now.since(&TcpExt::default(), "PAWSPassive"), 0);
    }

    #[test]
    fn sockstat_tells_the_time_wait_sockets() {
        let root = tempfile::tempdir().unwrap();
        let text = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 7 alloc 6 mem 1\n";
        fs::write(root.path().join("sockstat"), text).unwrap();
        assert_eq!(time_wait_sockets(root.path()).unwrap(), Some(7));
        assert_eq!(sockets_in_use(root.path()), 5);
        fs::write(root.path().join("sockstat6"), "TCP6: inuse 2\nUDP6: inuse 4\n").unwrap();
        assert_eq!(sockets_in_use(root.path()), 7);
        fs::write(root.path().join("sockstat"), "TCP: inuse 5\n").unwrap();
        assert!(time_wait_sockets(root.path()).unwrap_err().to_string().contains("sockstat"));
    }
}
