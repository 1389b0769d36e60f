//! Stage: from a queued mission to one that somebody has accepted.
//!
//! ```text
//! offers ─▶ queue ─▶ begin (re-read, journal) ─▶ POST ─▶ assigned
//!             ▲                                   ├────▶ wait, try again
//!             ├── gate closed while the registry  ├────▶ failed
//!             │   is unreachable: one probe       └────▶ uncertain: ask first
//!             └───────────────────────────────────────────────┘
//! ```

pub mod client;
pub mod courier;
pub mod crowd;
pub mod machine;
pub mod payload;
pub mod queue;
pub mod reachability;
pub mod verdict;
pub mod worker;

use crate::domain::retry::RetryPolicy;
use std::time::Duration;

/// What a mission does while no executor takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnNoExecutor {
    /// Fail after the attempts have run out.
    #[default]
    Fail,
    /// Stay queued and try again for as long as it takes.
    Hold,
}

/// What a mission does while the registry cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnreachable {
    /// Stay queued; no attempt is counted.
    #[default]
    Wait,
    /// Count attempts, then fail.
    Fail,
}

/// Settings of the dispatcher.
#[derive(Debug, Clone)]
pub struct Config {
    /// Base address of the registry.
    pub serve_url: String,
    /// Open requests at most, 1 to 1024. 64 keeps a loopback registry busy without flooding it.
    pub max_in_flight: usize,
    /// Requests per mission before a refusal for now becomes a failure. 5, as in Mission Control.
    pub max_attempts: u32,
    /// Delays between them.
    pub retry: RetryPolicy,
    /// What to do while no executor takes a mission.
    pub on_no_executor: OnNoExecutor,
    /// What to do while the registry cannot be reached.
    pub on_unreachable: OnUnreachable,
    /// How long an uncertain request may still be on its way: a registry that does not know the mission is believed only
    /// when this much time has passed since it was sent. 2 s.
    pub uncertain_grace: Duration,
    /// How long open requests may take after a shutdown began.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            serve_url: "http://127.0.0.1:7337".to_owned(),
            max_in_flight: 64,
            max_attempts: 5,
            retry: RetryPolicy::DISPATCH,
            on_no_executor: OnNoExecutor::Fail,
            on_unreachable: OnUnreachable::Wait,
            uncertain_grace: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(5),
        }
    }
}
