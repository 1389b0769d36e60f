//! Command: `mc pause`.

use super::folder::Folder;
use super::held;
use super::target::{self, Change};
use crate::cli::exit::Code;
use crate::domain::lifecycle::MissionState;
use crate::domain::session::SessionState;
use crate::session::edits::MissionPatch;
use clap::Args;

/// Hold a mission, or all queued missions of a session.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The mission, as ID or SESSION/ID
    #[arg(required_unless_present = "session", conflicts_with = "session")]
    mission: Option<String>,
    /// Hold the queued missions of this session; those that run go on
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Which folder.
    #[command(flatten)]
    folder: Folder,
}

/// Carries out the verb.
///
/// # Errors
/// The mission has ended or is paused already, or the session is stopped.
pub fn run(arguments: &Arguments) -> anyhow::Result<Code> {
    if let Some(session) = &arguments.session {
        return held::set(&arguments.folder, session, SessionState::Paused);
    }
    let mission = arguments.mission.as_deref().unwrap_or_default();
    target::change(&arguments.folder, mission, |seen| {
        let said = match seen.state {
            MissionState::Done | MissionState::Failed | MissionState::Aborted => {
                return Err(seen.unfit("it has ended already"));
            }
            MissionState::Paused => return Err(seen.unfit("there is nothing to do")),
            MissionState::Queued => "is held in the queue",
            MissionState::Assigned
            | MissionState::Running
            | MissionState::HitlRequired
            | MissionState::Suspended => "is to be paused; a bridge tells its executor",
        };
        let status = MissionState::Paused;
        let patch = MissionPatch::new().with_str("status", status.as_file());
        Ok(Change { patch, status, said: said.to_owned() })
    })
}
