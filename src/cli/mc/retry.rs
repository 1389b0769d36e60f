//! Command: `mc retry`.

use super::dispatch;
use super::folder::Folder;
use super::target::{self, Change};
use crate::cli::exit::Code;
use crate::domain::lifecycle::MissionState;
use crate::session::edits::MissionPatch;
use clap::Args;

/// Queue a mission that has ended once more.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The mission, as ID or SESSION/ID
    mission: String,
    /// Which folder.
    #[command(flatten)]
    folder: Folder,
}

/// Carries out the verb. What the bridge wrote stays in place: that is how it knows that a human asked for another
/// run, and not that an old copy of the file came back.
///
/// # Errors
/// The mission has not ended, or its session is full.
pub fn run(arguments: &Arguments) -> anyhow::Result<Code> {
    target::change(&arguments.folder, &arguments.mission, |seen| {
        if !seen.state.is_terminal() {
            let unfit = seen.unfit("only a mission that has ended can be tried again");
            return Err(match seen.state {
                MissionState::Queued => {
                    unfit.hint("it is in the queue already; aiwg-rs mc status says why it waits")
                }
                MissionState::Assigned
                | MissionState::Running
                | MissionState::HitlRequired
                | MissionState::Paused
                | MissionState::Suspended
                | MissionState::Done
                | MissionState::Failed
                | MissionState::Aborted => unfit.hint("end it first with aiwg-rs mc abort"),
            });
        }
        dispatch::room(seen.document, &seen.target.session, 1)?;
        Ok(Change {
            patch: MissionPatch::new().with_str("status", MissionState::Queued.as_file()),
            status: MissionState::Queued,
            said: format!("was {} and is queued again", seen.state),
        })
    })
}
