//! Pure: what becomes of a mission between the queue and an executor.
//!
//! | state of a flight | event | becomes | asks for |
//! |---|---|---|---|
//! | – | a free slot, the gate open, an offer | beginning | begin |
//! | beginning | begun | sending | send |
//! | beginning | skipped | – | – |
//! | sending | 2xx | – | assigned |
//! | sending | 4xx that is final | – | failed |
//! | sending | 503, 5xx, 408, 425, 429, 409 with `Retry-After` | waiting, or – | failed when the attempts have run out |
//! | sending | certainly not arrived | in the queue again | unsent; the gate closes |
//! | sending | perhaps arrived | uncertain | – |
//! | waiting | its time has come, the gate open | beginning | begin |
//! | uncertain | the gate open, its time has come | asking | ask |
//! | asking | the registry knows it | – | assigned |
//! | asking | not known, the grace not over | uncertain | – |
//! | asking | not known | in the queue again | unsent |
//!
//! A slot is held from *beginning* to the end of *sending*, and while *asking*: waiting costs none.

use super::queue::Queue;
use super::reachability::Reachability;
use super::{Config, OnNoExecutor, OnUnreachable};
use crate::domain::id::SessionId;
use crate::domain::mission::{FailureReason, Priority};
use crate::domain::time::{Now, Timestamp};
use crate::session::messages::{Dispatch, MissionKey, Offer, Order};
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx.
    Accepted {
        /// The executor, when the answer named one.
        executor: Option<String>,
        /// The answer's estimate.
        estimated_start: Option<String>,
    },
    /// Any other answer.
    Refused {
        /// The status code.
        status: u16,
        /// `Retry-After`, as a duration.
        retry_after: Option<Duration>,
        /// The sentence for people.
        message: String,
    },
    /// No connection was made.
    Unreachable {
        /// Why, in one line.
        cause: String,
    },
    /// The connection broke or the time ran out: perhaps it arrived.
    Uncertain {
        /// Why, in one line.
        cause: String,
    },
}

/// What the registry says about a mission that may have arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// It knows the mission.
    Known {
        /// Its executor, if it has one.
        executor: Option<String>,
    },
    /// It does not.
    NotKnown,
    /// It has no such route, or answered in some other way that tells nothing.
    NoAnswer {
        /// The status code.
        status: u16,
    },
    /// No complete answer.
    Unreachable {
        /// Why, in one line.
        cause: String,
    },
}

/// What the machine asks for.
#[derive(Debug, Clone)]
#[must_use]
pub enum Effect {
    /// Tell the folder.
    Tell(Order),
    /// Send the request.
    Send {
        /// Which mission.
        key: MissionKey,
        /// What to send.
        dispatch: Dispatch,
    },
    /// Ask whether the mission is known.
    Ask {
        /// Which mission.
        key: MissionKey,
    },
    /// Ask whether the registry is there.
    Probe,
    /// The gate has just closed.
    Away {
        /// Why, in one line.
        cause: String,
    },
    /// The gate has just opened.
    Back {
        /// How long it was closed.
        after: Duration,
    },
}

#[derive(Debug)]
struct Flight {
    stage: Stage,
    attempts: u32,
    /// Answers "not known" or nothing so far, for an uncertain one.
    asked: u32,
    sent_at: Timestamp,
    priority: Priority,
    created_at: Option<Timestamp>,
    index: usize,
    why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Beginning,
    Sending,
    Waiting { until: Instant, wall: Timestamp },
    Uncertain { until: Instant },
    Asking,
}

impl Stage {
    fn holds_slot(self) -> bool {
        matches!(self, Self::Beginning | Self::Sending | Self::Asking)
    }
}

/// Why a mission that was begun is not with an executor yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delay {
    /// Which mission.
    pub key: MissionKey,
    /// When it is tried again, when that is known.
    pub until: Option<Timestamp>,
    /// Why, for people.
    pub why: String,
    /// Requests sent so far.
    pub attempts: u32,
}

/// The dispatcher's decisions.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    queue: Queue,
    gate: Reachability,
    flights: HashMap<MissionKey, Flight>,
    timers: BTreeSet<(Instant, MissionKey)>,
    slots_used: usize,
    closing: bool,
}

impl Machine {
    /// Starts with nothing to do; `seed` decides the jitter.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            config,
            queue: Queue::default(),
            gate: Reachability::new(seed),
            flights: HashMap::new(),
            timers: BTreeSet::new(),
            slots_used: 0,
            closing: false,
        }
    }

    /// Everything that may be dispatched from a session now.
    pub fn on_offers(&mut self, session: &SessionId, mut offers: Vec<Offer>) {
        let mut key = None;
        offers.retain(|offer| {
            let key: &mut MissionKey = key.get_or_insert_with(|| MissionKey {
                session: session.clone(),
                mission: offer.mission.clone(),
            });
            key.mission.clone_from(&offer.mission);
            !self.flights.contains_key(key)
        });
        self.queue.replace(session, offers);
    }

    /// Starts whatever can start now. Call it after every event.
    #[must_use]
    pub fn advance(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.gate.take_probe(now) && !self.closing {
            effects.push(Effect::Probe);
        }
        while self.can_start() {
            let Some((until, key)) = self.timers.first().filter(|(until, _)| *until <= now.instant).cloned()
            else {
                break;
            };
            self.timers.remove(&(until, key.clone()));
            let Some(flight) = self.flights.get_mut(&key) else { continue };
            self.slots_used += 1;
            if matches!(flight.stage, Stage::Uncertain { .. }) {
                flight.stage = Stage::Asking;
                effects.push(Effect::Ask { key });
            } else {
                flight.stage = Stage::Beginning;
                effects.push(Effect::Tell(Order::Begin { key }));
            }
        }
        while self.can_start() {
            let Some((key, offer)) = self.queue.pop() else { break };
            self.slots_used += 1;
            let flight = Flight {
                stage: Stage::Beginning,
                attempts: 0,
                asked: 0,
                sent_at: now.wall,
                priority: offer.priority,
                created_at: offer.created_at,
                index: offer.index,
                why: None,
            };
            self.flights.insert(key.clone(), flight);
            effects.push(Effect::Tell(Order::Begin { key }));
        }
        effects
    }

    fn can_start(&self) -> bool {
        self.gate.is_open() && !self.closing && self.slots_used < self.config.max_in_flight
    }

    /// The folder handed the request over: its journal line is on disk.
    #[must_use]
    pub fn on_begun(&mut self, key: MissionKey, dispatch: Dispatch, now: Now) -> Vec<Effect> {
        let Some(flight) = self.flights.get_mut(&key).filter(|f| f.stage == Stage::Beginning) else {
            return vec![Effect::Tell(Order::Unsent { key })];
        };
        if !self.gate.is_open() || self.closing {
            return self.return_to_queue(key);
        }
        flight.stage = Stage::Sending;
        flight.attempts = dispatch.attempt;
        flight.sent_at = now.wall;
        vec![Effect::Send { key, dispatch }]
    }

    /// The file no longer asks for it.
    pub fn on_skipped(&mut self, key: &MissionKey) {
        self.end(key);
    }

    /// A bridge before us may have sent this one.
    pub fn on_uncertain(&mut self, key: MissionKey, attempts: u32, since: Timestamp, now: Now) {
        if self.flights.contains_key(&key) {
            return;
        }
        let flight = Flight {
            stage: Stage::Uncertain { until: now.instant },
            attempts,
            asked: 0,
            sent_at: since,
            priority: Priority::Normal,
            created_at: None,
            index: 0,
            why: Some("a bridge before this one may have sent it; the registry is asked first".to_owned()),
        };
        self.flights.insert(key.clone(), flight);
        self.timers.insert((now.instant, key));
    }

    /// A request ended.
    #[must_use]
    pub fn on_outcome(&mut self, key: MissionKey, outcome: Outcome, now: Now) -> Vec<Effect> {
        let Some(flight) = self.flights.get_mut(&key).filter(|f| f.stage == Stage::Sending) else {
            return Vec::new();
        };
        let attempts = flight.attempts;
        match outcome {
            Outcome::Accepted { executor, estimated_start } => {
                let mut effects = self.answered(now);
                self.end(&key);
                effects.push(Effect::Tell(Order::Assigned { key, executor, estimated_start, at: now.wall }));
                effects
            }
            Outcome::Refused { status, retry_after, message } => {
                let mut effects = self.answered(now);
                match judge(&self.config, status, attempts, retry_after) {
                    Verdict::Fail(reason) => {
                        self.end(&key);
                        effects.push(Effect::Tell(Order::Failed { key, reason, message, at: now.wall }));
                    }
                    Verdict::Again(delay) => self.wait(&key, delay, message, now),
                }
                effects
            }
            Outcome::Unreachable { cause } => {
                let mut effects = self.unreached(&cause, now);
                if self.config.on_unreachable == OnUnreachable::Fail {
                    if attempts >= self.config.max_attempts {
                        self.end(&key);
                        let reason = FailureReason::Unreachable;
                        effects.push(Effect::Tell(Order::Failed {
                            key,
                            reason,
                            message: cause,
                            at: now.wall,
                        }));
                    } else {
                        let delay = self.config.retry.delay_after(attempts, None, seed_of(&key));
                        self.wait(&key, delay, cause, now);
                    }
                } else {
                    effects.extend(self.return_to_queue(key));
                }
                effects
            }
            Outcome::Uncertain { cause } => {
                let effects = self.unreached(&cause, now);
                self.release_slot(&key);
                self.doubt(
                    &key,
                    Duration::ZERO,
                    format!("the request broke off ({cause}); the registry is asked first"),
                    now,
                );
                effects
            }
        }
    }

    /// The registry was asked about an uncertain mission.
    #[must_use]
    pub fn on_asked(&mut self, key: MissionKey, asked: Asked, now: Now) -> Vec<Effect> {
        /// A registry without the route cannot be asked; after this many useless answers the mission is sent again.
        const USELESS_ANSWERS: u32 = 5;
        let Some(flight) = self.flights.get_mut(&key).filter(|f| f.stage == Stage::Asking) else {
            return Vec::new();
        };
        let age = now.wall.since(flight.sent_at);
        let grace = self.config.uncertain_grace;
        flight.asked = flight.asked.saturating_add(1);
        let asked_so_far = flight.asked;
        let mut effects = match &asked {
            Asked::Unreachable { cause } => self.unreached(cause, now),
            Asked::Known { .. } | Asked::NotKnown | Asked::NoAnswer { .. } => self.answered(now),
        };
        match asked {
            Asked::Known { executor } => {
                self.end(&key);
                effects.push(Effect::Tell(Order::Assigned {
                    key,
                    executor,
                    estimated_start: None,
                    at: now.wall,
                }));
            }
            Asked::NotKnown if age >= grace => effects.extend(self.return_to_queue(key)),
            Asked::NotKnown => {
                self.release_slot(&key);
                let why = "it may still be on its way to the registry; asked again".to_owned();
                self.doubt(&key, grace.saturating_sub(age).max(Duration::from_millis(50)), why, now);
            }
            Asked::NoAnswer { .. } if asked_so_far >= USELESS_ANSWERS => {
                effects.extend(self.return_to_queue(key));
            }
            Asked::NoAnswer { status } => {
                self.release_slot(&key);
                let delay = self.config.retry.delay_after(asked_so_far, None, seed_of(&key));
                self.doubt(
                    &key,
                    delay,
                    format!("the registry answered HTTP {status} when asked whether it has it"),
                    now,
                );
            }
            Asked::Unreachable { cause } => {
                self.release_slot(&key);
                self.doubt(
                    &key,
                    Duration::ZERO,
                    format!("the registry cannot be asked whether it has it: {cause}"),
                    now,
                );
            }
        }
        effects
    }

    /// The probe came back.
    #[must_use]
    pub fn on_probed(&mut self, unreachable: Option<String>, now: Now) -> Vec<Effect> {
        match unreachable {
            Some(cause) => self.unreached(&cause, now),
            None => self.answered(now),
        }
    }

    /// Takes nothing new from here on; open requests may end.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Returns how many slots are in use.
    pub fn in_flight(&self) -> usize {
        self.slots_used
    }

    /// Returns how many offered missions wait for a slot.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Says whether nothing is queued, waiting or open.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.flights.is_empty()
    }

    /// Returns since when and why the registry is away.
    pub fn away(&self) -> Option<(Timestamp, &str)> {
        self.gate.away()
    }

    /// Returns every mission that was begun and is held up, and why.
    pub fn delays(&self) -> impl Iterator<Item = Delay> + '_ {
        self.flights.iter().filter_map(|(key, flight)| {
            let until = match flight.stage {
                Stage::Waiting { wall, .. } => Some(wall),
                Stage::Beginning | Stage::Sending => return None,
                Stage::Uncertain { .. } | Stage::Asking => None,
            };
            let why = flight.why.clone().unwrap_or_default();
            Some(Delay { key: key.clone(), until, why, attempts: flight.attempts })
        })
    }

    /// Returns when [`Machine::advance`] wants to be called again.
    pub fn next_wakeup(&self) -> Option<Instant> {
        if self.closing {
            return None;
        }
        if !self.gate.is_open() {
            return self.gate.next_wakeup();
        }
        if self.slots_used >= self.config.max_in_flight {
            return None;
        }
        self.timers.first().map(|(until, _)| *until)
    }

    fn answered(&mut self, now: Now) -> Vec<Effect> {
        self.gate.on_answer(now).map(|after| Effect::Back { after }).into_iter().collect()
    }

    fn unreached(&mut self, cause: &str, now: Now) -> Vec<Effect> {
        if self.gate.on_unreachable(cause, now) {
            vec![Effect::Away { cause: cause.to_owned() }]
        } else {
            Vec::new()
        }
    }

    fn release_slot(&mut self, key: &MissionKey) {
        if self.flights.get(key).is_some_and(|flight| flight.stage.holds_slot()) {
            self.slots_used -= 1;
        }
    }

    fn end(&mut self, key: &MissionKey) {
        self.release_slot(key);
        self.flights.remove(key);
    }

    fn wait(&mut self, key: &MissionKey, delay: Duration, why: String, now: Now) {
        self.release_slot(key);
        if let Some(flight) = self.flights.get_mut(key) {
            let until = now.instant + delay;
            flight.stage = Stage::Waiting { until, wall: now.wall.plus(delay) };
            flight.why = Some(why);
            self.timers.insert((until, key.clone()));
        }
    }

    fn doubt(&mut self, key: &MissionKey, delay: Duration, why: String, now: Now) {
        if let Some(flight) = self.flights.get_mut(key) {
            let until = now.instant + delay;
            flight.stage = Stage::Uncertain { until };
            flight.why = Some(why);
            self.timers.insert((until, key.clone()));
        }
    }

    fn return_to_queue(&mut self, key: MissionKey) -> Vec<Effect> {
        self.release_slot(&key);
        if let Some(flight) = self.flights.remove(&key) {
            let offer = Offer {
                mission: key.mission.clone(),
                priority: flight.priority,
                created_at: flight.created_at,
                index: flight.index,
            };
            self.queue.put_back(&key.session, offer);
        }
        vec![Effect::Tell(Order::Unsent { key })]
    }
}

fn seed_of(key: &MissionKey) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// What a refusal means.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Never again.
    Fail(FailureReason),
    /// Again after this long.
    Again(Duration),
}

/// Judges a refusal of attempt number `attempts`.
pub fn judge(config: &Config, status: u16, attempts: u32, retry_after: Option<Duration>) -> Verdict {
    let last = match status {
        408 | 425 | 429 => FailureReason::ClientError,
        409 if retry_after.is_some() => FailureReason::IdempotencyConflict,
        503 => FailureReason::NoExecutorAvailable,
        400 => return Verdict::Fail(FailureReason::InvalidRequest),
        401 | 403 => return Verdict::Fail(FailureReason::Unauthorized),
        404 => return Verdict::Fail(FailureReason::ExecutorNotFound),
        409 => return Verdict::Fail(FailureReason::IdempotencyConflict),
        422 => return Verdict::Fail(FailureReason::IdempotencyKeyReused),
        // A redirect or an informational status is no answer to a dispatch.
        _ => match status / 100 {
            5 => FailureReason::DispatchError,
            4 => return Verdict::Fail(FailureReason::ClientError),
            _ => return Verdict::Fail(FailureReason::DispatchError),
        },
    };
    let held = status == 503 && config.on_no_executor == OnNoExecutor::Hold;
    if attempts >= config.max_attempts && !held {
        return Verdict::Fail(last);
    }
    Verdict::Again(config.retry.delay_after(attempts, retry_after, u64::from(attempts)))
}
