//! Service: connections in: over TCP, TLS or a Unix socket, so many and no more, and none that dawdles.
//!
//! Not `axum::serve`, because that neither bounds the connections nor the time a peer may take to send its request.

use crate::net::impatient::Impatient;
use crate::registry::http::state::Peer;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::tasks::{Tasks, contained};
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest head of a request, in bytes; beyond it the answer is 431.
const MAX_HEAD_BYTES: usize = 32 << 10;

/// How long to wait after a failed accept, which is usually "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where connections come from.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// TCP with TLS on it.
    Tls(TcpListener, TlsAcceptor),
    /// A Unix socket, removed at the end.
    Unix(UnixListener, PathBuf),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(listener) => write!(f, "Tcp({listener:?})"),
            Self::Tls(listener, _) => write!(f, "Tls({listener:?})"),
            Self::Unix(_, path) => write!(f, "Unix({})", path.display()),
        }
    }
}

impl Listener {
    /// Says whether peers on other hosts can reach it.
    ///
    /// # Errors
    /// The socket does not know its own address.
    pub fn is_open_to_the_network(&self) -> io::Result<bool> {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => {
                Ok(!listener.local_addr()?.ip().to_canonical().is_loopback())
            }
            Self::Unix(..) => Ok(false),
        }
    }
}

/// Most connections at a time, and how slow their peers may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In all.
    pub connections: usize,
    /// From one address on another host.
    pub per_peer: usize,
    /// For the head of a request.
    pub head_timeout: Duration,
    /// For reading what is sent.
    pub write_timeout: Duration,
}

/// Accepts on one listener until the shutdown starts.
pub(super) async fn accept(
    listener: Listener,
    router: Router,
    limits: Limits,
    places: Arc<Semaphore>,
    seats: Arc<Seats>,
    tasks: Tasks,
    shutdown: Shutdown,
) {
    loop {
        // A place first: when there is none, new connections wait in the kernel's queue.
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = shutdown.started() => break,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            accepted = take(&listener) => accepted,
            () = shutdown.started() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(seat) = Seats::take(&seats, peer, limits.per_peer) else {
            tracing::info!(peer = %peer, "connection refused: this peer has too many");
            continue;
        };
        let (router, shutdown) = (router.clone(), shutdown.clone());
        let conversation = async move {
            match stream {
                Stream::Tcp(stream) => converse(stream, peer, router, limits, shutdown).await,
                Stream::Unix(stream) => converse(stream, peer, router, limits, shutdown).await,
                Stream::Tls(stream, acceptor) => {
                    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
                    if let Ok(Ok(stream)) = handshake {
                        converse(stream, peer, router, limits, shutdown).await;
                    }
                }
            }
            drop((place, seat));
        };
        tasks.spawn("connection", contained("connection", conversation));
    }
    if let Listener::Unix(_, path) = &listener {
        std::fs::remove_file(path).ok();
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Tls(tokio::net::TcpStream, TlsAcceptor),
    Unix(tokio::net::UnixStream),
}

async fn take(listener: &Listener) -> io::Result<(Stream, Peer)> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Stream::Tcp(stream), Peer::from_address(address)))
        }
        Listener::Tls(listener, acceptor) => {
            let (stream, address) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Stream::Tls(stream, acceptor.clone()), Peer::from_address(address)))
        }
        Listener::Unix(listener, _) => Ok((Stream::Unix(listener.accept().await?.0), Peer::UNIX)),
    }
}

async fn converse<S>(stream: S, peer: Peer, router: Router, limits: Limits, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Impatient::new(stream, limits.write_timeout)), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.started() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(peer = %peer, error = %error, "connection ended early");
    }
}

/// Counts the connections of each address on another host.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<HashMap<IpAddr, usize>>);

/// One connection's count; given back when dropped.
struct Seat(Arc<Seats>, Option<IpAddr>);

impl Seats {
    fn take(seats: &Arc<Self>, peer: Peer, most: usize) -> Option<Seat> {
        let Some(address) = peer.address().filter(|_| !peer.is_local()) else {
            return Some(Seat(Arc::clone(seats), None));
        };
        let mut taken = seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(address).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Seat(Arc::clone(seats), Some(address)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(address) = self.1 else { return };
        let mut taken = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&address);
            }
        }
    }
}
