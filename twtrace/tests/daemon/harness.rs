//! The real server before an owner that the test feeds, and a client that speaks plain HTTP.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use twtrace::{
    config::{DaemonConfig, value::Listen},
    daemon::{
        api::{Api, Limits},
        hub::Hub,
        names::OwnNames,
        places::Places,
        server::Server,
        socket::{LocalSocket, bind_tcp},
    },
    event::Event,
};

use crate::owner::{Owner, Tell};

/// A served owner; stopped when dropped.
pub struct Harness {
    _directory: TempDir,
    pub socket: PathBuf,
    pub tcp: SocketAddr,
    pub stop: CancellationToken,
    pub limits: watch::Sender<Limits>,
    tell: mpsc::UnboundedSender<Tell>,
    thread: Option<JoinHandle<()>>,
}

impl Harness {
    /// Serves with the settings that `change` makes of the defaults.
    pub fn start(change: impl FnOnce(&mut DaemonConfig)) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = DaemonConfig {
            socket: directory.path().join("twtrace.sock"),
            listen: Some(Listen(loopback)),
            ..DaemonConfig::default()
        };
        change(&mut config);
        let (tell, told) = mpsc::unbounded_channel();
        let (limits, watched) = watch::channel(Limits::of(&config));
        let stop = CancellationToken::new();
        let (started, starting) = std::sync::mpsc::channel();
        let (socket, token) = (config.socket.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let dropped = Arc::default();
                let (hub, asks) = Hub::new();
                let owner = Owner::new(config.clone(), &dropped);
                let owning = tokio::spawn(owner.run(asks, told));
                let local = LocalSocket::bind(&config).expect("the socket");
                let network = bind_tcp(loopback).expect("a TCP socket");
                started.send(network.local_addr().expect("an address")).expect("the test waits");
                let names = OwnNames::with_own(&[]);
                let api = Api::new(hub.clone(), Places::new(dropped), watched, token, names);
                let server = Server::new(api);
                let served =
                    tokio::try_join!(server.serve_local(&local), server.serve_network(network));
                served.expect("the sockets can be watched");
                hub.stop().await.expect("the owner is there");
                server.farewell().await;
                owning.await.expect("the owner ends by itself");
            });
        });
        let tcp = starting.recv().expect("the server starts");
        Self { _directory: directory, socket, tcp, stop, limits, tell, thread: Some(thread) }
    }

    /// Tells the owner of events.
    pub fn happen(&self, events: Vec<Event>) {
        self.tell.send(Tell::Events(events)).expect("the owner is there");
    }

    /// Sends bytes to whoever follows the feed.
    pub fn feed(&self, bytes: Vec<u8>) {
        self.tell.send(Tell::Feed(bytes.into())).expect("the owner is there");
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("the server listens");
        // So that a test that fails does so with a word, and does not hang.
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        stream
    }

    /// Asks over the unix socket.
    pub fn get(&self, target: &str) -> Reply {
        ask(
            self.connect(),
            &format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        )
    }

    /// Asks and reads the answer as JSON.
    pub fn document(&self, target: &str) -> Value {
        let reply = self.get(target);
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
        reply.json()
    }

    /// Begins a stream; gives its lines.
    pub fn stream(&self, target: &str) -> Chunks {
        let mut stream = self.connect();
        write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").expect("the server takes it");
        let mut reader = BufReader::new(stream);
        let head = head(&mut reader);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        Chunks { reader, rest: Vec::new(), ended: false }
    }

    /// Waits until a figure of the status satisfies `holds`.
    pub fn await_status(&self, pointer: &str, holds: impl Fn(u64) -> bool) -> u64 {
        for _ in 0..6000 {
            let status = self.document("/v1/status");
            let value = status.pointer(pointer).and_then(Value::as_u64).expect("a figure");
            if holds(value) {
                return value;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{pointer} never came to what was waited for: {}", self.document("/v1/status"));
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.expect("dropped once").expect("the server ends without a panic");
            assert!(!self.socket.exists(), "the socket goes with the server");
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{error} in {:?}", self.text());
        })
    }
}

/// Sends a request and reads all that comes back.
pub fn ask(mut stream: impl Read + Write, request: &str) -> Reply {
    stream.write_all(request.as_bytes()).expect("the server takes it");
    read(stream)
}

/// Reads all that comes.
pub fn read(mut stream: impl Read) -> Reply {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the server answers and closes");
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(bytes.len());
    let body = bytes.split_off((end + 4).min(bytes.len()));
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    Reply { status, head, body }
}

fn head(reader: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).expect("the server answers") > 0, "{head}");
    }
    head
}

/// A chunked body, line by line.
pub struct Chunks {
    reader: BufReader<UnixStream>,
    rest: Vec<u8>,
    pub ended: bool,
}

impl Chunks {
    /// The next chunk; `None` at the end. An error when the transfer is broken off.
    pub fn chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut size = String::new();
        if self.reader.read_line(&mut size)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk's size");
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk)?;
        chunk.truncate(size);
        self.ended = size == 0;
        Ok((size > 0).then_some(chunk))
    }

    /// The next line as JSON.
    pub fn line(&mut self) -> Value {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).expect("one JSON document a line");
            }
            let chunk = self.chunk().expect("the stream goes on").expect("the stream goes on");
            self.rest.extend(chunk);
        }
    }
}
