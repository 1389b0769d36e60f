//! Service: the missions of this executor: taken in once, found by name, taken up again after a restart.

use crate::domain::id::MissionId;
use crate::domain::lifecycle::MissionState;
use crate::domain::time::Timestamp;
use crate::executor::claim;
use crate::executor::effect::{Event, Refusal};
use crate::executor::mission_order::OrderError;
use crate::executor::process_table;
use crate::executor::provision::orchestrator::Orchestrator;
use crate::executor::reporter::Weight;
use crate::executor::store::{FORMAT, MissionRecord, StoreError};
use crate::executor::worker::{self, Begin, INBOX, Message, Shared};
use crate::runtime::clock;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How long an order may wait for a mission's task.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How many ended missions are kept at most, whatever their age.
const MOST_ENDED: usize = 10_000;

/// A dispatch as it came.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// The mission.
    pub mission: MissionId,
    /// Its session.
    pub session: String,
    /// The idempotency key; the mission's id when none was sent.
    pub key: Option<String>,
    /// The whole body.
    pub payload: Value,
}

/// A dispatch that was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// Now.
    Fresh,
    /// Before: this is the same answer again.
    Replayed,
}

/// A dispatch that was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// All slots and the waiting line are full.
    #[error("{running} missions run or wait here, and no more are taken")]
    Full {
        /// How many there are.
        running: usize,
    },
    /// The mission is here with another payload.
    #[error("mission {mission} is here already, with another payload")]
    Differs {
        /// The mission.
        mission: MissionId,
    },
    /// The same dispatch is being taken in.
    #[error("mission {mission} is being accepted")]
    InProgress {
        /// The mission.
        mission: MissionId,
    },
    /// The executor ends.
    #[error("the executor is shutting down")]
    Ending,
    /// It cannot be run here.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// It cannot be written down.
    #[error("failed to write the mission down: {0}")]
    Store(#[from] StoreError),
}

/// An order that was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderRefused {
    /// No such mission.
    #[error("there is no mission {mission} here")]
    Unknown {
        /// The mission.
        mission: MissionId,
    },
    /// It does not fit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The mission's task is busy.
    #[error("mission {mission} does not answer")]
    Busy {
        /// The mission.
        mission: MissionId,
    },
}

#[derive(Debug, Clone)]
enum Entry {
    Accepting,
    Live { inbox: mpsc::Sender<Message>, state: watch::Receiver<MissionRecord> },
}

#[derive(Debug, Default)]
struct Missions {
    ending: bool,
    entries: HashMap<MissionId, Entry>,
}

/// All missions. Clones share them.
#[derive(Debug, Clone)]
pub struct Roster {
    /// What every mission shares.
    pub shared: Arc<Shared>,
    missions: Arc<Mutex<Missions>>,
}

impl Roster {
    /// Makes an empty one.
    pub fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared), missions: Arc::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Missions) -> T) -> T {
        work(&mut self.missions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns every mission that has not ended.
    pub fn live(&self) -> Vec<MissionId> {
        self.with(|missions| missions.entries.keys().cloned().collect())
    }

    /// Takes a mission in: on disk before it is answered, and never twice.
    ///
    /// # Errors
    /// [`Refused`] says why not.
    ///
    /// # Cancel safety
    /// Safe once it is on disk: then it runs.
    pub async fn dispatch(&self, dispatch: Dispatch) -> Result<Accepted, Refused> {
        let mission = dispatch.mission.clone();
        if let Some(answer) = self.known(&dispatch)? {
            return Ok(answer);
        }
        let config = &self.shared.config;
        let order = config.offer.understand(&dispatch.payload)?;
        self.with(|missions| {
            if missions.ending {
                return Err(Refused::Ending);
            }
            if missions.entries.contains_key(&mission) {
                return Err(Refused::InProgress { mission: mission.clone() });
            }
            let running = missions.entries.len();
            if running >= config.max_concurrency + config.max_waiting {
                return Err(Refused::Full { running });
            }
            missions.entries.insert(mission.clone(), Entry::Accepting);
            Ok(())
        })?;
        let now = clock::wall();
        // What can begin at once is written down as begun: one wait for the disk instead of two.
        let permit = Some(Arc::clone(&self.shared.slots))
            .filter(|_| order.resources.is_empty())
            .and_then(|slots| slots.try_acquire_owned().ok());
        let run = permit.as_ref().map(|_| order.plan.first_run());
        let record = MissionRecord {
            format: FORMAT,
            mission_id: mission.clone(),
            session_id: dispatch.session,
            key: dispatch.key.unwrap_or_else(|| mission.as_str().to_owned()),
            payload: dispatch.payload,
            run_id: uuid::Uuid::now_v7().to_string(),
            accepted_at: now,
            begun_at: run.as_ref().map(|_| now),
            begun_uptime_ms: run.as_ref().and_then(|_| process_table::uptime_ms()),
            boot_id: run.as_ref().map(|_| process_table::boot_id()),
            updated_at: now,
            state: MissionState::Assigned,
            run,
            outcome: None,
            suspended: false,
            paused: false,
            reported_at: None,
            recent_events: Vec::new(),
        };
        match self.shared.store.write_durably(&record).await {
            Ok(()) => {
                tracing::info!(mission.id = %mission, session.id = record.session_id, "mission accepted");
                self.spawn(record, order, permit.map_or(Begin::Fresh, Begin::AtOnce));
                Ok(Accepted::Fresh)
            }
            Err(error) => {
                self.with(|missions| missions.entries.remove(&mission));
                Err(error.into())
            }
        }
    }

    /// Answers for a mission that was here before; nothing when it has to be taken in.
    fn known(&self, dispatch: &Dispatch) -> Result<Option<Accepted>, Refused> {
        let mission = &dispatch.mission;
        let entry = self.with(|missions| missions.entries.get(mission).cloned());
        let record = match entry {
            Some(Entry::Accepting) => return Err(Refused::InProgress { mission: mission.clone() }),
            Some(Entry::Live { state, .. }) => Some(state.borrow().clone()),
            None => self.shared.store.read(mission)?,
        };
        let Some(record) = record else { return Ok(None) };
        let key = dispatch.key.as_deref().unwrap_or(mission.as_str());
        if record.state.is_terminal() && record.key != key {
            // Another key: a human wants it run again.
            return Ok(None);
        }
        if record.payload != dispatch.payload {
            return Err(Refused::Differs { mission: mission.clone() });
        }
        if record.state.is_terminal() {
            // Whoever asks again has not heard how it ended.
            self.repeat_end(&record);
        }
        Ok(Some(Accepted::Replayed))
    }

    fn repeat_end(&self, record: &MissionRecord) {
        if let Some(last) = record.recent_events.last() {
            self.shared.reporter.push(record.mission_id.clone(), last.get().into(), Weight::Last);
        }
    }

    fn spawn(
        &self,
        record: MissionRecord,
        order: crate::executor::mission_order::MissionOrder,
        begin: Begin,
    ) {
        let mission = record.mission_id.clone();
        let (inbox, received) = mpsc::channel(INBOX);
        let (state, watched) = watch::channel(record.clone());
        self.with(|missions| {
            missions.entries.insert(mission.clone(), Entry::Live { inbox, state: watched });
        });
        let roster = self.clone();
        self.shared.tasks.spawn("mission", async move {
            let shared = Arc::clone(&roster.shared);
            Box::pin(worker::run(shared, record, order, begin, state, received)).await;
            roster.with(|missions| missions.entries.remove(&mission));
        });
    }

    /// Gives an order and returns the state after it.
    ///
    /// # Errors
    /// [`OrderRefused`].
    pub async fn order(&self, mission: &MissionId, event: Event) -> Result<MissionState, OrderRefused> {
        let busy = || OrderRefused::Busy { mission: mission.clone() };
        let entry = self.with(|missions| missions.entries.get(mission).cloned());
        match entry {
            Some(Entry::Live { inbox, .. }) => {
                let (answer, answered) = oneshot::channel();
                let asked = async {
                    inbox.send(Message::Order(Box::new(event), answer)).await.ok()?;
                    answered.await.ok()
                };
                match tokio::time::timeout(ANSWER_WITHIN, asked).await {
                    Ok(Some(outcome)) => Ok(outcome?),
                    // Its task ended while the order was on its way.
                    Ok(None) => Err(Refusal::Terminal.into()),
                    Err(_elapsed) => Err(busy()),
                }
            }
            Some(Entry::Accepting) => Err(busy()),
            None => match self.shared.store.read(mission) {
                Ok(Some(_ended)) => Err(Refusal::Terminal.into()),
                Ok(None) | Err(_) => Err(OrderRefused::Unknown { mission: mission.clone() }),
            },
        }
    }

    /// Returns what is known of a mission.
    ///
    /// # Errors
    /// Its record cannot be read.
    pub fn record(&self, mission: &MissionId) -> Result<Option<MissionRecord>, StoreError> {
        if let Some(Entry::Live { state, .. }) = self.with(|missions| missions.entries.get(mission).cloned())
        {
            return Ok(Some(state.borrow().clone()));
        }
        self.shared.store.read(mission)
    }

    /// Notes that the registry has heard a mission's end.
    pub fn reported(&self, mission: &MissionId) {
        if self.with(|missions| missions.entries.contains_key(mission)) {
            return;
        }
        if let Ok(Some(mut record)) = self.shared.store.read(mission)
            && record.state.is_terminal()
            && record.reported_at.is_none()
        {
            record.reported_at = Some(clock::wall());
            if let Err(error) = self.shared.store.write(&record, false) {
                tracing::warn!(mission.id = %mission, %error, "failed to note that a mission was reported");
            }
        }
    }

    /// Takes up what an earlier process left.
    ///
    /// # Errors
    /// The directory of missions cannot be read. A record that cannot be is named in the log and left alone.
    pub async fn recover(&self) -> Result<(), StoreError> {
        for record in self.shared.store.all()? {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    tracing::error!(%error, "a mission cannot be read; it is left alone");
                    continue;
                }
            };
            if record.state.is_terminal() {
                if record.reported_at.is_none() {
                    self.repeat_end(&record);
                }
                continue;
            }
            let order = match self.shared.config.offer.understand(&record.payload) {
                Ok(order) => order,
                Err(error) => {
                    tracing::error!(mission.id = %record.mission_id, %error, "a mission cannot be taken up again; its agent is gone from the settings");
                    continue;
                }
            };
            let begin = match (&record.outcome, &record.run) {
                (Some(outcome), _) => Begin::Release(outcome.clone()),
                (None, Some(_)) => Begin::Resume,
                (None, None) => Begin::Fresh,
            };
            tracing::info!(mission.id = %record.mission_id, mission.state = %record.state, "taking up a mission");
            if record.run.is_some() {
                self.adopt(&record.mission_id).await;
            }
            self.spawn(record, order, begin);
        }
        Ok(())
    }

    /// Forgets ended missions that the registry has heard of and that are older than the retention, or too many; and what
    /// runners that were killed have begun, once the missions know it.
    ///
    /// # Errors
    /// The directory of missions cannot be read.
    pub fn forget_old(&self) -> Result<(), StoreError> {
        let now = clock::wall();
        // Looked at before the missions are: one that begins meanwhile has a runner that lives.
        let mut left_behind = claim::left_behind(self.shared.store.claims()).unwrap_or_default();
        let mut ended: Vec<(Timestamp, MissionId)> = Vec::new();
        for record in self.shared.store.all()? {
            match record {
                Ok(record) if record.state.is_terminal() => {
                    if record.reported_at.is_some() {
                        ended.push((record.updated_at, record.mission_id));
                    }
                }
                Ok(record) => left_behind.retain(|(_, claim)| {
                    claim.as_ref().is_none_or(|claim| !claim.run.starts_with(&record.run_id))
                }),
                // It may be about any of them.
                Err(_unreadable) => left_behind.clear(),
            }
        }
        for (path, _) in left_behind {
            // The next look removes what this one cannot.
            drop(std::fs::remove_file(path));
        }
        ended.sort();
        let surplus = ended.len().saturating_sub(MOST_ENDED);
        for (index, (at, mission)) in ended.into_iter().enumerate() {
            let is_old = index < surplus || now.since(at) > self.shared.config.retention;
            if is_old && !self.with(|missions| missions.entries.contains_key(&mission)) {
                self.shared.store.remove(&mission)?;
            }
        }
        Ok(())
    }

    /// Makes this process an owner of what a mission has leased, before the clean-up looks for abandoned leases.
    async fn adopt(&self, mission: &MissionId) {
        let workspace = &self.shared.config.workspace;
        if let Ok(Some(environment)) = Orchestrator::find_environment(workspace, mission.as_str())
            && let Err(error) = self.shared.orchestrator.share(&environment, &process_table::own()).await
        {
            tracing::warn!(mission.id = %mission, %error, "failed to take over the leases of a mission");
        }
    }

    /// Takes nothing new from now on.
    pub fn close(&self) {
        self.with(|missions| missions.ending = true);
    }

    /// Tells every mission to freeze, or to end.
    pub async fn leave(&self, abort: bool) {
        for mission in self.live() {
            let Some(Entry::Live { inbox, .. }) =
                self.with(|missions| missions.entries.get(&mission).cloned())
            else {
                continue;
            };
            if abort {
                let reason = Some("the executor was shut down".to_owned());
                drop(self.order(&mission, Event::OrderAbort { by: "system".to_owned(), reason }).await);
            } else {
                drop(inbox.send(Message::Leave).await);
            }
        }
    }

    /// Waits until no mission is left, at most so long; says whether none is.
    pub async fn wait_until_empty(&self, limit: Duration) -> bool {
        let empty = async {
            while !self.live().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(limit, empty).await.is_ok()
    }
}
