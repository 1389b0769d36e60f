//! Pure: our lines in `log.jsonl`, and what they add up to.
//!
//! The journal answers one question after a crash: what had been sent, and what came back? A `bridge.dispatching` line is
//! on disk before its request leaves. When no line after it says what became of it, the mission is *uncertain*: the
//! registry is asked before anything is sent again.
//!
//! | line | says |
//! |---|---|
//! | `bridge.dispatching` | a request is about to leave |
//! | `bridge.unsent` | it certainly did not arrive |
//! | `bridge.assigned` | the registry accepted the mission |
//! | `bridge.failed` | the mission will not run |
//! | `bridge.event` | the executor said this |
//! | `bridge.requeued` | somebody queued an ended mission again: a new run begins |
//! | `bridge.withdrawn` | it was aborted before any executor had it, or when the registry no longer knew it |
//! | `bridge.restored` | another program wrote an old copy; our fields were put back |
//! | `bridge.steering` | somebody edited a live mission; this was asked of the registry |
//! | `bridge.carried` | first lines after a rotation: everything that still matters |
//!
//! Other programs append to the same file. Lines that are not ours, and torn ones, are passed over.

use crate::domain::id::{ExecutorId, MissionId};
use crate::domain::lifecycle::MissionState;
use crate::domain::mission::FailureReason;
use crate::domain::time::Timestamp;
use crate::protocol::envelope::parse_envelope;
use crate::protocol::executor_v1::MAX_RECENT_EVENTS;
use crate::session::ledger::{Applied, Field, Held, HeldMut, Ledger, Phase};
use crate::session::messages::Wish;
use crate::session::patch;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;

/// One of our lines.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all_fields = "camelCase")]
pub enum Line {
    /// A request is about to leave.
    #[serde(rename = "bridge.dispatching")]
    Dispatching {
        /// When.
        ts: Timestamp,
        /// Which mission.
        mission_id: MissionId,
        /// The idempotency key.
        key: String,
        /// Which life of the mission.
        run: u32,
        /// Which request of this life.
        attempt: u32,
    },
    /// It certainly did not arrive.
    #[serde(rename = "bridge.unsent")]
    Unsent {
        /// When that was known.
        ts: Timestamp,
        /// Which mission.
        mission_id: MissionId,
    },
    /// The registry accepted the mission.
    #[serde(rename = "bridge.assigned")]
    Assigned {
        /// When.
        ts: Timestamp,
        /// Which mission.
        mission_id: MissionId,
        /// The executor, when the answer named one.
        executor_id: Option<ExecutorId>,
        /// The answer's estimate.
        estimated_start: Option<String>,
    },
    /// The mission will not run.
    #[serde(rename = "bridge.failed")]
    Failed {
        /// When.
        ts: Timestamp,
        /// Which mission.
        mission_id: MissionId,
        /// The word for programs.
        reason: String,
        /// The sentence for people.
        message: String,
    },
    /// The executor said this.
    #[serde(rename = "bridge.event")]
    Event {
        /// When we heard it.
        ts: Timestamp,
        /// Which mission.
        mission_id: MissionId,
        /// What it did to the mission: `moved`, `noted` or `late`.
        applied: Cow<'static, str>,
        /// The envelope as it came.
        envelope: Box<RawValue>,
    },
    /// Somebody queued an ended mission again.
    #[serde(rename = "bridge.requeued")]
    Requeued {
        /// When it was seen.
        ts: Timestamp,
        /// Which mission.
        mission_id: MissionId,
        /// Which life begins.
        run: u32,
        /// The new `attempts` array.
        attempts: Box<RawValue>,
    },
    /// It was aborted before any executor had it.
    #[serde(rename = "bridge.withdrawn")]
    Withdrawn {
        /// When it was seen.
        ts: Timestamp,
        /// Which mission.
        mission_id: MissionId,
    },
    /// Another program wrote an old copy; our fields were put back.
    #[serde(rename = "bridge.restored")]
    Restored {
        /// When it was seen.
        ts: Timestamp,
        /// Which missions.
        mission_ids: Vec<MissionId>,
    },
    /// Somebody edited a live mission.
    #[serde(rename = "bridge.steering")]
    Steering {
        /// When it was seen.
        ts: Timestamp,
        /// Which mission.
        mission_id: MissionId,
        /// What they want.
        wish: Cow<'static, str>,
    },
    /// Everything that still matters, as the first lines after a rotation.
    #[serde(rename = "bridge.carried")]
    Carried {
        /// When.
        ts: Timestamp,
        /// The missions.
        missions: Vec<Carried>,
    },
}

/// One mission in a [`Line::Carried`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Carried {
    mission_id: MissionId,
    run: u32,
    attempts: u32,
    sent_at: Timestamp,
    claimed: bool,
    state: String,
    state_since: Timestamp,
    executor_id: Option<String>,
    /// Which states the run has been in, one bit each in the order of [`MissionState::ALL`].
    #[serde(default)]
    been: u16,
    #[serde(default = "epoch")]
    ended_before: Timestamp,
    /// The last events it has seen, by their digests: as many as a registry may tell again.
    #[serde(default)]
    seen: Vec<u64>,
    fields: Vec<(String, Box<RawValue>)>,
}

impl Carried {
    fn of(mission_id: &MissionId, held: &Held) -> Self {
        // An ended mission takes no more events in, whether it has seen them or not.
        let told_again = if held.phase == Phase::Ended { 0 } else { MAX_RECENT_EVENTS };
        let newest = held.seen.len().saturating_sub(told_again);
        let field = |f: &Field| Some((f.key.to_owned(), RawValue::from_string(f.raw.clone()).ok()?));
        Self {
            mission_id: mission_id.clone(),
            run: held.run,
            attempts: held.attempts,
            sent_at: held.sent_at,
            claimed: held.phase == Phase::Claimed,
            state: held.state.as_file().to_owned(),
            state_since: held.state_since,
            executor_id: held.executor.clone(),
            been: held.been,
            ended_before: held.ended_before,
            seen: held.seen.iter().skip(newest).copied().collect(),
            fields: held.fields.iter().filter_map(field).collect(),
        }
    }
}

fn epoch() -> Timestamp {
    Timestamp::EPOCH
}

impl Line {
    /// Makes the line that says a wish was passed on.
    pub fn steering(ts: Timestamp, mission_id: MissionId, wish: &Wish) -> Self {
        Self::Steering { ts, mission_id, wish: Cow::Borrowed(wish.as_str()) }
    }

    /// Makes the line for an event; `None` when `raw` is no JSON and so cannot have been an event.
    pub fn event(ts: Timestamp, mission_id: MissionId, applied: Applied, raw: &str) -> Option<Self> {
        let applied = match applied {
            Applied::Moved => "moved",
            Applied::Noted => "noted",
            Applied::Late | Applied::Duplicate => "late",
        };
        let envelope = RawValue::from_string(raw.to_owned()).ok()?;
        Some(Self::Event { ts, mission_id, applied: Cow::Borrowed(applied), envelope })
    }

    /// Makes the first lines after a rotation, of so many missions each that no line is long.
    pub fn carried(ts: Timestamp, ledger: &Ledger) -> impl Iterator<Item = Self> {
        /// A mission takes a few hundred bytes, and some kilobytes where it has been asked and answered at length.
        const MISSIONS_A_LINE: usize = 500;
        let missions: Vec<Carried> =
            ledger.iter().map(|(mission, held)| Carried::of(mission, held)).collect();
        let mut rest = missions.into_iter().peekable();
        std::iter::from_fn(move || {
            rest.peek()?;
            Some(Self::Carried { ts, missions: rest.by_ref().take(MISSIONS_A_LINE).collect() })
        })
    }

    /// Appends the line, with its line feed, to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        if serde_json::to_writer(&mut *out, self).is_err() {
            // Writing to memory cannot fail, and no key of ours is anything but a string.
            out.truncate(start);
            return;
        }
        // A value that came pretty-printed keeps its meaning on one line: line feeds cannot stand inside JSON strings.
        for byte in out.iter_mut().skip(start).filter(|b| matches!(**b, b'\n' | b'\r')) {
            *byte = b' ';
        }
        out.push(b'\n');
    }
}

/// Returns what tells one event from every other of its mission: its name, time and data, whatever the spelling.
pub fn digest(raw: &str) -> u64 {
    #[derive(Deserialize)]
    struct Core<'a> {
        #[serde(borrow)]
        event: Cow<'a, str>,
        #[serde(borrow)]
        ts: Cow<'a, str>,
        #[serde(default)]
        data: serde_json::Value,
    }
    // Prints are written down when a journal is rotated, so they have to be the same in every build.
    let mut hasher = Sha256::new();
    match serde_json::from_str::<Core<'_>>(raw) {
        Ok(core) => {
            hasher.update(core.event.as_bytes());
            hasher.update([0]);
            hasher.update(core.ts.as_bytes());
            hasher.update([0]);
            hasher.update(core.data.to_string());
        }
        Err(_other_shape) => hasher.update(raw),
    }
    let hash: [u8; 32] = hasher.finalize().into();
    hash.first_chunk().copied().map_or(0, u64::from_be_bytes)
}

/// Adds one line up. Lines that are not ours change nothing.
pub fn fold(ledger: &mut Ledger, line: &str) {
    if !line.contains("\"bridge.") {
        return;
    }
    let Ok(line) = serde_json::from_str::<Read<'_>>(line) else { return };
    if let Some(missions) = line.missions.filter(|_| line.event == "bridge.carried") {
        for carried in missions {
            fold_carried(ledger, carried);
        }
    }
    let Some(mission_id) = line.mission_id else { return };
    match &*line.event {
        "bridge.dispatching" => {
            let mut held = held_in_run(ledger, mission_id, line.run.unwrap_or(1));
            held.attempts = line.attempt.unwrap_or(1).saturating_sub(1);
            held.claim(line.ts);
        }
        "bridge.requeued" => {
            let run = line.run.unwrap_or(2);
            let history = line.attempts.map_or_else(|| "[]".to_owned(), |raw| raw.get().to_owned());
            ledger.hold(mission_id).requeue(run, history);
        }
        "bridge.event" => {
            if let Some(envelope) = line.envelope {
                fold_event(ledger, &mission_id, envelope.get());
            }
        }
        other => {
            let Some(mut held) = ledger.get_mut(&mission_id) else { return };
            match other {
                "bridge.unsent" => held.unsent(),
                "bridge.assigned" => {
                    held.assigned(line.executor_id.as_deref(), line.estimated_start.as_deref(), line.ts);
                }
                "bridge.failed" => {
                    let reason = FailureReason::Other(line.reason.unwrap_or_else(|| "unknown".to_owned()));
                    held.failed(&reason, &line.message.unwrap_or_default(), line.ts);
                }
                "bridge.withdrawn" => held.withdrawn(line.ts),
                _ => {}
            }
        }
    }
}

/// Any of our lines as it is read back. One flat shape, because a tagged enum cannot hand out raw values.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    ts: Timestamp,
    mission_id: Option<MissionId>,
    run: Option<u32>,
    attempt: Option<u32>,
    executor_id: Option<String>,
    estimated_start: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    #[serde(borrow)]
    attempts: Option<&'a RawValue>,
    #[serde(borrow)]
    envelope: Option<&'a RawValue>,
    missions: Option<Vec<Carried>>,
}

fn held_in_run(ledger: &mut Ledger, mission: MissionId, run: u32) -> HeldMut<'_> {
    if ledger.get(mission.as_str()).is_none_or(|held| held.run != run) {
        ledger.insert(mission.clone(), Held::waiting(run));
    }
    ledger.hold(mission)
}

fn fold_event(ledger: &mut Ledger, mission: &MissionId, raw: &str) {
    let Ok(envelope) = parse_envelope(raw) else { return };
    let crate::domain::event::Body::Mission(event) = &envelope.body else { return };
    if ledger.get(mission.as_str()).is_none() {
        let executor = envelope.executor_id.as_str().to_owned();
        ledger.insert(mission.clone(), Held::adopted(1, MissionState::Assigned, Some(executor)));
    }
    if let Some(mut held) = ledger.get_mut(mission) {
        let _replayed: Applied =
            held.happened(event, Some(envelope.executor_id.as_str()), envelope.ts, digest(raw));
    }
}

fn fold_carried(ledger: &mut Ledger, carried: Carried) {
    let Ok(state) = MissionState::parse(&carried.state) else { return };
    let mut held = Held::adopted(carried.run, state, carried.executor_id);
    held.attempts = carried.attempts;
    held.sent_at = carried.sent_at;
    held.state_since = carried.state_since;
    held.ended_before = carried.ended_before;
    held.been |= carried.been;
    let newest = carried.seen.len().saturating_sub(MAX_RECENT_EVENTS);
    held.seen = carried.seen.into_iter().skip(newest).collect();
    held.shown = None;
    if state == MissionState::Queued {
        held.phase = if carried.claimed { Phase::Claimed } else { Phase::Waiting };
    }
    held.fields = carried
        .fields
        .into_iter()
        .filter_map(|(key, raw)| {
            Some(Field { key: patch::our_key(&key)?, raw: raw.get().to_owned(), dirty: true })
        })
        .collect();
    ledger.insert(carried.mission_id, held);
}
