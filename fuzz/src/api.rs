//! Whatever a client sends is answered in HTTP, or the connection is closed.

#[path = "../../twtrace/tests/daemon/owner.rs"]
#[allow(dead_code, reason = "the daemon's own tests use the rest")]
mod owner;

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    runtime::Runtime,
    sync::{mpsc, watch},
    time::{Duration, timeout},
};
use tokio_util::sync::CancellationToken;
use twtrace::{
    config::DaemonConfig,
    daemon::{
        api::{Api, Limits},
        hub::Hub,
        names::OwnNames,
        places::{Client, Places},
        server::Server,
    },
};

use owner::{Owner, Tell};

/// Most bytes of answers that are looked at: streams have no end.
const ENOUGH: usize = 64 << 10;
/// As long as any connection may go on by itself. No time passes: the clock goes on when all wait.
const LONG: Duration = Duration::from_secs(30);

/// A server and its owner, on one thread.
struct Daemon {
    runtime: Runtime,
    server: Server,
    _limits: watch::Sender<Limits>,
    _tell: mpsc::UnboundedSender<Tell>,
}

impl Daemon {
    fn start() -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        let config = DaemonConfig::default();
        let (limits, watched) = watch::channel(Limits::of(&config));
        let (tell, told) = mpsc::unbounded_channel();
        let (hub, asks) = Hub::new();
        let dropped = Arc::default();
        runtime.spawn(Owner::new(config, &dropped).run(asks, told));
        let names = OwnNames::with_own(&[]);
        let api = Api::new(hub, Places::new(dropped), watched, CancellationToken::new(), names);
        Self { runtime, server: Server::new(api), _limits: limits, _tell: tell }
    }

    /// What is answered to a client of this kind that sends these bytes and no more.
    fn answer(&self, client: Client, sent: &[u8]) -> Vec<u8> {
        self.runtime.block_on(async {
            let (ours, theirs) = duplex(64 << 10);
            self.server.welcome(client, theirs);
            let (reading, mut writing) = tokio::io::split(ours);
            let mut got = Vec::new();
            let both = async {
                let send = async {
                    // It may have closed at the first wrong byte.
                    let _ = writing.write_all(sent).await;
                };
                let mut reading = reading.take(ENOUGH as u64);
                let (_, read) = tokio::join!(send, reading.read_to_end(&mut got));
                read
            };
            let _ = timeout(LONG, both).await;
            got
        })
    }
}

thread_local! {
    static DAEMON: Daemon = Daemon::start();
}

/// See the module. The first byte tells who the client is.
pub fn api(bytes: &[u8]) {
    let Some((first, sent)) = bytes.split_first() else { return };
    let client = match first % 3 {
        0 => Client::Privileged,
        1 => Client::User(Some(1000)),
        _ => Client::network([192, 0, 2, 1].into()),
    };
    DAEMON.with(|daemon| {
        let got = daemon.answer(client, sent);
        assert!(
            got.is_empty() || got.starts_with(b"HTTP/1."),
            "{:?}",
            String::from_utf8_lossy(&got)
        );
        let asked = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let well = daemon.answer(Client::Privileged, asked);
        assert!(well.ends_with(b"ok\n"), "{:?}", String::from_utf8_lossy(&well));
    });
}
