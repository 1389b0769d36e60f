//! Pure: a registry that starts with what the store has.
//!
//! Executors are known and have no line; their grace begins anew. Live missions go on. One whose forward had begun and had no
//! outcome is uncertain: its executor is asked before anyone may dispatch it again.

use crate::domain::id::MissionId;
use crate::domain::lifecycle::MissionState;
use crate::domain::time::Now;
use crate::registry::Config;
use crate::registry::gauges::Gauges;
use crate::registry::idempotency::{KeyAnswer, KeyEntry};
use crate::registry::machine::{Heard, Held, Machine, Timer};
use crate::registry::record::{ExecutorRecord, Mission, StoredEvent};
use std::collections::VecDeque;
use std::sync::Arc;

/// Everything that a starting registry has to have in memory.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Every executor.
    pub executors: Vec<ExecutorRecord>,
    /// Every mission that has not ended, with its last events, oldest first.
    pub live: Vec<(Mission, Vec<StoredEvent>)>,
    /// Keys of live missions beyond those in their rows.
    pub keys: Vec<(String, KeyEntry)>,
    /// Ids of ended missions, and keys of theirs that are not ids.
    pub ended: Vec<String>,
    /// The highest number of an event.
    pub last_seq: u64,
    /// The highest number of a mission.
    pub last_number: u64,
}

/// What is remembered of an ended mission.
#[derive(Debug)]
pub struct Recalled {
    /// The mission.
    pub mission: Mission,
    /// Its last events, oldest first.
    pub events: Vec<StoredEvent>,
    /// Its keys beyond the one in its row.
    pub keys: Vec<(String, KeyEntry)>,
}

impl Machine {
    /// Makes a registry that goes on where the stored one stopped.
    pub fn restore(config: Config, snapshot: Snapshot, now: Now) -> Self {
        let mut machine = Self::new(config);
        machine.next_seq = snapshot.last_seq + 1;
        machine.next_number = snapshot.last_number + 1;
        let hashes: Vec<u64> = snapshot.ended.iter().map(|id| machine.hash(id)).collect();
        machine.stored.extend(hashes);
        for executor in snapshot.executors {
            machine.restore_executor(executor, now);
        }
        for (mission, events) in snapshot.live {
            machine.restore_live(mission, &events, now);
        }
        machine.keys.extend(snapshot.keys);
        machine
    }

    fn restore_live(&mut self, mission: Mission, events: &[StoredEvent], now: Now) {
        let id = mission.id.clone();
        self.take_on(&mission.executor_id, &id, &mission.order.session);
        self.put_default_key(&mission);
        if let Some(question) = &mission.question
            && let Some(at) = question.expires_at
        {
            self.arm(now.instant + at.since(now.wall), Timer::Question(id.clone(), question.hitl_id.clone()));
        }
        let ticket = (!mission.is_accepted).then(|| self.next_ticket());
        if let Some(ticket) = ticket {
            self.arm(now.instant, Timer::Ask(id.clone(), ticket));
        }
        self.missions.insert(id, Held { mission, recent: recent(events), ticket, confirm: (None, 0) });
    }

    /// Takes what the store remembers under an id or a key back into memory; `None` when there is nothing.
    pub fn recall(&mut self, asked: &str, recalled: Option<Recalled>) {
        let hash = self.hash(asked);
        self.stored.remove(&hash);
        let Some(Recalled { mission, events, keys }) = recalled else { return };
        // It may have come back already, for another caller.
        if self.missions.contains_key(&mission.id) || !mission.state.is_terminal() {
            return;
        }
        let hashes = [self.hash(mission.id.as_str()), self.hash(&mission.order.key)];
        for hash in hashes.into_iter().chain(keys.iter().map(|(key, _)| self.hash(key)).collect::<Vec<_>>()) {
            self.stored.remove(&hash);
        }
        self.put_default_key(&mission);
        self.keys.extend(keys);
        let (id, ticket): (MissionId, _) = (mission.id.clone(), self.next_ticket());
        self.missions.insert(
            id.clone(),
            Held { mission, recent: recent(&events), ticket: Some(ticket), confirm: (None, 0) },
        );
        self.ended.push_back((id, ticket, self.round));
    }

    /// Returns figures about what is there now.
    pub fn gauges(&self) -> Gauges {
        let mut counts = [0_u64; MissionState::ALL.len()];
        for id in self.live.values().flatten() {
            let state = self.missions.get(id).map(|held| held.mission.state);
            let place = state.and_then(|state| MissionState::ALL.iter().position(|known| *known == state));
            if let Some(count) = place.and_then(|place| counts.get_mut(place)) {
                *count += 1;
            }
        }
        let live = MissionState::ALL.into_iter().zip(counts).filter(|(state, _)| !state.is_terminal());
        Gauges {
            missions: live.map(|(state, count)| (state.as_wire(), count)).collect(),
            executors: u64::try_from(self.executors.len()).unwrap_or(u64::MAX),
            connected: u64::try_from(self.routing.connected()).unwrap_or(u64::MAX),
            ..Gauges::default()
        }
    }

    /// The key in a mission's row, unless the mission never reached anyone.
    fn put_default_key(&mut self, mission: &Mission) {
        if mission.order.key == mission.id.as_str() && !mission.never_began() {
            let answer = mission.is_accepted.then(|| KeyAnswer {
                executor_id: mission.executor_id.clone(),
                estimated_start: mission.estimated_start.clone(),
            });
            let fingerprint = mission.order.fingerprint;
            let entry = KeyEntry { mission_id: mission.id.clone(), fingerprint, answer };
            self.keys.insert(mission.order.key.clone(), entry);
        }
    }
}

fn recent(events: &[StoredEvent]) -> VecDeque<Heard> {
    events.iter().map(|event| Heard { raw: Arc::clone(&event.raw), over: None }).collect()
}
