//! Stage: the truth on disk: `session.json`, its journal and the drop folders.

pub mod document;
pub mod drop_file;
pub mod edits;
mod exchange;
pub mod inbox;
pub mod journal;
pub mod journal_file;
pub mod json;
pub mod ledger;
pub mod messages;
pub mod mission_view;
pub mod patch;
mod plain;
pub mod rebase;
pub mod recovery;
pub mod splice;
pub mod status_file;
pub mod store;
pub mod waiting;
