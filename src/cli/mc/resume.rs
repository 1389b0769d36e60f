//! Command: `mc resume`.

use super::folder::Folder;
use super::held;
use super::target::{self, Change};
use crate::cli::exit::Code;
use crate::domain::lifecycle::MissionState;
use crate::domain::session::SessionState;
use crate::session::edits::MissionPatch;
use clap::Args;

/// Let a paused mission, or a paused or stopped session, go on.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The mission, as ID or SESSION/ID
    #[arg(required_unless_present = "session", conflicts_with = "session")]
    mission: Option<String>,
    /// Let the queued missions of this session go
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Which folder.
    #[command(flatten)]
    folder: Folder,
}

/// Carries out the verb. A mission that was paused before any executor had it goes back into the queue.
///
/// # Errors
/// The mission is not paused.
pub fn run(arguments: &Arguments) -> anyhow::Result<Code> {
    if let Some(session) = &arguments.session {
        return held::set(&arguments.folder, session, SessionState::Active);
    }
    let mission = arguments.mission.as_deref().unwrap_or_default();
    target::change(&arguments.folder, mission, |seen| {
        if seen.state != MissionState::Paused {
            return Err(seen.unfit("only a paused mission can be resumed"));
        }
        let (status, said) = if seen.is_handed_over() {
            (MissionState::Running, "is to go on; a bridge tells its executor")
        } else {
            (MissionState::Queued, "is in the queue again")
        };
        let patch = MissionPatch::new().with_str("status", status.as_file());
        Ok(Change { patch, status, said: said.to_owned() })
    })
}
