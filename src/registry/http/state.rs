//! Service: what every handler can reach.

use crate::registry::Config;
use crate::registry::drops::Drops;
use crate::registry::http::rates::Rates;
use crate::registry::hub::Hub;
use crate::registry::identity::Identities;
use crate::registry::issuer::Issuer;
use crate::registry::lines::ConnectionIds;
use crate::registry::metrics::Metrics;
use crate::registry::reach::Reach;
use crate::registry::refusal::Refusal;
use crate::registry::store::{Reader, StoreError};
use crate::registry::worker::Registry;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::tasks::Tasks;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
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
    /// Reads the store.
    pub reader: Arc<Reader>,
    /// Events for observers.
    pub hub: Arc<Hub>,
    /// Numbers for connections.
    pub connections: Arc<ConnectionIds>,
    /// Counts dropped frames.
    pub drops: Arc<Drops>,
    /// Counts and times.
    pub metrics: Arc<Metrics>,
    /// Limits for peers from elsewhere.
    pub rates: Rates,
    /// Where missions may have their end told.
    pub reach: Reach,
    /// Peers on other hosts can reach us.
    pub is_open: bool,
    /// Settings.
    pub config: Config,
    /// Ends the connections.
    pub shutdown: Shutdown,
    /// Whom the lines belong to.
    pub tasks: Tasks,
}

impl App {
    /// Asks the store, off the async threads.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when it cannot be read.
    pub async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let reader = Arc::clone(&self.reader);
        let unreadable = || Refusal::Unavailable { why: "the store cannot be read".to_owned() };
        match tokio::task::spawn_blocking(move || query(&reader)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                tracing::error!(error = %crate::registry::outlet::chain(&error), "cannot read the store");
                Err(unreadable())
            }
            Err(_panicked) => Err(unreadable()),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(At);

#[derive(Debug, Clone, Copy)]
enum At {
    Address(SocketAddr),
    UnixSocket,
    Unknown,
}

impl Peer {
    /// Came over the Unix socket, which only its owner can open.
    pub const UNIX: Self = Self(At::UnixSocket);
    /// Counts as being elsewhere.
    pub const UNKNOWN: Self = Self(At::Unknown);

    /// Came over TCP.
    pub fn from_address(address: SocketAddr) -> Self {
        Self(At::Address(address))
    }

    /// Says whether the peer is on this host.
    pub fn is_local(self) -> bool {
        match self.0 {
            At::Address(address) => address.ip().to_canonical().is_loopback(),
            At::UnixSocket => true,
            At::Unknown => false,
        }
    }

    /// Says whether it came over the Unix socket.
    pub fn is_unix(self) -> bool {
        matches!(self.0, At::UnixSocket)
    }

    /// Returns its address.
    pub fn address(self) -> Option<IpAddr> {
        match self.0 {
            At::Address(address) => Some(address.ip().to_canonical()),
            At::UnixSocket | At::Unknown => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            At::Address(address) => address.fmt(f),
            At::UnixSocket => f.write_str("unix socket"),
            At::Unknown => f.write_str("unknown"),
        }
    }
}
