//! Service: calls executors that do not call us.

use crate::domain::id::ExecutorId;
use crate::net::ws::{Connection, Failure};
use crate::protocol::envelope::{Frame, MAX_FRAME_BYTES};
use crate::protocol::route;
use crate::registry::drops::Drops;
use crate::registry::identity::Identities;
use crate::registry::lines::ConnectionIds;
use crate::registry::machine::{Attached, Opened};
use crate::registry::outlet::{self, LineOrders, Outgoing};
use crate::registry::record::ConnectionId;
use crate::registry::worker::{LineOpened, Message, Registry};
use crate::runtime::clock;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::tasks::{Tasks, contained};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long one call may take to connect. 5 s, as for every connection of ours.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Most calls that ring at the same time.
const MAX_RINGING: usize = 64;

/// Makes the calls.
#[derive(Debug)]
pub(super) struct Dialer {
    identities: Arc<Identities>,
    connections: Arc<ConnectionIds>,
    drops: Arc<Drops>,
    ringing: Arc<Semaphore>,
    shutdown: Shutdown,
}

impl Dialer {
    pub(super) fn new(
        identities: Arc<Identities>,
        connections: Arc<ConnectionIds>,
        drops: Arc<Drops>,
        shutdown: Shutdown,
    ) -> Self {
        Self { identities, connections, drops, ringing: Arc::new(Semaphore::new(MAX_RINGING)), shutdown }
    }

    /// Starts to call an executor; the outcome comes as a message.
    pub(super) fn dial(&self, id: ExecutorId, registry: &Registry, tasks: &Tasks) {
        let token = self.identities.token(&id);
        let connection = self.connections.next();
        let (registry, drops) = (registry.clone(), Arc::clone(&self.drops));
        let (ringing, shutdown) = (Arc::clone(&self.ringing), self.shutdown.clone());
        tasks.spawn("dial", async move {
            let call =
                call(&id, token.as_ref().map(crate::domain::secret::Token::reveal), &registry, &ringing);
            let socket = tokio::select! {
                called = call => called,
                () = shutdown.started() => return,
            };
            match socket {
                Ok(Some(socket)) => follow(socket, id, connection, &registry, &drops, &shutdown).await,
                Ok(None) => {}
                Err(failure) => {
                    tracing::debug!(executor.id = %id, error = %failure, "could not dial the executor");
                    registry.tell(Message::DialFailed { id }).await;
                }
            }
        });
    }
}

async fn call(
    id: &ExecutorId,
    token: Option<&str>,
    registry: &Registry,
    ringing: &Semaphore,
) -> Result<Option<Connection>, Failure> {
    let Ok(_permit) = ringing.acquire().await else { return Ok(None) };
    let address = registry.ask(|reply| Message::DialAddress { id: id.clone(), reply }).await;
    let Ok(Some(base)) = address else { return Ok(None) };
    let url = route::join(&route::socket_base(&base), &route::socket(id.as_str()));
    // In the query because older executors look nowhere else, and in the header for the others.
    let query = token.map(|token| format!("?token={}", route::segment(token))).unwrap_or_default();
    Connection::open(&format!("{url}{query}"), token, CONNECT_TIMEOUT).await.map(Some)
}

async fn follow(
    socket: Connection,
    id: ExecutorId,
    connection: ConnectionId,
    registry: &Registry,
    drops: &Drops,
    shutdown: &Shutdown,
) {
    let (handle, orders) = outlet::line();
    let line = LineOpened { id: id.clone(), connection, opened: Opened::ByUs, handle };
    if registry.ask(|reply| Message::Attach { line, reply }).await == Ok(Attached::Line) {
        tracing::info!(executor.id = %id, "dialled the executor");
        contained("dialled line", talk(socket, orders, &id, connection, registry, drops, shutdown)).await;
    }
    registry.tell(Message::Detach { id, connection }).await;
}

async fn talk(
    mut socket: Connection,
    mut orders: LineOrders,
    id: &ExecutorId,
    connection: ConnectionId,
    registry: &Registry,
    drops: &Drops,
    shutdown: &Shutdown,
) {
    loop {
        tokio::select! {
            text = socket.next_text() => match text {
                Ok(text) => {
                    let frames = parse(&text, id, drops);
                    registry.tell(Message::Frames { id: id.clone(), connection, frames }).await;
                }
                Err(failure) => {
                    tracing::info!(executor.id = %id, error = %failure, "the dialled line ended");
                    return;
                }
            },
            order = orders.queue.recv() => match order {
                Some(Outgoing::Text(text)) => {
                    if socket.send_text(text.to_string()).await.is_err() {
                        return;
                    }
                }
                Some(Outgoing::Promote | Outgoing::Demote) => {}
                Some(Outgoing::Close(_)) | None => return socket.close().await,
            },
            () = orders.too_slow.cancelled() => return socket.close().await,
            () = shutdown.started() => return socket.close().await,
        }
    }
}

/// Reads one text as a frame; what is no frame is counted and dropped.
pub(super) fn parse(text: &str, id: &ExecutorId, drops: &Drops) -> Vec<Frame> {
    match Frame::parse(text) {
        Ok(frame) => vec![frame],
        Err(_) if text.len() > MAX_FRAME_BYTES => {
            drops.count("frame_too_long", id, text, clock::now());
            Vec::new()
        }
        Err(error) => {
            drops.count("invalid_envelope", id, &error.to_string(), clock::now());
            Vec::new()
        }
    }
}
