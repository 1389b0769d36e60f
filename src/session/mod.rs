//! Stage: the truth on disk: `session.json`, its journal and the drop folders.

pub mod document;
mod exchange;
pub mod json;
mod plain;
pub mod rebase;
pub mod recovery;
pub mod splice;
pub mod store;
