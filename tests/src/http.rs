//! As much HTTP as a test needs to ask the daemon.

use std::fmt::{self, Display, Formatter};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use serde_json::Value;

/// Asks over a unix socket; gives the body of an answer that went well.
pub fn local(socket: &Path, target: &str) -> Result<String> {
    local_as(socket, target, "*/*")
}

/// The same in a format of one's choice, named as in the header `Accept`.
pub fn local_as(socket: &Path, target: &str, accept: &str) -> Result<String> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    ask(stream, target, accept)
}

/// An answer that there is none for now: clients ask again.
#[derive(Debug)]
pub struct Busy(String);

impl Display for Busy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Busy {}

/// The same as JSON.
pub fn document(socket: &Path, target: &str) -> Result<Value> {
    let body = local(socket, target)?;
    serde_json::from_str(&body).with_context(|| format!("{target} is not JSON:\n{body}"))
}

/// Asks over TCP.
pub fn network(address: &str, target: &str) -> Result<String> {
    let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    ask(stream, target, "*/*")
}

/// HTTP/1.0, which has no chunks.
fn ask(mut stream: impl Read + Write, target: &str, accept: &str) -> Result<String> {
    write!(stream, "GET {target} HTTP/1.0\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no end of the headers")?;
    let status = head.split(' ').nth(1).unwrap_or("");
    if status != "200" {
        let told = format!("{target} was answered with {status}: {}", body.trim());
        return Err(if status == "503" { Busy(told).into() } else { Error::msg(told) });
    }
    Ok(body.to_owned())
}
