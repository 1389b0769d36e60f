//! Stage: the registry's HTTP surface, a file per resource as in the URL.

pub mod body;
pub mod dashboard;
pub mod error;
pub mod events;
pub mod executors;
mod feed;
pub mod guard;
pub mod health;
pub mod lists;
pub mod missions;
pub mod params;
pub mod rates;
pub mod router;
pub mod sessions;
mod settling;
pub mod state;
pub mod ws;
