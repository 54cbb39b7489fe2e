//! twtrace's final JSON document, as far as tests look at it.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::equation::Equation;
use crate::expect;

/// The final document of `twtrace watch -o json`.
#[derive(Clone, Debug)]
pub struct Summary(Value);

/// `totals`, or one peer's counts: all kinds of entries and ends. Absent kinds are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Calls of tcp_time_wait().
    pub entered: u64,
    /// Those that entered as FIN_WAIT2 mini-sockets.
    pub fin_wait2: u64,
    /// Sockets that were there when tracing began.
    pub present_at_start: u64,
    /// Sockets that had not ended when tracing ended.
    pub live: u64,
    /// Ended: recycled by the short timer of kernels before 4.12.
    pub recycled: u64,
    /// Ended: taken over by an outgoing connect.
    pub reused: u64,
    /// Ended: a SYN from the peer was accepted on it.
    pub replaced: u64,
    /// Ended: the full timeout passed.
    pub two_msl: u64,
    /// Ended: by a RST.
    pub killed: u64,
    /// Ended: by an administrator.
    pub aborted: u64,
    /// Ended: with its namespace.
    pub purged: u64,
    /// Ended: in FIN_WAIT2, the peer never closed.
    pub fin_wait2_timeout: u64,
    /// Ended: twtrace does not know how.
    pub unknown: u64,
    /// Entries for which the kernel made no TIME_WAIT socket.
    pub overflow: u64,
}

/// Whether the kernel keeps its first process from root, which may look at any other one.
fn shields_a_process() -> bool {
    std::fs::read_link("/proc/1/exe")
        .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

impl Totals {
    /// Whether it is what is wanted, but that the way of so many ends is not known.
    pub fn is_but_for_ends_unseen(&self, unseen: u64, want: &Self) -> bool {
        let ways = |it: &Self| {
            [it.reused, it.replaced, it.two_msl, it.killed, it.purged, it.fin_wait2_timeout]
        };
        let (seen, all) = (ways(self), ways(want));
        let known = |of: [u64; 6]| of.iter().sum::<u64>();
        let same = Self {
            reused: want.reused,
            replaced: want.replaced,
            two_msl: want.two_msl,
            killed: want.killed,
            purged: want.purged,
            fin_wait2_timeout: want.fin_wait2_timeout,
            unknown: want.unknown,
            ..*self
        };
        same == *want
            && self.unknown == want.unknown + unseen
            && seen.iter().zip(all).all(|(seen, all)| *seen <= all)
            && known(seen) + self.unknown == known(all) + want.unknown
    }

    /// Reads a `totals` object or a peer.
    pub fn of(object: &Value) -> Result<Self> {
        let count = |pointer: &str| number(object, pointer);
        Ok(Self {
            entered: count("/entered")?,
            fin_wait2: count("/fin_wait2")?,
            // Peers do not have it: what was there at start belongs to no peer's entries.
            present_at_start: count("/present_at_start").unwrap_or(0),
            live: count("/live")?,
            recycled: count("/fast/recycled")?,
            reused: count("/fast/reused")?,
            replaced: count("/fast/replaced")?,
            two_msl: count("/two_msl")?,
            killed: count("/killed")?,
            aborted: count("/aborted")?,
            purged: count("/purged")?,
            fin_wait2_timeout: count("/fin_wait2_timeout")?,
            unknown: count("/unknown")?,
            overflow: count("/overflow")?,
        })
    }

    /// Everything that came: present at start and entered.
    pub fn came(&self) -> u64 {
        self.present_at_start + self.entered
    }

    /// Everything that is accounted for: live, ended, or never made.
    pub fn accounted(&self) -> u64 {
        let fast = self.recycled + self.reused + self.replaced;
        let slow = self.two_msl + self.killed + self.aborted + self.purged + self.fin_wait2_timeout;
        self.live + fast + slow + self.unknown + self.overflow
    }
}

/// Fails unless the kernel's own counters, which twtrace read itself, say what it counted, in every
/// namespace: each scenario is judged by that, whatever it is about. Amid traffic, which is not
/// `quiet`, what came during the kernel's reading is in one of the two counts and not missing.
fn audited(audit: &Value, quiet: bool) -> Result<()> {
    let basis = match Equation::of_this_kernel()? {
        Equation::AtCreation => "creations",
        Equation::AtExpiry => "expiries",
    };
    expect::equal("audit.basis", &Some(basis), &audit["basis"].as_str())?;
    let namespaces = audit["namespaces"].as_array().context("audit.namespaces is no array")?;
    for namespace in namespaces {
        for what in ["", "/reused", "/overflow", "/live"] {
            let figure = namespace.pointer(what).context("an incomplete audit")?;
            if figure.is_null() {
                continue;
            }
            let count = |key: &str| number(figure, key);
            expect::equal(&format!("audit{what}: missing"), &0, &count("/missing")?)?;
            // Of other namespaces there is other traffic, which may be counted meanwhile.
            if quiet && namespaces.len() == 1 {
                let what = format!("audit{what}: the kernel's count against what was counted");
                expect::equal(&what, &count("/kernel")?, &count("/counted")?)?;
            }
        }
    }
    Ok(())
}

impl Summary {
    /// Parses the document and checks what must hold in every run: the schema's name, the backend
    /// that was asked for, nothing lost, and conservation when ends were traced.
    pub fn parse(text: &str, backend: &str) -> Result<Self> {
        Self::of(text, backend, true)
    }

    /// The same of a moment amid traffic.
    ///
    /// # Errors
    /// As for [`Summary::parse`].
    pub fn amid_traffic(text: &str, backend: &str) -> Result<Self> {
        Self::of(text, backend, false)
    }

    fn of(text: &str, backend: &str, quiet: bool) -> Result<Self> {
        let summary = Self(serde_json::from_str(text).context("standard output is not JSON")?);
        expect::equal("schema", &"twtrace.summary/2", &summary.text("/schema")?)?;
        expect::equal("backend", &backend, &summary.text("/backend")?)?;
        expect::equal("totals.lost", &0, &summary.number("/totals/lost")?)?;
        if summary.at("/totals/audit")?.is_object() {
            audited(summary.at("/totals/audit")?, quiet)?;
        }
        if summary.at("/totals/live")?.is_u64() {
            let totals = summary.totals()?;
            let what = format!("conservation of {totals:#?}");
            expect::equal(&what, &totals.came(), &totals.accounted())?;
        }
        Ok(summary)
    }

    /// The totals over all namespaces that the run looked at.
    pub fn totals(&self) -> Result<Totals> {
        Totals::of(self.at("/totals")?)
    }

    /// All rows of peers.
    pub fn peers(&self) -> Result<&[Value]> {
        Ok(self.at("/peers")?.as_array().context("peers is not an array")?)
    }

    /// The row of `peer` in the namespace `netns`.
    pub fn peer(&self, netns: u64, peer: &str) -> Result<Peer<'_>> {
        let found = self
            .peers()?
            .iter()
            .find(|row| row["peer"].as_str() == Some(peer) && row["netns"].as_u64() == Some(netns));
        Ok(Peer(found.with_context(|| format!("no row of {peer} in {netns}:\n{:#}", self.0))?))
    }

    /// The value at a JSON pointer.
    pub fn at(&self, pointer: &str) -> Result<&Value> {
        self.0.pointer(pointer).with_context(|| format!("no {pointer} in:\n{:#}", self.0))
    }

    /// The number at a JSON pointer.
    pub fn number(&self, pointer: &str) -> Result<u64> {
        number(&self.0, pointer)
    }

    /// Ends of which it is told that they were not seen; more than may be where all have to be.
    ///
    /// They need not be seen where a hardened kernel shields a process even from root: it runs no
    /// program while a thread of that one is on the processor, and counts none as skipped. Of 1,801 sockets
    /// on such a host each arming and expiry that came in while a shielded thread was interrupted was
    /// unseen, and no other.
    pub fn ends_told_unseen(&self) -> Result<u64> {
        let may_be = self.text("/backend")? == "tracepoint" && shields_a_process();
        if may_be { self.number("/trust/healed") } else { Ok(u64::MAX) }
    }

    /// Program runs through tracepoints that the kernel skipped, which it counts: each may be the one
    /// that would have seen a failed call, or what only the full socket knows of an entry.
    pub fn skipped(&self) -> Result<u64> {
        match self.text("/backend")? {
            "tracepoint" => self.number("/trust/skipped"),
            _ => Ok(0),
        }
    }

    /// The whole document.
    pub fn document(&self) -> &Value {
        &self.0
    }

    /// A text that must be there.
    pub fn text(&self, pointer: &str) -> Result<&str> {
        self.at(pointer)?.as_str().with_context(|| format!("{pointer} is not text"))
    }
}

/// One row of `peers`.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a>(pub &'a Value);

/// What a row says of entries: the part that needs no ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    /// `client` or `server`.
    pub role: String,
    /// All entries.
    pub entered: u64,
    /// Entries of connections with timestamps.
    pub with: u64,
    /// Entries of connections without.
    pub without: u64,
}

impl Entries {
    /// `entered` entries of a role, all with timestamps.
    pub fn with(role: &str, entered: u64) -> Self {
        Self { role: role.to_owned(), entered, with: entered, without: 0 }
    }

    /// `entered` entries of a role, none with timestamps.
    pub fn without(role: &str, entered: u64) -> Self {
        Self { role: role.to_owned(), entered, with: 0, without: entered }
    }
}

impl Peer<'_> {
    /// The row's entries by timestamps.
    pub fn entries(&self) -> Result<Entries> {
        Ok(Entries {
            role: self.0["role"].as_str().context("a row without role")?.to_owned(),
            entered: self.number("/entered")?,
            with: self.number("/timestamps/with")?,
            without: self.number("/timestamps/without")?,
        })
    }

    /// The row's counts of entries and ends.
    pub fn totals(&self) -> Result<Totals> {
        Totals::of(self.0)
    }

    /// The number at a JSON pointer within the row.
    pub fn number(&self, pointer: &str) -> Result<u64> {
        number(self.0, pointer)
    }
}

/// The number at `pointer`, with null read as 0: a backend says null of what it cannot see.
fn number(object: &Value, pointer: &str) -> Result<u64> {
    let value = object.pointer(pointer).with_context(|| format!("no {pointer} in:\n{object:#}"))?;
    if value.is_null() {
        return Ok(0);
    }
    value.as_f64().map(|number| number as u64).with_context(|| format!("{pointer} is {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_does_not_add_up_is_refused() {
        let mut document = serde_json::json!({
            "schema": "twtrace.summary/2", "backend": "kprobe",
            "totals": {"entered": 3, "fin_wait2": 0, "present_at_start": 1, "live": 2,
                "fast": {"total": 1, "recycled": 0, "reused": 1, "replaced": 0},
                "two_msl": 0, "killed": 1, "aborted": 0, "purged": 0, "fin_wait2_timeout": 0, "unknown": 0,
                "overflow": null, "lost": 0,
                "audit": null},
            "peers": [],
        });
        Summary::parse(&document.to_string(), "kprobe").unwrap();
        document["totals"]["live"] = 3.into();
        let error = Summary::parse(&document.to_string(), "kprobe").unwrap_err();
        assert!(error.to_string().contains("conservation"), "{error}");
    }

    #[test]
    fn ends_that_were_told_unseen_are_no_others() {
        let want = Totals { entered: 10, two_msl: 6, killed: 4, ..Totals::default() };
        let short = Totals { two_msl: 4, unknown: 2, ..want };
        assert!(want.is_but_for_ends_unseen(0, &want) && short.is_but_for_ends_unseen(2, &want));
        let others = [
            Totals { entered: 9, ..short },
            Totals { live: 1, ..short },
            Totals { two_msl: 5, ..short },
            Totals { two_msl: 3, killed: 5, ..short },
        ];
        for other in others {
            assert!(!other.is_but_for_ends_unseen(2, &want), "{other:?}");
        }
        assert!(!short.is_but_for_ends_unseen(1, &want) && !want.is_but_for_ends_unseen(1, &want));
    }
}
