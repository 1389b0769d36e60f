//! Command: Mission Control on files: a file per verb.
//!
//! Every verb reads and writes the folder itself, with or without a bridge running, and through the same lossless
//! writer as the bridge. What a written word means to a running bridge is the table of [`crate::writeback::merge`].

pub mod abort;
pub mod bridge;
pub mod dispatch;
pub mod folder;
mod held;
pub mod list;
pub mod logs;
pub mod overview;
pub mod pause;
pub mod respond;
pub mod resume;
pub mod retry;
pub mod start;
pub mod status;
pub mod stop;
pub mod table;
pub mod target;
pub mod wait;
pub mod watch;

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
    /// Show the sessions and how many missions stand where
    List(list::Arguments),
    /// Show what waits, runs, asks and failed, and why
    Status(status::Arguments),
    /// Show what a mission's agent said
    Logs(logs::Arguments),
    /// Follow what status shows
    Watch(watch::Arguments),
    /// Wait until a mission is done, or somewhere else
    Wait(wait::Arguments),
    /// Answer the question that a mission asks
    Respond(respond::Arguments),
    /// Queue a mission that has ended once more
    Retry(retry::Arguments),
    /// End a mission, whether it waits or runs
    #[command(alias = "cancel")]
    Abort(abort::Arguments),
    /// Hold a mission, or all queued missions of a session
    Pause(pause::Arguments),
    /// Let a paused mission, or a paused or stopped session, go on
    Resume(resume::Arguments),
    /// Close a session: its queued missions are held for good, those that run go on
    Stop(stop::Arguments),
}

/// Carries out one verb.
///
/// # Errors
/// Whatever stopped it.
pub async fn run(verb: Mc) -> anyhow::Result<Code> {
    match verb {
        Mc::Bridge(arguments) => bridge::run(*arguments).await,
        Mc::Start(arguments) => folder::blocking(move || start::run(&arguments)).await,
        Mc::Dispatch(arguments) => dispatch::run(*arguments).await,
        Mc::List(arguments) => folder::blocking(move || list::run(&arguments)).await,
        Mc::Status(arguments) => folder::blocking(move || status::run(&arguments)).await,
        Mc::Logs(arguments) => logs::run(arguments).await,
        Mc::Watch(arguments) => watch::run(arguments).await,
        Mc::Wait(arguments) => wait::run(arguments).await,
        Mc::Respond(arguments) => folder::blocking(move || respond::run(&arguments)).await,
        Mc::Retry(arguments) => folder::blocking(move || retry::run(&arguments)).await,
        Mc::Abort(arguments) => folder::blocking(move || abort::run(&arguments)).await,
        Mc::Pause(arguments) => folder::blocking(move || pause::run(&arguments)).await,
        Mc::Resume(arguments) => folder::blocking(move || resume::run(&arguments)).await,
        Mc::Stop(arguments) => folder::blocking(move || stop::run(&arguments)).await,
    }
}
