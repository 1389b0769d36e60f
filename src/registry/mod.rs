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

pub mod acceptor;
pub mod assignment;
pub mod client;
pub mod dialer;
pub mod drops;
pub mod following;
pub mod gauges;
pub mod http;
pub mod hub;
pub mod idempotency;
pub mod identity;
pub mod identity_path;
pub mod issuer;
pub mod lines;
pub mod machine;
pub mod metrics;
mod notifier;
pub mod operator;
pub mod operator_token;
pub mod outlet;
pub mod patience;
pub mod post;
pub mod query;
pub mod reach;
pub mod record;
pub mod recovery;
pub mod refusal;
pub mod resync;
pub mod routing;
mod row;
pub mod schema;
pub mod server;
pub mod signature;
pub mod store;
pub mod tls;
pub mod unix_socket;
mod watchdog;
pub mod webhook;
pub mod worker;

use crate::domain::secret::Token;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of the registry.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of the store; `None` keeps it in a temporary one that goes away at the end.
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
    /// Most missions of one session that may be live at a time; `None` for no limit.
    pub max_missions_per_session: Option<u32>,
    /// Names beside `localhost` under which it is reached.
    pub hosts: Vec<String>,
    /// What peers on other hosts have to send. Without it the registry listens to this host only.
    pub operator_token: Option<Token>,
    /// Who is sent events as they happen.
    pub webhooks: Vec<Webhook>,
    /// What notices of missions' ends are signed with; unsigned without it.
    pub notify_secret: Option<Token>,
    /// Hosts that missions may have told of their end wherever they are; others as [`reach::Reach`] says.
    pub notify_hosts: Vec<String>,
    /// Nothing can be changed over HTTP.
    pub read_only: bool,
    /// Most connections at a time: 16,384, three times the executors that one registry is built for.
    pub max_connections: usize,
    /// Most connections from one address on another host. 1,024.
    pub max_connections_per_peer: usize,
    /// Most requests a second from one address on another host, after a burst of twice that; 0 is no limit. 200.
    pub requests_per_second: u32,
    /// How long a peer may take to send the head of a request, and an idle connection to send the next one. 60 s: clients keep
    /// idle connections for up to 90 s and cope with one that has been closed.
    pub head_timeout: Duration,
    /// How long the body of a request may take. 30 s: a mebibyte over a slow line.
    pub body_timeout: Duration,
    /// How long a peer may leave what it is sent unread. 60 s, like a head.
    pub write_timeout: Duration,
    /// How long ended missions are kept. 30 days.
    pub retention: Duration,
    /// Beyond this size of the store, ended missions go sooner, oldest first. 4 GiB.
    pub max_store_bytes: u64,
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
            max_missions_per_session: None,
            hosts: Vec::new(),
            operator_token: None,
            webhooks: Vec::new(),
            notify_secret: None,
            notify_hosts: Vec::new(),
            read_only: false,
            max_connections: 16_384,
            max_connections_per_peer: 1_024,
            requests_per_second: 200,
            head_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            retention: Duration::from_secs(30 * 24 * 60 * 60),
            max_store_bytes: 4 << 30,
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// One receiver of events.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Where to POST.
    pub url: String,
    /// Only events whose name begins with one of these; empty for all.
    pub kinds: Vec<String>,
    /// What to sign with; unsigned without it.
    pub secret: Option<Token>,
}
