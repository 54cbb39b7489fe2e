//! Clients behind a router that gives them its own address.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::netns::Netns;
use crate::topology::{address, link};

/// Ports that the router has.
pub const PORTS: u64 = 300;
/// Clients.
pub const CLIENTS: usize = 3;
/// The server, behind the router.
pub const TO: &str = "10.9.0.2:8080";

/// A server behind a router, and clients of it in networks of their own.
pub struct Behind {
    net: u8,
    /// What forwards.
    pub router: Netns,
    /// Has [`TO`].
    pub server: Netns,
    /// Have `10.NET.N.2`, from 1.
    pub clients: Vec<Netns>,
}

impl Behind {
    /// Forwards from `10.NET.N.0/24` to the server, and gives nobody another address yet. What is told to
    /// be of a network is of every namespace with such addresses, so each scenario has its own.
    pub fn new(net: u8) -> Result<Self> {
        let (router, server) = (Netns::new("router")?, Netns::new("server")?);
        link(&router, "out", &server, "eth0")?;
        address(&router, "out", "10.9.0.1/24")?;
        address(&server, "eth0", "10.9.0.2/24")?;
        // For those that keep their address.
        server.ip(&format!("route add 10.{net}.0.0/16 via 10.9.0.1"))?;
        router.set("ipv4/ip_forward", "1")?;
        let mut clients = Vec::new();
        for n in 1..=CLIENTS {
            let client = Netns::new("client")?;
            let inside = format!("in{n}");
            link(&client, "eth0", &router, &inside)?;
            address(&client, "eth0", &format!("10.{net}.{n}.2/24"))?;
            address(&router, &inside, &format!("10.{net}.{n}.1/24"))?;
            client.ip(&format!("route add default via 10.{net}.{n}.1"))?;
            clients.push(client);
        }
        Ok(Self { net, router, server, clients })
    }

    /// Has the router give its own address, by iptables and out of [`PORTS`] ports.
    pub fn masquerade(&self) -> Result<()> {
        let last = 20_000 + PORTS - 1;
        let rule = format!(
            "iptables -w -t nat -A POSTROUTING -p tcp -o out -j MASQUERADE --to-ports 20000-{last}"
        );
        self.router.exec(&rule.split(' ').collect::<Vec<_>>()).context("masquerading")?;
        Ok(())
    }

    /// Has the router do so by a rule of nft, which ends like this, for what leaves towards the server.
    pub fn nft(&self, rule: &str) -> Result<()> {
        self.router.exec(&["nft", "add table inet shared"])?;
        let chain = "add chain inet shared out { type nat hook postrouting priority 100; }";
        self.router.exec(&["nft", chain])?;
        self.router.exec(&["nft", "add rule inet shared out oifname != \"out\" return"])?;
        self.router.exec(&["nft", &format!("add rule inet shared out {rule}")])?;
        Ok(())
    }

    /// Connections from the clients in the router's table.
    pub fn tracked(&self) -> Result<f64> {
        let path = "/proc/thread-self/net/nf_conntrack";
        let tracked = self.router.run(|| Ok(fs::read_to_string(path)?))?;
        let source = format!("src=10.{}.", self.net);
        Ok(tracked.lines().filter(|line| line.contains(&source)).count() as f64)
    }
}

/// The margins of a report towards a destination that were found in this namespace.
pub fn found_in<'a>(report: &'a Value, router: &Netns) -> Vec<&'a Value> {
    let margins = report["margins"]["egress"].as_array();
    let ours = |margin: &&Value| margin["found"]["netns"].as_u64() == Some(router.inum());
    margins.into_iter().flatten().filter(ours).collect()
}
