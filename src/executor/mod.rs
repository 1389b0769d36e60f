//! Stage: runs missions on this host, as real processes in resources that were provisioned for them.
//!
//! ```text
//!  registry ──dispatch──▶ server ──▶ worker ──▶ provision ──▶ process ──▶ output
//!      ▲                              │  ▲                       │
//!      └───────── events ── client ◀──┘  └────── machine ◀───────┘
//! ```

pub mod process_identity;
pub mod process_table;
pub mod provision;
