//! Service: what is known of a mission: told to the registry, and on disk so that a restart knows it.

use super::Unit;
use crate::domain::event::{Envelope, MissionEvent};
use crate::domain::lifecycle::{Transition, transition};
use crate::domain::time::Timestamp;
use crate::executor::reporter::Weight;
use crate::executor::store::StoreError;
use crate::protocol::envelope::Frame;
use crate::protocol::executor_v1::MAX_RECENT_EVENTS;
use crate::runtime::clock;
use serde_json::value::RawValue;
use std::time::Duration;
use tokio::time::Instant;

/// How long a change may wait for the next one before it is written: a restart would find it out by itself.
const SAVE_WITHIN: Duration = Duration::from_millis(200);

impl Unit {
    /// Tells the registry what happened.
    pub(super) fn emit(&mut self, event: MissionEvent) {
        let weight =
            if matches!(event, MissionEvent::Progress { .. }) { Weight::Progress } else { Weight::Change };
        let can_wait = matches!(event, MissionEvent::Progress { .. } | MissionEvent::Started { .. });
        self.push(event, weight);
        if can_wait {
            self.save_at.get_or_insert_with(|| Instant::now() + SAVE_WITHIN);
            self.state.send_replace(self.record.clone());
        } else {
            self.save();
        }
    }

    /// Tells the registry how the mission ended, and removes what only a running one needs.
    pub(super) async fn finish(&mut self, event: MissionEvent) {
        let frame = self.note(event);
        tracing::info!(mission.id = %self.record.mission_id, mission.state = %self.record.state, "mission ended");
        // On disk before it is told: an executor killed in between tells it again. Should the disk be full, what the runner
        // wrote stays, and tells the next executor that the mission has run.
        if self.save_durably().await {
            self.let_runner_go().await;
            let store = &self.shared.store;
            let removed = store.remove_questions(&self.record.mission_id);
            let removed = removed.and_then(|()| {
                if self.may_have_files { store.remove_run_files(&self.record) } else { Ok(()) }
            });
            if let Err(error) = removed {
                tracing::warn!(mission.id = %self.record.mission_id, %error, "files of an ended run stay");
            }
        }
        self.shared.reporter.push(self.record.mission_id.clone(), frame.raw, Weight::Last);
    }

    fn push(&mut self, event: MissionEvent, weight: Weight) {
        let frame = self.note(event);
        self.shared.reporter.push(self.record.mission_id.clone(), frame.raw, weight);
    }

    /// Moves the record on by an event, and returns the event as it travels.
    fn note(&mut self, event: MissionEvent) -> Frame {
        if let Some(happening) = event.happening()
            && let Transition::To(state) = transition(self.record.state, happening)
        {
            self.record.state = state;
        }
        let now: Timestamp = clock::wall();
        let (executor, mission) = (self.shared.executor.clone(), self.record.mission_id.clone());
        let frame = Frame::encode(Envelope::mission(executor, mission, now, event));
        if let Ok(raw) = RawValue::from_string(frame.raw.to_string()) {
            let events = &mut self.record.recent_events;
            if events.len() >= MAX_RECENT_EVENTS {
                events.remove(0);
            }
            events.push(raw);
        }
        self.record.updated_at = frame.envelope.ts;
        frame
    }

    /// Writes the record; the kernel takes it to the disk when it likes.
    pub(super) fn save(&mut self) {
        self.save_at = None;
        self.record.updated_at = clock::wall();
        let written = self.shared.store.write(&self.record, false).map_err(|error| error.to_string());
        self.saved(written);
    }

    /// Writes the record, so that it survives a power cut; says whether that worked.
    pub(super) async fn save_durably(&mut self) -> bool {
        let written = self.write_durably().await.map_err(|error| error.to_string());
        let is_written = written.is_ok();
        self.saved(written);
        is_written
    }

    /// Begins to write the record, so that it survives a power cut.
    pub(super) fn write_durably(&mut self) -> impl Future<Output = Result<(), StoreError>> + use<> {
        self.save_at = None;
        self.record.updated_at = clock::wall();
        self.shared.store.write_durably(&self.record)
    }

    fn saved(&mut self, written: Result<(), String>) {
        if let Err(error) = written {
            tracing::error!(mission.id = %self.record.mission_id, error, "failed to write down a mission");
        }
        self.state.send_replace(self.record.clone());
    }
}
