//! Stage: runs missions on this host, as real processes in resources that were provisioned for them.
//!
//! ```text
//!  registry ──dispatch──▶ server ──▶ worker ──▶ provision ──▶ process ──▶ output
//!      ▲                              │  ▲                       │
//!      └───────── events ── client ◀──┘  └────── machine ◀───────┘
//! ```

pub mod agent_runtime;
pub mod claim;
pub mod client;
pub mod config;
pub mod daemon;
pub mod digest;
pub mod effect;
pub mod hitl_files;
pub mod line;
pub mod listeners;
pub mod log_file;
pub mod machine;
pub mod mission_order;
pub mod outcome;
pub mod process_identity;
pub mod process_table;
pub mod process_tree;
pub mod program;
pub mod provision;
pub mod questions;
pub mod reporter;
pub mod roster;
pub mod run;
pub mod runner;
pub mod runner_link;
pub mod runner_pool;
pub mod runner_protocol;
pub mod server;
mod spawn;
pub mod store;
pub mod worker;
