//! Load: short connections, as fast as they come about, in namespaces made for the purpose.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Bench;
use super::agent::Agent;
use crate::counters::Counters;
use crate::netns::Netns;
use crate::topology::{self, SERVER};
use crate::traffic::{Behaviour, Client, Server, close_first};
use crate::wait;

/// Port of every server here.
const PORT: u16 = 8080;

/// A client and a server for it, the namespaces theirs alone.
pub struct Site {
    /// Where connections are opened.
    pub client: Netns,
    /// Where connections go.
    pub to: SocketAddr,
    server: Option<Server>,
    _far: Option<Netns>,
}

impl Site {
    /// Both in one namespace. Every address of 10.0.0.0/8 is the server.
    pub fn loopback() -> Result<Self> {
        let client = Netns::new("bench")?;
        client.ip("route add local 10.0.0.0/8 dev lo")?;
        let server = Server::start(&client, "0.0.0.0:8080", Behaviour::AnswersEof)?;
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        roomy(&client)?;
        Ok(Self { client, to, server: Some(server), _far: None })
    }

    /// One at each end of a veth pair.
    pub fn veth() -> Result<Self> {
        let topology::Pair { client, server: far } = topology::pair()?;
        let server = Server::start(&far, &format!("{SERVER}:{PORT}"), Behaviour::AnswersEof)?;
        roomy(&client)?;
        let to = server.addr();
        Ok(Self { client, to, server: Some(server), _far: Some(far) })
    }

    /// One at each end of a veth pair, and the server speaks HTTP to a client that is not ours.
    pub fn http() -> Result<Self> {
        let topology::Pair { client, server: far } = topology::pair()?;
        let to = SocketAddr::from((SERVER.parse::<IpAddr>()?, PORT));
        let listener = far.run(|| Ok(TcpListener::bind(to)?))?;
        far.spawn(move || listener.incoming().map_while(Result::ok).for_each(answer))?;
        roomy(&client)?;
        Ok(Self { client, to, server: None, _far: Some(far) })
    }

    /// Opens and closes `count` connections to the server one after the other, this side first.
    /// Answers how many that is a second.
    pub fn connections_per_second(&self, count: usize) -> Result<f64> {
        let started = Instant::now();
        Client::new(&self.client).short_connections(self.to, count)?;
        Ok(count as f64 / started.elapsed().as_secs_f64())
    }

    /// Lets `ab` do it. Answers what it says.
    pub fn requests_per_second(&self, count: usize) -> Result<f64> {
        let (count, url) = (count.to_string(), format!("http://{}/", self.to));
        let said = self.client.exec(&["ab", "-q", "-n", &count, "-c", "2", &url])?;
        let line = said.lines().find_map(|line| line.strip_prefix("Requests per second:"));
        let rate = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        rate.with_context(|| format!("ab said:\n{said}"))
    }

    /// Opens and closes one connection to each of `peers`, numbers within 10.0.0.0/8.
    pub fn visit(&self, peers: std::ops::Range<u32>) -> Result<()> {
        let client = Client::new(&self.client);
        self.client.run(|| {
            for peer in peers {
                let to = Ipv4Addr::from_bits(0x0a00_0000 | (peer + 1));
                close_first(client.dial((to, PORT).into()).context("connecting to a peer")?)?;
            }
            Ok(())
        })
    }

    /// Opens and closes connections at a steady rate for a while; answers how many.
    pub fn at_rate(&self, rate: u32, time: Duration) -> Result<u64> {
        let client = Client::new(&self.client);
        self.client.run(|| {
            let started = Instant::now();
            let mut done = 0;
            while started.elapsed() < time {
                let due = (started.elapsed().as_secs_f64() * f64::from(rate)) as u64;
                for _ in done..due {
                    close_first(client.dial(self.to)?)?;
                }
                done = done.max(due);
                wait::pass(Duration::from_millis(5));
            }
            Ok(done)
        })
    }

    /// TIME_WAIT sockets that live in the client's namespace.
    pub fn live(&self) -> Result<u64> {
        Ok(Counters::read(&self.client)?.live)
    }

    /// Deletes everything, and with it every TIME_WAIT socket, and gives back when that began.
    pub fn delete(mut self) -> Result<Instant> {
        self.server = None;
        let began = Instant::now();
        self.client.delete()?;
        Ok(began)
    }

    /// The same, and waits until no TIME_WAIT socket is left: the kernel deletes a namespace when it
    /// comes to it, and then nobody can ask it any more. A `twtrace` of its own sees it.
    pub fn delete_and_see(self, bench: &Bench) -> Result<Instant> {
        let observer = Agent::telling(bench, &self.client)?;
        let began = self.delete()?;
        observer.await_total("live", 0)?;
        observer.finish()?;
        Ok(began)
    }
}

/// Room for very many sockets: nearly all ports, and no bound on the TIME_WAIT ones.
fn roomy(netns: &Netns) -> Result<()> {
    topology::ephemeral_ports(netns, 1024, 65_535)?;
    netns.set("ipv4/ip_local_reserved_ports", &PORT.to_string())?;
    netns.set("ipv4/tcp_max_tw_buckets", "4000000")
}

/// Answers one request and closes.
fn answer(mut stream: TcpStream) {
    let mut request = [0; 1024];
    // Whoever asked notices if either fails.
    let _ = stream.read(&mut request);
    let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok\n");
}
