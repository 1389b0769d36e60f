//! Stage: files, done carefully once: replace and exchange, append, lock, lease.

pub mod append;
pub mod atomic;
pub mod filesystem;
pub mod fsync;
pub mod identity;
pub mod lease;
pub mod lock;
pub mod wait;
