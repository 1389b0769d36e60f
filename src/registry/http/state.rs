//! Service: what every handler can reach.

use crate::registry::Config;
use crate::registry::drops::Drops;
use crate::registry::identity::Identities;
use crate::registry::issuer::Issuer;
use crate::registry::lines::ConnectionIds;
use crate::registry::store::Reader;
use crate::registry::worker::Registry;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::tasks::Tasks;
use std::net::SocketAddr;
use std::sync::Arc;

/// Shared by all handlers.
#[derive(Debug)]
pub struct App {
    /// Speaks to the worker.
    pub registry: Registry,
    /// The executors' tokens.
    pub identities: Arc<Identities>,
    /// Issues tokens, many with one write.
    pub issuer: Issuer,
    /// Reads what has left the memory; `None` without a store.
    pub reader: Option<Arc<Reader>>,
    /// Numbers for connections.
    pub connections: Arc<ConnectionIds>,
    /// Counts dropped frames.
    pub drops: Arc<Drops>,
    /// Settings.
    pub config: Config,
    /// Ends the connections.
    pub shutdown: Shutdown,
    /// Whom the lines belong to.
    pub tasks: Tasks,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

impl Peer {
    /// Says whether the peer is on this host.
    pub fn is_local(self) -> bool {
        self.0.ip().to_canonical().is_loopback()
    }
}
