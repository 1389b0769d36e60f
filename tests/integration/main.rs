//! Command: every door of the program, tried with real files, sockets and processes. One binary, so that it links once.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must end loudly, helpers included")]

mod support;
mod watcher;
