//! Service: numbers for connections.

use crate::registry::record::ConnectionId;
use std::sync::atomic::{AtomicU64, Ordering};

/// Hands out connection numbers, each once.
#[derive(Debug, Default)]
pub struct ConnectionIds(AtomicU64);

impl ConnectionIds {
    /// Returns a number that nobody has had.
    pub fn next(&self) -> ConnectionId {
        ConnectionId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}
