//! Stage: `serve`, who can run a mission and who runs it.
//!
//! ```text
//!  callers ──▶ http/ ──▶ worker ──▶ machine ──▶ effects ──▶ store ──▶ replies, frames, forwards
//!                          ▲                                              │
//!  executors ◀──▶ http/ws ─┘                              observers ◀── hub
//! ```
//!
//! One task owns the machine; everyone else sends it messages. What a decision asks to have written is on disk before what it
//! asks to have said is said: replies, frames and forwards leave in the order of the decisions, after the commit.

pub mod assignment;
pub mod client;
pub mod dialer;
pub mod drops;
pub mod following;
pub mod http;
pub mod hub;
pub mod idempotency;
pub mod identity;
pub mod identity_path;
pub mod issuer;
pub mod lines;
pub mod machine;
pub mod operator;
pub mod outlet;
pub mod record;
pub mod recovery;
pub mod refusal;
pub mod resync;
pub mod routing;
mod row;
pub mod schema;
pub mod server;
pub mod store;
pub mod worker;

use std::path::PathBuf;
use std::time::Duration;

/// Settings of the registry.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of the store; `None` keeps everything in memory.
    pub state_dir: Option<PathBuf>,
    /// The file of executor tokens that other programs share; `None` keeps them in memory.
    pub identity_file: Option<PathBuf>,
    /// How long one forward to an executor may take. 10 s: a third of what callers wait.
    pub forward_timeout: Duration,
    /// How long an executor may be without its line before its missions are suspended or failed. 30 s: the longest pause
    /// between two attempts of a reconnecting executor.
    pub executor_grace: Duration,
    /// How long an executor has to dial in before it is dialled. 2 s.
    pub dial_after: Duration,
    /// Most missions that one executor holds at a time; `None` leaves it to the executor.
    pub max_missions_per_executor: Option<u32>,
    /// How long open requests may take once the shutdown has started. 5 s.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: None,
            identity_file: None,
            forward_timeout: Duration::from_secs(10),
            executor_grace: Duration::from_secs(30),
            dial_after: Duration::from_secs(2),
            max_missions_per_executor: None,
            drain_timeout: Duration::from_secs(5),
        }
    }
}
