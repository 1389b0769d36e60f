//! Service: takes a mission up again whose process another executor started, or whose runner fell silent.

use super::Unit;
use crate::domain::event::MissionEvent;
use crate::domain::lifecycle::MissionState;
use crate::domain::time::Now;
use crate::executor::effect::{Effect, Event};
use crate::executor::process_identity::ProcessIdentity;
use crate::executor::process_table;
use crate::executor::process_tree;
use crate::executor::provision::orchestrator::{DEFAULT_DISCOVERY_FILE, Orchestrator};
use crate::executor::runner_link::{self, RunnerLink};
use crate::executor::runner_protocol::{Exit, RUN_VARIABLE, RunFiles, ToRunner};
use crate::executor::store::MissionRecord;
use std::time::Duration;

/// How often a runner that does not answer is looked at before its processes are ended.
const LAST_LOOKS: u32 = 250;

/// The time between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How often a run is given to another runner because one was gone before it began.
const MOST_UNBEGUN: u32 = 3;

/// Returns how long ago a mission began. The time of day may have been set since; the system's own time is not.
pub(super) fn elapsed(record: &MissionRecord, now: Now) -> Duration {
    match (record.begun_uptime_ms, process_table::uptime_ms()) {
        (Some(begun), Some(now)) => Duration::from_millis(now.saturating_sub(begun)),
        _ => record.begun_at.map_or(Duration::ZERO, |begun| now.wall.since(begun)),
    }
}

impl Unit {
    pub(super) fn find_environment(&mut self) {
        let workspace = &self.shared.config.workspace;
        match Orchestrator::find_environment(workspace, self.record.mission_id.as_str()) {
            Ok(found) => {
                if let Some(environment) = &found {
                    self.env = environment.inject(DEFAULT_DISCOVERY_FILE).unwrap_or_default();
                }
                self.environment = found;
            }
            Err(error) => {
                tracing::warn!(mission.id = %self.record.mission_id, %error, "the leases of a mission cannot be read");
            }
        }
    }

    /// Finds the process of an earlier executor again.
    pub(super) async fn take_up(&mut self) {
        let Some(run) = self.record.run.clone() else { return };
        let files = self.shared.store.run_files(&self.record, &run);
        let was_suspended = std::mem::take(&mut self.record.suspended);
        if was_suspended || self.record.state == MissionState::Suspended {
            let checkpoint_id = Some(self.record.run_id.clone());
            self.emit(MissionEvent::Reconnected { checkpoint_id });
        }
        // First who runs it, then how it ended: a runner writes the end before it takes its claim away.
        let runner = self.runner_patiently().await;
        if let Some(ended) = runner_link::exit_of(&files) {
            self.feed(Event::Ended(ended)).await;
            return;
        }
        match runner {
            Ok(None)
                if self.record.boot_id.as_ref().is_some_and(|boot| *boot != process_table::boot_id()) =>
            {
                // The power went: files of the run that were not synced may have gone with it.
                let ended = self.ended(Exit::Unknown);
                self.feed(Event::Ended(ended)).await;
            }
            Ok(None) => {
                // Its order never reached anyone. Should one still be on its way, whoever reads it sees that this executor's
                // predecessor is gone.
                self.carry_out(vec![Effect::Start(run)]).await;
                if self.record.paused {
                    self.feed(Event::OrderPause).await;
                }
            }
            Ok(Some(runner)) if process_table::is_alive(&runner) => {
                match RunnerLink::reconnect(self.shared.store.claims(), &runner).await {
                    Ok(link) => {
                        self.link = Some(link);
                        if self.record.paused {
                            // Feeding the order keeps the clocks right; the tree is stopped already.
                            self.feed(Event::OrderPause).await;
                        } else if was_suspended {
                            self.tell_runner(&ToRunner::Resume).await;
                        }
                    }
                    // It may be between its last word and its end.
                    Err(_refused) => self.runner_gone(&files).await,
                }
            }
            Ok(Some(_)) | Err(_) => self.runner_gone(&files).await,
        }
    }

    /// Goes on after the line to a runner broke.
    pub(super) async fn lost_runner(&mut self) {
        self.link = None;
        self.may_have_files = true;
        let (Some(files), Some(run)) = (self.run_files(), self.record.run.clone()) else { return };
        let runner = self.runner_patiently().await;
        if !matches!(runner, Ok(None)) || runner_link::exit_of(&files).is_some() {
            self.runner_gone(&files).await;
        } else if self.machine.is_stopping() {
            let ended = self.ended(Exit::NotStarted { error: "it was stopped before it began".to_owned() });
            self.feed(Event::Ended(ended)).await;
        } else if self.unbegun < MOST_UNBEGUN {
            // It would have said so before it started anything.
            self.unbegun += 1;
            self.carry_out(vec![Effect::Start(run)]).await;
            if self.record.paused {
                self.tell_runner(&ToRunner::Pause).await;
            }
        } else {
            let error =
                "its runner ended again and again before it began; see runner.err in the executor's state";
            let ended = self.ended(Exit::NotStarted { error: error.to_owned() });
            self.feed(Event::Ended(ended)).await;
        }
    }

    /// Returns who has begun the current run. What cannot be read now, as with too many open files, may be readable soon;
    /// nobody may take it for a run that was never begun.
    async fn runner_patiently(&self) -> std::io::Result<Option<ProcessIdentity>> {
        for _ in 0..LAST_LOOKS {
            match self.runner() {
                Ok(runner) => return Ok(runner),
                Err(error) => {
                    tracing::debug!(mission.id = %self.record.mission_id, %error, "the claims of the runners cannot be read");
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.runner()
    }

    /// Decides what became of a run whose runner does not answer any more.
    async fn runner_gone(&mut self, files: &RunFiles) {
        for _ in 0..LAST_LOOKS {
            // Alive first: one that ends in between has written its last word by then.
            let runner = self.runner();
            let is_over = match &runner {
                Ok(Some(runner)) => !process_table::is_alive(runner),
                Ok(None) => true,
                Err(_unknown) => false,
            };
            if is_over || runner_link::exit_of(files).is_some() {
                break;
            }
            if let Ok(Some(runner)) = runner
                && let Ok(link) = RunnerLink::reconnect(self.shared.store.claims(), &runner).await
            {
                self.link = Some(link);
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let ended = if let Some(ended) = runner_link::exit_of(files) {
            ended
        } else {
            kill_marked(&self.record.run_id).await;
            self.ended(Exit::Unknown)
        };
        self.feed(Event::Ended(ended)).await;
    }
}

/// Kills every process that carries a run's mark, until a look finds none.
async fn kill_marked(run_id: &str) {
    for _ in 0..250 {
        let found = process_tree::marked(RUN_VARIABLE, run_id);
        if found.is_empty() {
            return;
        }
        for process in found {
            drop(process_tree::signal(process.pid, rustix::process::Signal::KILL));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tracing::warn!(run.id = run_id, "processes of a lost run could not be killed");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;
    use serde_json::json;

    #[test]
    fn a_clock_that_was_set_while_no_executor_ran_makes_a_mission_neither_older_nor_younger() {
        let now = clock::now();
        for begun_at in ["1980-01-01T00:00:00.000Z", "2199-01-01T00:00:00.000Z"] {
            let record = json!({
                "format": 1, "mission_id": "m-1", "session_id": "s", "key": "m-1", "payload": {}, "run_id": "r",
                "accepted_at": begun_at, "begun_at": begun_at, "updated_at": begun_at, "state": "running",
                "run": null, "outcome": null, "suspended": false, "paused": false, "reported_at": null,
                "recent_events": [], "begun_uptime_ms": process_table::uptime_ms().map(|up| up - 5000),
            });
            let record: MissionRecord = serde_json::from_value(record).unwrap();
            let elapsed = elapsed(&record, now);
            assert!((Duration::from_secs(5)..Duration::from_secs(60)).contains(&elapsed), "{elapsed:?}");
        }
    }
}
