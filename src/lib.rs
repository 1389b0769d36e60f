//! Domain: the map of the crate.
//!
//! `aiwg-rs` carries missions from a folder to an executor and their results back:
//!
//! ```text
//!  session.json ──▶ watcher ──▶ dispatcher ──▶ registry ──▶ executor
//!       ▲                                         │             │
//!       └───────────── writeback ◀──── events ◀───┴─────────────┘
//! ```
//!
//! # Tiers
//!
//! The first word of every file says its tier. Imports point to the same tier or to one above it in this table, never
//! below; `tests/architecture.rs` keeps it so.
//!
//! | first word | holds |
//! |---|---|
//! | `Domain:` | the nouns and the transition table; no clock, files, network |
//! | `Pure:` | decisions: input and time in, new state and effects out |
//! | `Edge:` | one door to the world per file; no decisions, no retries |
//! | `Service:` | loops and servers that own tasks, feed machines and carry out effects |
//! | `Command:` | arguments, settings, output, exit codes |
//!
//! A stage's `mod.rs` says `Stage:` and counts as Domain. The same file name means the same thing in every folder:
//! `machine.rs` decides, `store.rs` and `client.rs` touch the world, `worker.rs` and `server.rs` run.
//!
//! # Glossary
//!
//! *Hint*: something may have changed, look. *Sweep*: a look at everything. *Dispatch*: asking the registry to have a
//! mission run. *Assign*: an executor accepted it. *Attempt*: one dispatch of one mission, retries included. *Effect*:
//! what a machine asks for. *Event*: what happened. *Patch*: fields that we lay over a mission in its file. *Lease*: a
//! right that ends. *Slot*: the right to have one request open. *Drain*: finish what is open, take nothing new.
//! *Resync*: agreeing again on who owns what after a lost connection.

// The nouns, and the shapes on the wire.
pub mod domain;
pub mod protocol;

// Doors to the world that every stage shares.
pub mod disk;
pub mod net;
pub mod runtime;

// The folder.
pub mod session;
pub mod watcher;

// The bridge, in the order of the flow.
pub mod dispatcher;
pub mod events;
pub mod intake;
pub mod writeback;

// The other end.
pub mod executor;

// The stages wired together.
pub mod bridge;
pub mod dry_run;

// The program around the stages.
pub mod cli;
pub mod telemetry;

// The server that executors register with.
pub mod registry;
