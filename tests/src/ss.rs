//! What `sock_diag` says of a socket, by way of `ss`: the oracle for what twtrace read.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::wait;

/// One line of `ss`.
#[derive(Clone, Debug, PartialEq)]
pub struct Socket {
    /// Such as `ESTAB`, `FIN-WAIT-2`, `TIME-WAIT`.
    pub state: String,
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Retransmission timeout in milliseconds; full sockets only.
    pub rto_ms: Option<f64>,
    /// Whether timestamps were negotiated; always false for TIME_WAIT, which does not tell.
    pub timestamps: bool,
    /// The owner, 0 when `ss` does not print one.
    pub uid: u32,
    /// What is left of the timer of a TIME_WAIT socket.
    pub time_left: Option<Duration>,
}

/// All TCP sockets of `netns` with the local port `port`, listeners excepted.
pub fn sockets(netns: &Netns, port: u16) -> Result<Vec<Socket>> {
    let filter = format!("sport = :{port}");
    let words = ["ss", "-tanoieHO", "state", "connected", &filter];
    // With a state given `ss` would leave the column of states out, were there only one.
    let text = netns.exec(&words)?;
    text.lines().map(|line| parse(line).with_context(|| format!("ss printed {line:?}"))).collect()
}

/// Waits until the only socket with the local port `port` is in `state`, and gives it.
pub fn in_state(netns: &Netns, port: u16, state: &str) -> Result<Socket> {
    wait::until(&format!("port {port} in {state}"), wait::SOON, || {
        let mut found = sockets(netns, port)?;
        Ok((found.len() == 1 && found[0].state == state).then(|| found.remove(0)))
    })
}

fn parse(line: &str) -> Option<Socket> {
    let mut words = line.split_whitespace();
    let state = words.next()?.to_owned();
    let mut words = words.skip(2);
    let (local, remote) = (address(words.next()?)?, address(words.next()?)?);
    let rest: Vec<_> = words.collect();
    let after = |prefix| rest.iter().find_map(|word| word.strip_prefix(prefix));
    Some(Socket {
        state,
        local,
        remote,
        rto_ms: after("rto:").and_then(|value| value.parse().ok()),
        timestamps: rest.contains(&"ts"),
        uid: after("uid:").and_then(|value| value.parse().ok()).unwrap_or(0),
        time_left: after("timer:(timewait,").and_then(|value| duration(value.split(',').next()?)),
    })
}

/// Reads `10.0.0.1:80` or `[fd00::1]:80`; a v4-mapped address becomes the IPv4 one.
fn address(text: &str) -> Option<SocketAddr> {
    let address: SocketAddr = text.parse().ok()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Reads the way `ss` prints timers: `1min2sec`, `59sec`, `5.012ms`, `760ms`.
fn duration(mut text: &str) -> Option<Duration> {
    let mut total = 0.0;
    while !text.is_empty() {
        let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
        let value: f64 = text[..unit].parse().ok()?;
        text = &text[unit..];
        let end = text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len());
        total += value
            * match &text[..end] {
                "min" => 60.0,
                "sec" => 1.0,
                "ms" => 0.001,
                _ => return None,
            };
        text = &text[end..];
    }
    Some(Duration::from_secs_f64(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_socket_and_a_time_wait_socket_are_read() {
        let full = parse(
            "FIN-WAIT-2 0 0 10.1.0.1:40000 10.1.0.2:8080 uid:65534 ino:7 sk:2 cgroup:/ --> \
             ts sack cubic wscale:7,7 rto:204 rtt:0.05/0.02",
        )
        .unwrap();
        assert_eq!((full.rto_ms, full.timestamps, full.uid), (Some(204.0), true, 65534));
        let line =
            "TIME-WAIT 0 0 [::ffff:10.1.0.1]:5 [::ffff:10.1.0.2]:6 timer:(timewait,1min1sec,0)";
        let waiting = parse(line).unwrap();
        assert_eq!(waiting.time_left, Some(Duration::from_secs(61)));
        assert_eq!(waiting.remote, "10.1.0.2:6".parse().unwrap());
    }

    #[test]
    fn timers_are_read_in_all_of_their_shapes() {
        assert_eq!(duration("760ms"), Some(Duration::from_millis(760)));
        assert_eq!(duration("5.012ms").map(|time| time.as_micros()), Some(5012));
        assert_eq!(duration("59sec"), Some(Duration::from_secs(59)));
    }
}
