//! From the start of the daemon to its end.

use std::{
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    api::{Api, Limits},
    failure::DaemonFailure,
    hub::Hub,
    log::Volume,
    names::OwnNames,
    notify,
    owner::Owner,
    places::Places,
    server::Server,
    socket::{LocalSocket, Lock, bind_tcp},
};
use crate::{
    config::{ConfigError, DaemonConfig, Flags},
    kernel::rights::{self, Work},
};

/// Where the settings come from, each time they are read.
#[derive(Clone, Debug)]
pub struct SettingsFrom {
    /// The file, if the user named one.
    pub file: Option<PathBuf>,
    /// What precedes it.
    pub flags: Flags,
}

impl SettingsFrom {
    /// Reads them.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(&self) -> Result<DaemonConfig, ConfigError> {
        DaemonConfig::load(self.file.as_deref(), &self.flags)
    }
}

/// Runs the daemon until SIGTERM, SIGINT, or a failure. Its own thread has the pipeline; another
/// one has the API, so that whoever asks costs no event.
///
/// # Errors
/// [`DaemonFailure`].
pub async fn run(
    settings: SettingsFrom,
    config: DaemonConfig,
    volume: Volume,
) -> Result<(), DaemonFailure> {
    let mut signals = Signals::listen()?;
    // Whatever is taken already is known before anything is attached.
    let _lock = Lock::take(&config.lock_file)?;
    let local = LocalSocket::bind(&config)?;
    let network = config.listen.map(|listen| bind_tcp(listen.0)).transpose()?;

    let dropped = Arc::default();
    let (hub, asks) = Hub::new();
    let owner = Owner::start(config.clone(), asks, &dropped)?;
    let status = format!("watching through {}", owner.origin().backend);
    let duties = owner.duties();
    rights::keep_for(duties)?;

    let (limits, watched) = watch::channel(Limits::of(&config));
    let stop = CancellationToken::new();
    let names = OwnNames::with_own(config.listen_names.as_ref().map_or(&[], |names| &names.0));
    let api = Api::new(hub.clone(), Places::new(dropped), watched, stop.clone(), names);
    let server = Server::new(api);
    let serving = serve(server, local, network)?;
    tracing::info!(socket = %config.socket.display(), "{status}");
    notify::ready(&status);

    let control = control(Control { settings, config, hub, limits, volume }, &mut signals);
    let owning = owner.run();
    tokio::pin!(control, owning);
    let outcome = tokio::select! {
        outcome = &mut owning => outcome,
        () = &mut control => owning.await,
    };
    notify::stopping();
    stop.cancel();
    if serving.join().is_err() {
        tracing::error!("the API's thread ended in a panic");
    }
    tracing::info!("stopped");
    outcome
}

/// Serves on a thread with a runtime of its own, until the server is told to stop.
fn serve(
    server: Server,
    local: LocalSocket,
    network: Option<std::net::TcpListener>,
) -> Result<JoinHandle<()>, DaemonFailure> {
    let refused = |step| move |source| DaemonFailure::System { step, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(refused("start the API's runtime"))?;
    let all = move || {
        // Whatever a client makes of this thread, it has no right that any other process has not.
        if let Err(error) = rights::keep_for(Work::Nothing) {
            tracing::error!(%error, "the API is not served: its thread cannot give up its rights");
            return;
        }
        runtime.block_on(async {
            let over_tcp = async {
                match network {
                    Some(listener) => server.serve_network(listener).await,
                    None => Ok(()),
                }
            };
            if let Err(error) = tokio::try_join!(server.serve_local(&local), over_tcp) {
                tracing::error!(%error, "the API cannot be served");
            }
            server.farewell().await;
        });
    };
    thread::Builder::new().name("api".into()).spawn(all).map_err(refused("start the API's thread"))
}

/// The signals that mean something.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> Result<Self, DaemonFailure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|source| DaemonFailure::System { step: "listen for signals", source })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }
}

/// Time for the configuration to be read again.
const READING: Duration = Duration::from_secs(5);

/// Says that a reload changed nothing, and why.
fn stays(why: &dyn std::fmt::Display) {
    tracing::error!("the configuration stays as it was: {why}");
}

/// What a reload changes.
struct Control {
    settings: SettingsFrom,
    config: DaemonConfig,
    hub: Hub,
    limits: watch::Sender<Limits>,
    volume: Volume,
}

/// Does what signals say and shows that the owner is alive, until it has been told to stop.
async fn control(mut control: Control, signals: &mut Signals) {
    // Without a watchdog once in a while, which costs nothing.
    let watched = notify::watchdog();
    let mut pulse = interval(watched.unwrap_or(Duration::from_secs(3600)));
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hang_up.recv() => control.reload().await,
            _ = pulse.tick() => {
                // The owner's answer is what shows that it is alive.
                if watched.is_some() && control.hub.status().await.is_ok() {
                    notify::alive();
                }
            }
        }
    }
    tracing::info!("stopping");
    // How that went the owner itself says.
    let _ = control.hub.stop().await;
}

impl Control {
    /// Reads the configuration again. A faulty one changes nothing.
    async fn reload(&mut self) {
        notify::reloading();
        let (settings, (sender, loaded)) = (self.settings.clone(), oneshot::channel());
        // A file may be anything, such as a pipe that nobody writes to.
        let read = move || drop(sender.send(settings.load()));
        let begun = thread::Builder::new().name("settings".into()).spawn(read);
        let loaded = async { timeout(READING, loaded).await.ok()?.ok() };
        match (begun, loaded.await) {
            (Err(error), _) => stays(&error),
            (Ok(_), None) => stays(&"the file cannot be read in time"),
            (Ok(_), Some(Err(error))) => stays(&error),
            (Ok(_), Some(Ok(new))) => self.take(new).await,
        }
        notify::ready("watching");
    }

    async fn take(&mut self, new: DaemonConfig) {
        let changes = match self.hub.reload(new.clone()).await {
            Ok(changes) => changes,
            Err(error) => return stays(&error),
        };
        self.config = self.config.reloaded(&new);
        self.limits.send_replace(Limits::of(&self.config));
        self.volume.set(self.config.log);
        let list = |keys: &[&str]| keys.join(", ");
        if changes.now.is_empty() {
            tracing::info!("the configuration was read again; nothing changes now");
        } else {
            tracing::info!("the configuration was read again; changed: {}", list(&changes.now));
        }
        if !changes.restart.is_empty() {
            tracing::warn!("these changes need a restart: {}", list(&changes.restart));
        }
    }
}
