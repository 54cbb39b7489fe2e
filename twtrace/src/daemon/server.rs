//! Takes connections, few enough and short enough, and answers them over HTTP/1.1.

use std::{
    convert::Infallible,
    io,
    net::TcpListener,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf};
use tokio_io_timeout::TimeoutStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    api::Api,
    places::{Client, Seat},
    socket::LocalSocket,
};

/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// Pause after the kernel had no connection to give, for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);
/// Time for one to take the answer for whom there is no place.
const TURNING_AWAY: Duration = Duration::from_millis(250);
/// Time for connections to end by themselves when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(2);
/// What one is told for whom there is no place.
const NO_PLACE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
    Content-Length: 68\r\nConnection: close\r\n\r\n\
    {\"error\":\"all connections are taken; see max_connections, or wait\"}\n";

/// Serves connections until it is told to stop.
#[derive(Clone, Debug)]
pub struct Server {
    api: Arc<Api>,
    connections: TaskTracker,
}

impl Server {
    /// A server that answers with `api`, and stops when the token in it is cancelled.
    pub fn new(api: Api) -> Self {
        Self { api: Arc::new(api), connections: TaskTracker::new() }
    }

    /// Serves the unix socket until the stop.
    ///
    /// # Errors
    /// The runtime cannot watch the socket.
    pub async fn serve_local(&self, socket: &LocalSocket) -> io::Result<()> {
        let listener = tokio::net::UnixListener::from_std(socket.listener.try_clone()?)?;
        let own = rustix::process::geteuid().as_raw();
        self.accept(async || {
            let (stream, _) = listener.accept().await?;
            let uid = stream.peer_cred().map(|credentials| credentials.uid()).ok();
            let privileged = uid.is_some_and(|uid| uid == 0 || uid == own);
            let client = if privileged { Client::Privileged } else { Client::User(uid) };
            self.welcome(client, stream);
            Ok(())
        })
        .await;
        Ok(())
    }

    /// Serves a TCP address until the stop.
    ///
    /// # Errors
    /// The runtime cannot watch the socket.
    pub async fn serve_network(&self, listener: TcpListener) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        self.accept(async || {
            let (stream, address) = listener.accept().await?;
            self.welcome(Client::network(address.ip()), stream);
            Ok(())
        })
        .await;
        Ok(())
    }

    /// Takes one connection after the other.
    async fn accept(&self, next: impl AsyncFn() -> io::Result<()>) {
        loop {
            let taken = tokio::select! {
                () = self.api.stop.cancelled() => return,
                taken = next() => taken,
            };
            if let Err(error) = taken {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Waits until all connections have ended, those that linger being cut off.
    pub async fn farewell(&self) {
        self.connections.close();
        if tokio::time::timeout(FAREWELL, self.connections.wait()).await.is_err() {
            let left = self.connections.len();
            tracing::info!(left, "cutting off connections that did not end by themselves");
        }
    }

    /// Serves one connection in a task of its own, if there is a place for it; answers that there is
    /// none otherwise.
    pub fn welcome<S>(&self, client: Client, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let limits = *self.api.limits.borrow();
        match self.api.places.take(limits.connections, client) {
            Some(place) => {
                let (api, stop) = (Arc::clone(&self.api), self.api.stop.clone());
                self.connections.spawn(serve(api, stream, place, stop));
            }
            None => {
                self.connections.spawn(turn_away(stream, limits.stall));
            }
        }
    }
}

/// Serves one connection until either end has enough.
async fn serve<S>(api: Arc<Api>, stream: S, place: Seat, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (limits, place) = (*api.limits.borrow(), Arc::new(place));
    let (reading, writing) = tokio::io::split(stream);
    let reading = Shared(Arc::new(Mutex::new(reading)));
    let mut stream = TimeoutStream::new(tokio::io::join(reading.clone(), writing));
    stream.set_write_timeout(Some(limits.stall));
    let left = left(Arc::clone(&place), reading);
    let service = service_fn(|request: Request<Incoming>| {
        let (api, place) = (Arc::clone(&api), Arc::clone(&place));
        async move { Ok::<_, Infallible>(api.answer(&place, &request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request)
        .max_buf_size(limits.header)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = left => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection was broken off");
    }
}

/// What one client sends, to be read by whoever asks.
#[derive(Debug)]
struct Shared<S>(Arc<Mutex<ReadHalf<S>>>);

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: AsyncRead> AsyncRead for Shared<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *reading).poll_read(context, buffer)
    }
}

/// Waits until a client has left to whom something without end is told. HTTP's own way to notice is to
/// read, and it reads nothing more behind a request that was not the last thing sent: the place of
/// such a client would stay taken until there is something to tell.
async fn left<S: AsyncRead>(place: Arc<Seat>, mut reading: Shared<S>) {
    place.given_for_ever().await;
    let mut unread = [0; 1024];
    while matches!(reading.read(&mut unread).await, Ok(1..)) {}
}

/// Says that there is no place.
async fn turn_away(stream: impl AsyncRead + AsyncWrite, patience: Duration) {
    tokio::pin!(stream);
    let told = async {
        stream.write_all(NO_PLACE).await?;
        stream.shutdown().await?;
        // To close with something unread would reset the connection, and take the answer back.
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // Whoever does not listen is not told.
    let _ = tokio::time::timeout(patience.min(TURNING_AWAY), told).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_for_want_of_a_place_is_well_formed() {
        let text = std::str::from_utf8(NO_PLACE).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
        let document: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(document["error"].is_string());
    }
}
