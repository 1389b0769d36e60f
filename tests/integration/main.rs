//! Command: every door of the program, tried with real files, sockets and processes. One binary, so that it links once.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on must end loudly, helpers included, and says what it measured"
)]

mod bridge;
mod cli;
mod demo;
mod events;
mod examples;
mod executor;
mod provision;
mod serve;
mod session;
mod support;
mod watcher;
