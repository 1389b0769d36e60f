//! Command: `mc stop`.

use super::folder::Folder;
use super::held;
use crate::cli::exit::Code;
use crate::domain::session::SessionState;
use clap::Args;

/// Close a session: its queued missions are held for good, those that run go on.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The session
    session: String,
    /// Which folder.
    #[command(flatten)]
    folder: Folder,
}

/// Carries out the verb.
///
/// # Errors
/// There is no such session, or its file cannot be written.
pub fn run(arguments: &Arguments) -> anyhow::Result<Code> {
    held::set(&arguments.folder, &arguments.session, SessionState::Stopped)
}
