//! What ends a session.

use std::{
    ffi::OsString,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

use super::SessionError;

/// Whatever may end a session, waited for together.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    deadline: Option<Instant>,
    child: Option<Child>,
}

/// What did end it.
#[derive(Debug)]
pub enum Stopped {
    /// A signal, or the time given.
    Asked,
    /// The command traced.
    Command(ExitStatus),
}

impl Stop {
    /// Listens for signals from now on, so that none that comes once the user is told that the
    /// counting has begun ends the process unheard.
    ///
    /// # Errors
    /// [`SessionError::Signals`].
    pub fn listen() -> Result<Self, SessionError> {
        let listen = |kind| signal(kind).map_err(SessionError::Signals);
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            deadline: None,
            child: None,
        })
    }

    /// Starts the clock.
    pub fn after(&mut self, duration: Option<Duration>) {
        self.deadline = duration.map(|duration| Instant::now() + duration);
    }

    /// Starts the command, if there is one.
    ///
    /// # Errors
    /// [`SessionError::Command`].
    pub fn with_command(
        &mut self,
        command: &[OsString],
        output_is_machine: bool,
    ) -> Result<(), SessionError> {
        let [program, arguments @ ..] = command else { return Ok(()) };
        let mut command = Command::new(program);
        command.args(arguments).kill_on_drop(false);
        if output_is_machine {
            // Only our documents may reach whoever parses stdout.
            command.stdout(Stdio::from(std::io::stderr()));
        }
        self.child = Some(command.spawn().map_err(|source| SessionError::Command {
            command: program.to_string_lossy().into_owned(),
            source,
        })?);
        Ok(())
    }

    /// Waits for the end. May be dropped and called again.
    pub async fn wait(&mut self) -> Stopped {
        let deadline = self.deadline;
        tokio::select! {
            _ = self.interrupt.recv() => Stopped::Asked,
            _ = self.terminate.recv() => Stopped::Asked,
            _ = self.hangup.recv() => Stopped::Asked,
            () = async move {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            } => Stopped::Asked,
            status = async {
                match &mut self.child {
                    Some(child) => child.wait().await,
                    None => std::future::pending().await,
                }
            } => status.map_or(Stopped::Asked, Stopped::Command),
        }
    }

    /// Whether a command is being traced.
    pub fn has_command(&self) -> bool {
        self.child.is_some()
    }
}
