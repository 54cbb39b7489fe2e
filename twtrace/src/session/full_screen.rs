//! The terminal under the full screen: taken, drawn on, listened to, and given back.

use std::{
    io, panic,
    pin::Pin,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use crossterm::{
    cursor::Show,
    event::{Event as Input, EventStream, KeyCode, KeyEvent, KeyModifiers},
    execute,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use futures_core::Stream;
use ratatui::{DefaultTerminal, Terminal, prelude::CrosstermBackend};
use rustix::process::{Signal, getpid, kill_process};

use super::log::Hold;
use crate::view::tui::{self, Request, State};

/// A terminal that is taken until this is dropped, also by a panic.
pub struct FullScreen {
    terminal: DefaultTerminal,
    keys: EventStream,
    _log: Hold,
}

impl FullScreen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// The terminal does not do what is needed.
    pub fn open(state: &mut State) -> io::Result<Self> {
        let log = Hold::begin();
        let terminal = take()?;
        let size = terminal.size()?;
        state.resize(size.width, size.height);
        let mut screen = Self { terminal, keys: EventStream::new(), _log: log };
        screen.draw(state)?;
        Ok(screen)
    }

    /// Draws.
    ///
    /// # Errors
    /// The terminal went away.
    pub fn draw(&mut self, state: &State) -> io::Result<()> {
        self.terminal.draw(|frame| tui::draw(frame, state))?;
        Ok(())
    }

    /// Waits for a key or a new size, and does what can be done here. May be dropped and called
    /// again.
    ///
    /// # Errors
    /// The terminal went away.
    pub async fn input(&mut self, state: &mut State) -> io::Result<Option<Request>> {
        let next =
            std::future::poll_fn(|context| Pin::new(&mut self.keys).poll_next(context)).await;
        let input = next.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))?;
        let request = match input {
            Input::Key(key) if is_suspend(key) => {
                self.suspend()?;
                None
            }
            Input::Key(key) => tui::effect(state, key).and_then(|effect| state.apply(effect)),
            Input::Resize(columns, lines) => {
                state.resize(columns, lines);
                None
            }
            _ => return Ok(None),
        };
        self.draw(state)?;
        Ok(request)
    }

    /// Stops as a shell's job does, and comes back with it.
    fn suspend(&mut self) -> io::Result<()> {
        give_back();
        kill_process(getpid(), Signal::TSTP)?;
        self.terminal = take()?;
        self.terminal.clear()
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Whether the terminal is taken. Given back twice, it would put the cursor where it was before
/// ours, over what was written since: the message of a panic, which gives it back first.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the terminal. A panic from now on gives it back before it says anything.
fn take() -> io::Result<DefaultTerminal> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
    });
    TAKEN.store(true, Ordering::Relaxed);
    enable_raw_mode()
        .and_then(|()| execute!(io::stdout(), EnterAlternateScreen))
        .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())))
        .inspect_err(|_| give_back())
}

/// Gives it back, once for each time that it was taken.
fn give_back() {
    if TAKEN.swap(false, Ordering::Relaxed) {
        // Nobody to tell if the terminal is gone.
        let _ = disable_raw_mode();
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    }
}

fn is_suspend(key: KeyEvent) -> bool {
    key.code == KeyCode::Char('z') && key.modifiers.contains(KeyModifiers::CONTROL)
}
