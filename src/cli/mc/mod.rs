//! Command: Mission Control on files: a file per verb.
//!
//! Every verb reads and writes the folder itself, with or without a bridge running, and through the same lossless
//! writer as the bridge. What a written word means to a running bridge is the table of [`crate::writeback::merge`].

pub mod bridge;
pub mod dispatch;
pub mod folder;
pub mod start;

use crate::cli::exit::Code;
use clap::Subcommand;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Mc {
    /// Carry missions from the folder to a registry and their results back
    Bridge(Box<bridge::Arguments>),
    /// Begin a session, a queue for missions, and print its id
    Start(start::Arguments),
    /// Queue a mission and print its id
    Dispatch(Box<dispatch::Arguments>),
}

/// Carries out one verb.
///
/// # Errors
/// Whatever stopped it.
pub async fn run(verb: Mc) -> anyhow::Result<Code> {
    match verb {
        Mc::Bridge(arguments) => bridge::run(*arguments).await,
        Mc::Start(arguments) => folder::blocking(move || start::run(&arguments)).await,
        Mc::Dispatch(arguments) => folder::blocking(move || dispatch::run(&arguments)).await,
    }
}
