//! Stage: the registry's HTTP surface, a file per resource as in the URL.

pub mod body;
pub mod error;
pub mod executors;
pub mod health;
pub mod missions;
pub mod router;
pub mod sessions;
pub mod state;
pub mod ws;
