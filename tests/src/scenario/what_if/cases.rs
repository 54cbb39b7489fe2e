//! Each setting, once where it would help and once where calls would fail all the same.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;

use super::calls::How;
use crate::netns::Netns;
use crate::topology::{self, ROUTED, SERVER, address, ephemeral_ports};
use crate::traffic::{Behaviour, Client, Server};

/// The first port of the range.
const FIRST: u16 = 20_000;

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub traffic: Traffic,
    /// Ports there are.
    pub ports: u16,
}

/// Calls of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// With timestamps, and `tcp_tw_reuse` 0.
    Direct,
    /// The same while every port is taken by a connection that stays open.
    Occupied,
    /// Without timestamps, `tcp_tw_reuse` 1.
    Stripped,
    /// To two peers, each port bound first, `tcp_tw_reuse` 1.
    BoundFirst,
}

/// Three hundred calls within three seconds, and a hundred within the second after which a port may be
/// taken over: 120 ports are too few unless something is changed, 60 and 40 in most cases then as well.
const fn recorded(traffic: Traffic, ports: u16) -> Recorded {
    Recorded { traffic, ports }
}

/// One setting, the traffic that is recorded for it, and how it is then really run.
pub struct Case {
    pub set: &'static [&'static str],
    pub from: Recorded,
    /// What is changed for the real run, before it.
    pub change: Change,
    pub how: How,
    /// Whether calls would fail all the same.
    pub still_fails: bool,
}

/// What is changed in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Nothing,
    Reuse,
    Range(u16, u16),
}

impl Case {
    /// Whether ports may be taken over then, so that which call finds one depends on when it comes to
    /// the millisecond.
    pub fn taken_over(&self) -> bool {
        let on = matches!(self.from.traffic, Traffic::Stripped | Traffic::BoundFirst);
        on || self.change == Change::Reuse
    }

    /// Whether it is known from refused `bind()` calls alone what was wanted.
    pub fn needs_refused_binds(&self) -> bool {
        self.from.traffic == Traffic::BoundFirst && self.from.ports < ROOMY
    }
}

/// Enough for all calls.
const ROOMY: u16 = 480;
const TWO: &[&str] = &[topology::CLIENT, "10.1.0.3"];
const THREE: &[&str] = &[topology::CLIENT, "10.1.0.3", "10.1.0.4"];
const SECOND: How = How::Kept(Duration::from_secs(1));
const NO_PORT: How = How::InTurn(&[topology::CLIENT]);

const fn case(
    set: &'static [&'static str],
    from: Recorded,
    change: Change,
    how: How,
    still_fails: bool,
) -> Case {
    Case { set, from, change, how, still_fails }
}

pub const CASES: &[Case] = &{
    use Change::{Nothing, Range, Reuse};
    use How::{PeerFirst, Plain};
    use Traffic::{BoundFirst, Direct, Occupied, Stripped};
    [
        case(&["tcp_tw_reuse=0"], recorded(Direct, 120), Nothing, Plain, true),
        case(&["tcp_tw_reuse=1"], recorded(Direct, 120), Reuse, Plain, false),
        case(&["tcp_tw_reuse=1"], recorded(Direct, 60), Reuse, Plain, true),
        case(&["timestamps=1"], recorded(Stripped, 120), Nothing, Plain, false),
        case(&["timestamps=1"], recorded(Stripped, 60), Nothing, Plain, true),
        case(
            &["ip_local_port_range=1024-65535"],
            recorded(Direct, 120),
            Range(1024, 65_535),
            Plain,
            false,
        ),
        case(
            &["ip_local_port_range=20000-20199"],
            recorded(Direct, 120),
            Range(FIRST, 20_199),
            Plain,
            true,
        ),
        case(&["source_addresses=3"], recorded(Direct, 120), Nothing, How::InTurn(THREE), false),
        case(&["source_addresses=2"], recorded(Direct, 120), Nothing, How::InTurn(TWO), true),
        case(&["bind_address_no_port=1"], recorded(BoundFirst, ROOMY), Nothing, NO_PORT, false),
        case(
            &["bind_address_no_port=1", "ip_local_port_range=20000-20039"],
            recorded(BoundFirst, ROOMY),
            Range(FIRST, 20_039),
            NO_PORT,
            true,
        ),
        case(&["bind_address_no_port=1"], recorded(BoundFirst, 120), Nothing, NO_PORT, false),
        case(&["bind_address_no_port=1"], recorded(BoundFirst, 40), Nothing, NO_PORT, true),
        case(&["peer_closes_first=1"], recorded(Direct, 120), Nothing, PeerFirst, false),
        case(&["peer_closes_first=1"], recorded(Occupied, 20), Nothing, PeerFirst, true),
        case(&["keep=1s"], recorded(Direct, 120), Nothing, SECOND, false),
        case(&["keep=1s"], recorded(Direct, 2), Nothing, SECOND, true),
    ]
};

/// A network with what goes on in it.
pub struct Stage {
    pub from: Recorded,
    pub net: topology::Routed,
    _servers: Vec<Server>,
    _open: Vec<TcpStream>,
    /// Where the calls go.
    pub to: Vec<SocketAddr>,
}

impl Stage {
    /// As it is recorded.
    pub fn recorded(from: Recorded) -> Result<Self> {
        Self::of(from, Change::Nothing, How::Plain, true)
    }

    /// As it is run again.
    pub fn changed(case: &Case) -> Result<Self> {
        Self::of(case.from, case.change, case.how, false)
    }

    fn of(from: Recorded, change: Change, how: How, recorded: bool) -> Result<Self> {
        let Recorded { traffic, ports } = from;
        let net = topology::routed()?;
        if traffic == Traffic::Stripped && recorded {
            topology::strip_timestamps(&net.router)?;
        }
        for source in &THREE[1..] {
            address(&net.client, "eth0", &format!("{source}/24"))?;
        }
        let off = matches!(traffic, Traffic::Direct | Traffic::Occupied);
        let reuse = if off && change != Change::Reuse { "0" } else { "1" };
        net.client.set("ipv4/tcp_tw_reuse", reuse)?;
        let (first, last) = match change {
            Change::Range(first, last) => (first, last),
            _ => (FIRST, FIRST - 1 + ports),
        };
        ephemeral_ports(&net.client, first, last)?;
        let behaviour = match how {
            _ if traffic == Traffic::Occupied => Behaviour::Holds,
            How::PeerFirst => Behaviour::ClosesFirst,
            _ => Behaviour::AnswersEof,
        };
        let places: &[(&Netns, &str, u16)] = match traffic {
            Traffic::Direct | Traffic::Occupied => &[(&net.direct, SERVER, 8080)],
            Traffic::Stripped => &[(&net.behind, ROUTED, 8080)],
            Traffic::BoundFirst => &[(&net.direct, SERVER, 8080), (&net.direct, SERVER, 8081)],
        };
        let servers = places
            .iter()
            .map(|(netns, at, port)| Server::start(netns, &format!("{at}:{port}"), behaviour))
            .collect::<Result<Vec<_>>>()?;
        let to: Vec<SocketAddr> = servers.iter().map(Server::addr).collect();
        let open = match traffic {
            Traffic::Occupied => Client::new(&net.client).open_until_refused(to[0])?,
            _ => Vec::new(),
        };
        Ok(Self { from, net, _servers: servers, _open: open, to })
    }
}
