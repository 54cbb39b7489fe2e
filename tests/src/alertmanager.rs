//! A real Alertmanager with the configuration that the documents give, and those whom it tells.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::service::{self, Service};
use crate::{expect, http, twtrace, wait};

/// Where the configuration is.
const DOCUMENT: &str = include_str!("../../docs/FLEET.md");
/// What it is called in its directory.
const FILE: &str = "alertmanager.yml";
/// Where the document sends what is urgent.
const PAGER: &str = "http://pager.example/";
/// Alerts wait for others of their group.
const PATIENCE: Duration = Duration::from_secs(120);

/// Alertmanager, and the pager it sends to.
pub struct Alertmanager {
    service: Service,
    pager: TcpListener,
}

impl Alertmanager {
    /// Starts it; `amtool` finds no fault with the configuration.
    pub fn start() -> Result<Self> {
        let (_, behind) = DOCUMENT.split_once("```yaml\nroute:").context("no configuration")?;
        let (config, _) = behind.split_once("```").context("the configuration has no end")?;
        let pager = TcpListener::bind("127.0.0.1:0")?;
        pager.set_nonblocking(true)?;
        expect::that(config.contains(PAGER), || config.to_owned())?;
        let config = config.replace(PAGER, &format!("http://{}/", pager.local_addr()?));
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join(FILE), format!("route:{config}"))?;
        // Without --cluster.listen-address it looks for others like it.
        let args = ["--config.file", FILE, "--storage.path=data", "--cluster.listen-address="];
        let address = service::free_address()?;
        let service = Service::start("prometheus-alertmanager", address, directory, &args)?;
        let alertmanager = Self { service, pager };
        alertmanager.tool(&["check-config", FILE])?;
        Ok(alertmanager)
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.service.address
    }

    /// Who is told of an alert with these labels.
    pub fn receiver(&self, labels: &[&str]) -> Result<String> {
        let asked = ["config", "routes", "test", "--config.file", FILE];
        Ok(self.tool(&[&asked, labels].concat())?.trim().to_owned())
    }

    /// Raises an alert by hand.
    pub fn raise(&self, labels: &[&str]) -> Result<()> {
        let url = format!("--alertmanager.url=http://{}", self.address());
        self.tool(&[&["alert", "add", url.as_str()], labels].concat()).map(drop)
    }

    /// Waits until an alert of that name is `active`, or `suppressed` by another.
    pub fn await_state(&self, alert: &str, state: &str) -> Result<()> {
        wait::until(&format!("{alert} to be {state}"), PATIENCE, || {
            let alerts = http::network(self.address(), "/api/v2/alerts")?;
            let alerts: Vec<Value> = serde_json::from_str(&alerts)?;
            let mut named = alerts.iter().filter(|one| one["labels"]["alertname"] == alert);
            Ok(named.any(|one| one["status"]["state"] == state).then_some(()))
        })
    }

    /// What the pager is told next.
    pub fn page(&self) -> Result<Value> {
        wait::until("a page", PATIENCE, || match self.pager.accept() {
            Ok((stream, _)) => received(stream).map(Some),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        })
        .with_context(|| self.service.log())
    }

    fn tool(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("amtool");
        let output = twtrace::finished(command.args(words).current_dir(&self.service.directory))?;
        expect::that(output.status.success(), || twtrace::shown(&output))?;
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Takes what is posted, and says that it went well.
fn received(stream: TcpStream) -> Result<Value> {
    stream.set_nonblocking(false)?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse()?;
            }
            None if line.trim().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    reader
        .get_mut()
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    serde_json::from_slice(&body).with_context(|| String::from_utf8_lossy(&body).into_owned())
}
