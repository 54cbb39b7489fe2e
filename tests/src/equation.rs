//! Which equation ties `TW` and `TWKilled` to twtrace's totals on the running kernel.

use std::sync::OnceLock;

use anyhow::{Result, bail};

use crate::counters::Counters;
use crate::expect;
use crate::netns::Netns;
use crate::summary::Totals;
use crate::traffic::{Behaviour, Client, Server};
use crate::wait;

/// When the kernel counts a TIME_WAIT socket in `TW` or `TWKilled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Equation {
    /// When its timer is first armed: kernels from 5.18 on.
    AtCreation,
    /// When its timer fires: kernels up to 5.17.
    AtExpiry,
}

impl Equation {
    /// Finds out by one connection; stable branches make version numbers useless for this.
    pub fn of_this_kernel() -> Result<Self> {
        static FOUND: OnceLock<Equation> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Ok(*found);
        }
        let netns = Netns::new("equation")?;
        let before = Counters::read(&netns)?;
        let server = Server::start(&netns, "127.0.0.1:8080", Behaviour::AnswersEof)?;
        Client::new(&netns).short_connections(server.addr(), 1)?;
        let counted = Counters::read(&netns)?.since(before);
        expect::equal("TIME_WAIT sockets after one connection", &1, &counted.live)?;
        let equation = match counted.tw {
            0 => Self::AtExpiry,
            1 => Self::AtCreation,
            more => bail!("one connection raised TW by {more}"),
        };
        Ok(*FOUND.get_or_init(|| equation))
    }

    /// The sum of `TW` and `TWKilled` that must be seen with these totals.
    pub fn timers_counted(self, totals: &Totals) -> u64 {
        match self {
            Self::AtCreation => totals.entered - totals.overflow,
            Self::AtExpiry => totals.two_msl + totals.fin_wait2_timeout,
        }
    }
}

/// Counts of a namespace over a scenario, to hold against what twtrace counted meanwhile.
pub struct Ledger<'a> {
    netns: &'a Netns,
    before: Counters,
}

/// The kernel's side of the comparison, or twtrace's put in the same terms.
#[derive(Debug, PartialEq, Eq)]
struct Balance {
    tw_and_tw_killed: u64,
    tw_recycled: u64,
    overflow: u64,
    sockstat_tw: u64,
}

impl<'a> Ledger<'a> {
    /// Opens the book; call before any traffic.
    pub fn open(netns: &'a Netns) -> Result<Self> {
        Ok(Self { netns, before: Counters::read(netns)? })
    }

    /// What the kernel counted so far.
    pub fn counted(&self) -> Result<Counters> {
        Ok(Counters::read(self.netns)?.since(self.before))
    }

    /// Fails unless `totals`, which are of this namespace alone, agree with the kernel.
    pub fn agrees_with(&self, totals: &Totals) -> Result<()> {
        let kernel = self.counted()?;
        let want = Balance {
            tw_and_tw_killed: kernel.tw + kernel.tw_killed,
            tw_recycled: kernel.tw_recycled,
            overflow: kernel.overflow,
            sockstat_tw: kernel.live,
        };
        let got = Balance {
            tw_and_tw_killed: Equation::of_this_kernel()?.timers_counted(totals),
            tw_recycled: totals.reused,
            overflow: totals.overflow,
            sockstat_tw: totals.live,
        };
        expect::equal("the kernel's counters (expected) against twtrace's (got)", &want, &got)
    }
}

/// Waits until `netns` has exactly `count` TIME_WAIT sockets.
pub fn settled(netns: &Netns, count: u64) -> Result<()> {
    wait::until(&format!("{count} TIME_WAIT sockets in {}", netns.name()), wait::SOON, || {
        Ok((Counters::read(netns)?.live == count).then_some(()))
    })
}
