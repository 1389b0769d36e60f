//! A wire that can be cut: a TCP proxy between two programs under test, with the troubles that real networks have.

use crate::support::DEADLINE;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What happens to connections and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Everything passes.
    None,
    /// Nobody listens; open connections are cut.
    Refuse,
    /// A connection is cut after so many more bytes of the server's.
    CutAfter(usize),
    /// Connections are taken and kept, but nothing passes.
    Stall,
    /// What the server sends passes in pieces of so many bytes, a hundred a second.
    Slow(usize),
    /// What the client sends is sent a second time on a connection of its own, as a proxy that retries would.
    Duplicate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    trouble: Trouble,
    cuts: u64,
}

/// The proxy; it ends when it is dropped, and its connections with it.
pub(crate) struct ChaosProxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    running: JoinHandle<()>,
}

impl ChaosProxy {
    /// Starts a proxy before `target` that makes no trouble yet.
    pub(crate) async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, seen) = watch::channel(State { trouble: Trouble::None, cuts: 0 });
        let running = spawn(accept(listener, target, seen));
        Self { address, state, running }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes this trouble from now on, to open connections too.
    pub(crate) fn set(&self, trouble: Trouble) {
        self.state.send_modify(|state| {
            state.trouble = trouble;
            state.cuts += u64::from(trouble == Trouble::Refuse);
        });
    }

    /// Cuts every open connection.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, mut seen: watch::Receiver<State>) {
    let address = listener.local_addr().unwrap();
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        if seen.borrow_and_update().trouble == Trouble::Refuse {
            listener = None;
        } else if listener.is_none() {
            listener = Some(listen_again(address).await);
        }
        let client = async {
            match &listener {
                Some(listener) => listener.accept().await.unwrap().0,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            client = client => drop(connections.spawn(carry(client, target, seen.clone()))),
            changed = seen.changed() => if changed.is_err() { return },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// The port is free again as soon as its connections are gone.
async fn listen_again(address: SocketAddr) -> TcpListener {
    let listening = async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(_still_taken) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(DEADLINE, listening).await.unwrap()
}

async fn carry(client: TcpStream, target: SocketAddr, seen: watch::Receiver<State>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let State { trouble, cuts } = *seen.borrow();
    let echo = if trouble == Trouble::Duplicate { TcpStream::connect(target).await.ok() } else { None };
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let mut until = seen.clone();
    tokio::select! {
        _ = until.wait_for(|state| state.cuts != cuts) => {}
        () = requests(client_reads, server_writes, echo, seen.clone()) => {}
        () = answers(server_reads, client_writes, seen) => {}
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut echo: Option<TcpStream>,
    mut seen: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if seen.wait_for(|state| state.trouble != Trouble::Stall).await.is_err() {
            return;
        }
        if let Some(echo) = &mut echo {
            echo.write_all(&buffer[..count]).await.ok();
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    // The client has said everything; the server's answer still counts.
    drop(to);
    std::future::pending::<()>().await;
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut seen: watch::Receiver<State>) {
    let mut buffer = vec![0; 16 * 1024];
    let mut passed = 0;
    loop {
        if seen.has_changed().unwrap_or(false) {
            passed = 0;
        }
        let trouble = seen.borrow_and_update().trouble;
        let room = match trouble {
            Trouble::CutAfter(limit) if passed >= limit => return,
            Trouble::CutAfter(limit) => buffer.len().min(limit - passed),
            Trouble::Slow(piece) => buffer.len().min(piece),
            Trouble::None | Trouble::Refuse | Trouble::Stall | Trouble::Duplicate => buffer.len(),
        };
        let count = tokio::select! {
            read = from.read(&mut buffer[..room]) => match read {
                Ok(count @ 1..) => count,
                Ok(0) | Err(_) => return,
            },
            changed = seen.changed() => if changed.is_ok() { continue } else { return },
        };
        if seen.wait_for(|state| state.trouble != Trouble::Stall).await.is_err() {
            return;
        }
        if matches!(trouble, Trouble::Slow(_)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        passed += count;
    }
}

/// Runs beside the test; whoever starts it ends it.
#[expect(clippy::disallowed_methods, reason = "a peer is no task of the program under test")]
pub(crate) fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}
