//! TCP servers on threads of their own, in a namespace.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rustix::net::{bind, listen, sockopt};

use crate::netns::Netns;
use crate::traffic::{read_to_end, stream_socket};
use crate::wait;

/// What a server does with the connections it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Waits for the client's FIN and closes then.
    AnswersEof,
    /// Closes its side at once, then waits for the client's FIN: the server enters TIME_WAIT.
    ClosesFirst,
    /// Keeps the connection untouched until the test takes it.
    Holds,
    /// Sends a few bytes, waits for the client's FIN and closes then.
    Greets,
}

/// A listening server; stops when dropped.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    listener: TcpListener,
    held: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `addr` in `netns`.
    pub fn start(netns: &Netns, addr: &str, behaviour: Behaviour) -> Result<Self> {
        let addr: SocketAddr = addr.parse().context("address of a server")?;
        let listener = netns
            .run(|| Ok(listen_on(addr)?))
            .with_context(|| format!("listening on {addr} in {}", netns.name()))?;
        let held = Arc::new(Mutex::new(Vec::new()));
        let thread = {
            let (listener, held) = (listener.try_clone()?, Arc::clone(&held));
            netns.spawn(move || serve(&listener, behaviour, &held))?
        };
        Ok(Self { addr, listener, held, thread: Some(thread) })
    }

    /// Where clients reach it.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes the held connections once there are `count`.
    pub fn take(&self, count: usize) -> Result<Vec<TcpStream>> {
        wait::until(&format!("{count} accepted connections"), wait::SOON, || {
            let mut held = lock(&self.held);
            Ok((held.len() >= count).then(|| std::mem::take(&mut *held)))
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes accept(), which then fails and ends the thread.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen_on(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = stream_socket(addr)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // The limit on receiving bounds accept() too, and a server may be idle for longer.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, None)?;
    bind(&socket, &addr)?;
    listen(&socket, 1024)?;
    Ok(TcpListener::from(socket))
}

fn serve(listener: &TcpListener, behaviour: Behaviour, held: &Mutex<Vec<TcpStream>>) {
    while let Ok((stream, _)) = listener.accept() {
        let limit = Some(wait::SOON);
        // A connection that went wrong is seen by the client, which asserts on it.
        let _ = stream.set_read_timeout(limit).map_err(anyhow::Error::from).and_then(|()| {
            match behaviour {
                Behaviour::AnswersEof => read_to_end(&stream),
                Behaviour::Greets => {
                    (&stream).write_all(b"hello\n")?;
                    read_to_end(&stream)
                }
                Behaviour::ClosesFirst => {
                    stream.shutdown(Shutdown::Write)?;
                    read_to_end(&stream)
                }
                Behaviour::Holds => {
                    lock(held).push(stream);
                    Ok(())
                }
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
