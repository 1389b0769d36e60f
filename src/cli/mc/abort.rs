//! Command: `mc abort`.

use super::folder::Folder;
use super::target::{self, Change};
use crate::cli::exit::Code;
use crate::domain::lifecycle::MissionState;
use crate::runtime::clock;
use crate::session::edits::MissionPatch;
use crate::session::waiting::is_ended_by_hand;
use clap::Args;

/// End a mission, whether it waits or runs.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The mission, as ID or SESSION/ID
    mission: String,
    /// Which folder.
    #[command(flatten)]
    folder: Folder,
}

/// Carries out the verb. A mission that an executor has keeps its fields as they are; the bridge passes the order on
/// and writes down who carried it out and when, or the result if the executor was faster.
///
/// # Errors
/// The mission has ended already.
pub fn run(arguments: &Arguments) -> anyhow::Result<Code> {
    let now = clock::wall();
    target::change(&arguments.folder, &arguments.mission, |seen| {
        let status = MissionState::Aborted;
        let patch = MissionPatch::new().with_str("status", status.as_file());
        let (patch, said) = match seen.state {
            MissionState::Aborted if is_ended_by_hand(&seen.mission) => {
                return Err(seen.unfit("its executor has not confirmed that yet; aiwg-rs mc status says why"));
            }
            MissionState::Done | MissionState::Failed | MissionState::Aborted => {
                return Err(seen.unfit("it has ended already"));
            }
            MissionState::Queued | MissionState::Paused if !seen.is_handed_over() => {
                let patch = patch.with_str("abortedAt", &now.to_string()).with_str("abortedBy", "operator");
                (patch, "is aborted; no executor had it")
            }
            MissionState::Queued
            | MissionState::Assigned
            | MissionState::Running
            | MissionState::HitlRequired
            | MissionState::Paused
            | MissionState::Suspended => (patch, "is to be aborted; a bridge tells its executor"),
        };
        Ok(Change { patch, status, said: said.to_owned() })
    })
}
