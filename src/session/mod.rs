//! Stage: the truth on disk: `session.json`, its journal and the drop folders.

pub mod document;
pub mod json;
pub mod splice;
