//! Stage: missions that are dropped as files, taken into their sessions.
//!
//! From there on they are like every other mission: the writeback sees that a session has changed.

pub mod machine;
pub mod worker;

use std::time::Duration;

/// How drop folders are kept.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Files in `accepted/` are removed after this long. 7 days: long enough to look something up after a holiday week.
    pub retention: Duration,
    /// Room in a session that is made for a drop.
    pub max_missions: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { retention: Duration::from_secs(7 * 24 * 60 * 60), max_missions: 10_000 }
    }
}
