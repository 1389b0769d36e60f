//! Pure: what the bridge knows of the missions it has touched, and what their file should therefore say.
//!
//! Updates never go to the file directly. They change the ledger; whoever writes compares the ledger with what the file
//! says at that moment and lays only the difference over it. So it does not matter how many updates came together, how
//! often another program rewrote the file meanwhile, or which of the two was first: the outcome is the same.
//!
//! The ledger of a session is rebuilt from its journal ([`super::journal`]) after a crash.

use crate::domain::event::MissionEvent;
use crate::domain::id::MissionId;
use crate::domain::lifecycle::{Happening, MissionState, Transition, transition};
use crate::domain::mission::FailureReason;
use crate::domain::time::Timestamp;
use crate::session::json::quoted;
use crate::session::messages::Wish;
use crate::session::patch;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::ops::{Deref, DerefMut};

/// How many events are remembered per mission to tell a replay from news. The registry replays at most 50.
const REMEMBERED_EVENTS: usize = 128;

/// One value that we wrote, or want to write, into a mission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The key in the mission object.
    pub key: &'static str,
    /// The value as JSON text.
    pub raw: String,
    /// Not in the file yet.
    pub dirty: bool,
}

/// Whose move it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nobody's: it waits in the file to be offered again.
    Waiting,
    /// Ours: a request may be open, or may have been when the bridge was killed.
    Claimed,
    /// The executor's.
    Accepted,
    /// Nobody's: it has ended.
    Ended,
}

/// One mission that the bridge has dispatched, or is about to.
#[derive(Debug, Clone)]
pub struct Held {
    /// Which life of the mission this is: 1, and one more for every time it was queued again.
    pub run: u32,
    /// Requests sent in this run.
    pub attempts: u32,
    /// When the last of them left.
    pub sent_at: Timestamp,
    /// Whose move it is.
    pub phase: Phase,
    /// What is true.
    pub state: MissionState,
    /// The time of the event that made it so.
    pub state_since: Timestamp,
    /// What the file said when it was last read or written.
    pub shown: Option<MissionState>,
    /// Its executor, once known.
    pub executor: Option<String>,
    /// Our fields of this run.
    pub fields: Vec<Field>,
    /// What somebody asked for by editing the file, until it is confirmed.
    pub wish: Option<Wish>,
    /// The registry refused what the file asks for: the file is to show the truth again.
    pub overruled: bool,
    /// What it refused, one of each kind at most: it is not asked for again while the file still says so.
    pub refused: Vec<Wish>,
    /// The file lacked something of ours when it was last read.
    pub lacking: bool,
    /// What the file will say once the edits that were asked for are written.
    pub promised: Option<MissionState>,
    /// When the run before this one ended: what is said of it later does not touch this one.
    pub ended_before: Timestamp,
    /// The states this run has been in, one bit each.
    pub(super) been: u16,
    pub(super) seen: VecDeque<u64>,
    /// Stands among the candidates of its ledger.
    is_candidate: bool,
}

/// What an event did to a mission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Applied {
    /// It moved the state.
    Moved,
    /// Only fields changed.
    Noted,
    /// It was recorded, and changed nothing: late, or not allowed from here.
    Late,
    /// It had been seen before.
    Duplicate,
}

fn bit(state: MissionState) -> u16 {
    MissionState::ALL.iter().position(|s| *s == state).map_or(0, |index| 1 << index)
}

impl Held {
    /// A mission that is queued and has not been sent in this run.
    pub fn waiting(run: u32) -> Self {
        Self {
            run,
            attempts: 0,
            sent_at: Timestamp::EPOCH,
            phase: Phase::Waiting,
            state: MissionState::Queued,
            state_since: Timestamp::EPOCH,
            shown: Some(MissionState::Queued),
            executor: None,
            fields: Vec::new(),
            wish: None,
            overruled: false,
            refused: Vec::new(),
            lacking: false,
            promised: None,
            ended_before: Timestamp::EPOCH,
            been: bit(MissionState::Queued),
            seen: VecDeque::new(),
            is_candidate: false,
        }
    }

    /// A mission that some other bridge had in `state`.
    pub fn adopted(run: u32, state: MissionState, executor: Option<String>) -> Self {
        let phase = if state.is_terminal() { Phase::Ended } else { Phase::Accepted };
        let been = bit(MissionState::Queued) | bit(MissionState::Assigned) | bit(state);
        Self { phase, state, shown: Some(state), executor, been, ..Self::waiting(run) }
    }

    /// The idempotency key of this run.
    pub fn idempotency_key(&self, mission: &MissionId) -> String {
        if self.run > 1 { format!("{mission}#{}", self.run) } else { mission.to_string() }
    }

    /// Says whether this run has been in `state`: a file that says so may be an old copy.
    pub fn has_been(&self, state: MissionState) -> bool {
        self.been & bit(state) != 0
    }

    /// Says whether the mission is anyone's to follow.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Accepted | Phase::Claimed)
    }

    /// Says whether the file lacks something that we know.
    pub fn is_dirty(&self) -> bool {
        self.overruled
            || self.lacking
            || self.shown != Some(self.state)
            || self.fields.iter().any(|field| field.dirty)
    }

    /// Returns our value of `key`.
    pub fn field(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.key == key).map(|field| field.raw.as_str())
    }

    /// Sets a field; the same value again changes nothing.
    pub fn set(&mut self, key: &'static str, raw: String) {
        match self.fields.iter_mut().find(|field| field.key == key) {
            Some(field) if field.raw == raw => {}
            Some(field) => {
                field.raw = raw;
                field.dirty = true;
            }
            None => self.fields.push(Field { key, raw, dirty: true }),
        }
    }

    fn set_absent(&mut self, key: &'static str, raw: String) {
        if self.field(key).is_none() {
            self.set(key, raw);
        }
    }

    fn move_to(&mut self, state: MissionState, at: Timestamp) {
        self.state = state;
        self.state_since = at;
        self.been |= bit(state);
        self.phase = match state {
            MissionState::Queued => self.phase,
            MissionState::Done | MissionState::Failed | MissionState::Aborted => Phase::Ended,
            MissionState::Assigned
            | MissionState::Running
            | MissionState::HitlRequired
            | MissionState::Paused
            | MissionState::Suspended => Phase::Accepted,
        };
        if self.phase == Phase::Ended {
            self.wish = None;
        }
    }

    /// A request is about to leave.
    pub fn claim(&mut self, at: Timestamp) {
        if self.state.is_terminal() {
            // It was aborted before anyone had it, and then queued again.
            self.state = MissionState::Queued;
            self.state_since = Timestamp::EPOCH;
            self.been = bit(MissionState::Queued);
        }
        self.attempts = self.attempts.saturating_add(1);
        self.sent_at = at;
        self.phase = Phase::Claimed;
    }

    /// The request certainly did not arrive: it does not count.
    pub fn unsent(&mut self) {
        if self.phase == Phase::Claimed {
            self.release();
            self.attempts = self.attempts.saturating_sub(1);
        }
    }

    /// Nobody will send it for now: it waits to be offered again.
    pub fn release(&mut self) {
        if self.phase == Phase::Claimed {
            self.phase = Phase::Waiting;
        }
    }

    /// The registry accepted the mission. An event may have overtaken this answer: then only the fields are filled in.
    pub fn assigned(&mut self, executor: Option<&str>, estimated_start: Option<&str>, at: Timestamp) {
        let named = executor.or(self.executor.as_deref()).unwrap_or("unknown").to_owned();
        self.set("executorId", quoted(&named));
        self.set_absent("dispatchedAt", quoted(&at.to_string()));
        self.set("dispatchAttempts", self.attempts.to_string());
        let estimate = estimated_start.map_or_else(|| "null".to_owned(), quoted);
        if self.field("estimatedStart").is_none_or(|raw| raw == "null") {
            self.set("estimatedStart", estimate);
        }
        if let Some(executor) = executor {
            self.executor = Some(executor.to_owned());
        }
        if matches!(transition(self.state, Happening::Assigned), Transition::To(_)) {
            // Not the time of our clock: the executor's next event may be stamped by one that is behind it.
            self.move_to(MissionState::Assigned, self.state_since);
        }
    }

    /// The mission will not run, or not be heard of again.
    pub fn failed(&mut self, reason: &FailureReason, message: &str, at: Timestamp) {
        if matches!(transition(self.state, Happening::Failed), Transition::To(_)) {
            self.set("failedAt", quoted(&at.to_string()));
            self.set("failureReason", quoted(reason.as_str()));
            self.set("failureMessage", quoted(message));
            self.set("dispatchAttempts", self.attempts.to_string());
            self.move_to(MissionState::Failed, at);
        }
    }

    /// Ends a mission that was aborted and that no executor has. Where one had it, nobody else writes down its end.
    pub fn withdrawn(&mut self, at: Timestamp) {
        if self.phase == Phase::Accepted {
            self.set("abortedAt", quoted(&at.to_string()));
            self.set("abortedBy", quoted("operator"));
            self.set("abortReason", quoted("the registry does not know the mission"));
        }
        self.move_to(MissionState::Aborted, at);
    }

    /// Applies one event. `digest` tells it from every other event of the mission.
    pub fn happened(
        &mut self,
        event: &MissionEvent,
        executor: Option<&str>,
        ts: Timestamp,
        digest: u64,
    ) -> Applied {
        if self.seen.contains(&digest) {
            return Applied::Duplicate;
        }
        if self.seen.len() >= REMEMBERED_EVENTS {
            self.seen.pop_front();
        }
        self.seen.push_back(digest);
        let Some(happening) = event.happening() else { return Applied::Late };
        if self.run > 1 && ts <= self.ended_before {
            return Applied::Late;
        }
        let verdict = transition(self.state, happening);
        let ends = matches!(happening, Happening::Completed | Happening::Failed | Happening::Aborted);
        // A late event must not undo a newer state, but an end is an end whatever the clocks say.
        if verdict == Transition::Refused || (ts < self.state_since && !ends) {
            return Applied::Late;
        }
        if self.phase != Phase::Accepted {
            if let (None, Some(executor)) = (&self.executor, executor) {
                self.executor = Some(executor.to_owned());
            }
            let executor = self.executor.clone();
            self.set_absent("executorId", quoted(executor.as_deref().unwrap_or("unknown")));
            self.set_absent("dispatchedAt", quoted(&self.sent_at.to_string()));
            self.set_absent("dispatchAttempts", self.attempts.to_string());
        }
        for (key, raw) in patch::fields(event, ts) {
            self.set(key, raw);
        }
        match verdict {
            Transition::To(state) => {
                self.confirm_wish(happening);
                self.move_to(state, ts);
                Applied::Moved
            }
            Transition::Stay => Applied::Noted,
            Transition::Refused => Applied::Late,
        }
    }

    /// The registry refused the wish that was passed on.
    pub fn refuse_wish(&mut self) {
        if let Some(wish) = self.wish.take() {
            self.refused.retain(|earlier| earlier.as_str() != wish.as_str());
            self.refused.push(wish);
            self.overruled = true;
        }
    }

    fn confirm_wish(&mut self, happening: Happening) {
        let confirmed = matches!(
            (&self.wish, happening),
            (Some(Wish::Pause), Happening::Paused)
                | (Some(Wish::Resume), Happening::Resumed)
                | (
                    Some(Wish::Answer { .. }),
                    Happening::HitlResponded | Happening::Started | Happening::HitlRequired
                )
        );
        if confirmed {
            self.wish = None;
        }
    }

    /// The file now says what the ledger says.
    pub fn written(&mut self) {
        self.shown = self.promised.take().or(Some(self.state));
        self.overruled = false;
        self.lacking = false;
        for field in &mut self.fields {
            field.dirty = false;
        }
    }

    /// Starts a new run after somebody queued an ended mission again. `history` is the new `attempts` array.
    pub fn requeue(&mut self, run: u32, history: String) {
        let seen = std::mem::take(&mut self.seen);
        let ended_before = if self.state.is_terminal() { self.state_since } else { self.ended_before };
        *self = Self { ended_before, seen, is_candidate: self.is_candidate, ..Self::waiting(run) };
        self.set("attempts", history);
        self.shown = None;
    }
}

/// What is counted, so that nobody has to look at ten thousand missions to say how a session stands.
#[derive(Debug, Clone, Default)]
struct Tally {
    waiting: usize,
    claimed: usize,
    accepted: usize,
    ended: usize,
    /// Candidates of which the file lacks something.
    dirty: usize,
}

impl Tally {
    fn of(&mut self, phase: Phase) -> &mut usize {
        match phase {
            Phase::Waiting => &mut self.waiting,
            Phase::Claimed => &mut self.claimed,
            Phase::Accepted => &mut self.accepted,
            Phase::Ended => &mut self.ended,
        }
    }

    fn add(&mut self, held: &Held) {
        *self.of(held.phase) += 1;
        self.dirty += usize::from(held.is_candidate && held.is_dirty());
    }

    fn subtract(&mut self, held: &Held) {
        *self.of(held.phase) -= 1;
        self.dirty -= usize::from(held.is_candidate && held.is_dirty());
    }
}

/// One mission of a ledger that is being changed; it is counted again when it is let go.
#[derive(Debug)]
pub struct HeldMut<'l> {
    held: &'l mut Held,
    tally: &'l mut Tally,
}

impl<'l> HeldMut<'l> {
    fn new(held: &'l mut Held, tally: &'l mut Tally) -> Self {
        tally.subtract(held);
        Self { held, tally }
    }
}

impl Deref for HeldMut<'_> {
    type Target = Held;

    fn deref(&self) -> &Held {
        self.held
    }
}

impl DerefMut for HeldMut<'_> {
    fn deref_mut(&mut self) -> &mut Held {
        self.held
    }
}

impl Drop for HeldMut<'_> {
    fn drop(&mut self) {
        self.tally.add(self.held);
    }
}

/// The missions of one session that the bridge has touched, ended ones included.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    held: HashMap<MissionId, Held>,
    /// What may have to be written; each stands here once, and says so itself.
    candidates: Vec<MissionId>,
    tally: Tally,
}

impl Ledger {
    /// Returns what is known of `mission`.
    pub fn get(&self, mission: &str) -> Option<&Held> {
        self.held.get(mission)
    }

    /// Returns what is known of `mission`, to change it. The mission becomes a candidate for writing.
    pub fn get_mut(&mut self, mission: &MissionId) -> Option<HeldMut<'_>> {
        let held = self.held.get_mut(mission.as_str())?;
        let mut held = HeldMut::new(held, &mut self.tally);
        if !std::mem::replace(&mut held.is_candidate, true) {
            self.candidates.push(mission.clone());
        }
        Some(held)
    }

    /// Returns what is known of `mission`, to change it without making it a candidate for writing.
    pub fn get_quietly(&mut self, mission: &str) -> Option<HeldMut<'_>> {
        let held = self.held.get_mut(mission)?;
        Some(HeldMut::new(held, &mut self.tally))
    }

    /// Makes `mission` a candidate for writing.
    pub fn mark(&mut self, mission: &MissionId) {
        self.get_mut(mission);
    }

    /// Adds or replaces what is known of `mission`, which becomes a candidate for writing.
    pub fn insert(&mut self, mission: MissionId, held: Held) -> HeldMut<'_> {
        let mut slot = self.hold(mission);
        *slot = Held { is_candidate: true, ..held };
        slot
    }

    /// Returns what is known of `mission`, to change it; a mission that was unknown waits in its first run. It becomes a
    /// candidate for writing.
    pub fn hold(&mut self, mission: MissionId) -> HeldMut<'_> {
        let held = match self.held.entry(mission) {
            Entry::Occupied(known) => {
                if !known.get().is_candidate {
                    self.candidates.push(known.key().clone());
                }
                known.into_mut()
            }
            Entry::Vacant(place) => {
                self.candidates.push(place.key().clone());
                let held = place.insert(Held::waiting(1));
                self.tally.add(held);
                held
            }
        };
        let mut held = HeldMut::new(held, &mut self.tally);
        held.is_candidate = true;
        held
    }

    /// Returns every mission.
    pub fn iter(&self) -> impl Iterator<Item = (&MissionId, &Held)> {
        self.held.iter()
    }

    /// Returns the candidates for writing: what changed since [`Ledger::settled`].
    pub fn changed(&self) -> impl Iterator<Item = &MissionId> {
        self.candidates.iter()
    }

    /// Says whether anything that changed is not in the file yet.
    pub fn is_dirty(&self) -> bool {
        self.tally.dirty > 0
    }

    /// Says whether any mission is in our or an executor's hands.
    pub fn is_live(&self) -> bool {
        self.tally.claimed + self.tally.accepted > 0
    }

    /// Returns how many missions are claimed: a request of each may be open.
    pub fn claimed(&self) -> usize {
        self.tally.claimed
    }

    /// Says whether every mission has ended.
    pub fn has_ended(&self) -> bool {
        self.tally.ended == self.held.len()
    }

    /// The file now says everything.
    pub fn settled(&mut self) {
        for mission in self.candidates.drain(..) {
            if let Some(held) = self.held.get_mut(&mission) {
                held.written();
                held.is_candidate = false;
            }
        }
        self.tally.dirty = 0;
    }

    /// Returns how many missions are known.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Says whether no mission is known.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        /// Whatever happens to whichever mission, the counts are those that looking at every mission gives.
        #[test]
        fn the_counts_are_those_of_a_recount(steps in proptest::collection::vec((0..4_u8, 0..9_u8), 0..80)) {
            let mut ledger = Ledger::default();
            let at = Timestamp::from_millis(1);
            for (mission, step) in steps {
                let mission = MissionId::new(format!("m{mission}")).unwrap();
                match step {
                    0 => ledger.hold(mission).claim(at),
                    1 => drop(ledger.insert(mission, Held::adopted(1, MissionState::Running, None))),
                    2 => ledger.settled(),
                    3 => if let Some(mut held) = ledger.get_quietly(mission.as_str()) { held.unsent() },
                    _ => if let Some(mut held) = ledger.get_mut(&mission) {
                        match step {
                            4 => held.assigned(Some("e"), None, at),
                            5 => held.failed(&FailureReason::DispatchError, "no", at),
                            6 => held.withdrawn(at),
                            7 => held.requeue(2, "[]".to_owned()),
                            _ => {}
                        }
                    }
                }
                let candidates: HashSet<MissionId> = ledger.changed().cloned().collect();
                prop_assert_eq!(candidates.len(), ledger.changed().count());
                let is_dirty = ledger.iter().any(|(id, held)| candidates.contains(id) && held.is_dirty());
                let any = |phase| ledger.iter().any(|(_, held)| held.phase == phase);
                prop_assert_eq!(ledger.is_dirty(), is_dirty);
                let claimed = ledger.iter().filter(|(_, held)| held.phase == Phase::Claimed).count();
                prop_assert_eq!(ledger.claimed(), claimed);
                prop_assert_eq!(ledger.is_live(), any(Phase::Claimed) || any(Phase::Accepted));
                prop_assert_eq!(ledger.has_ended(), ledger.iter().all(|(_, held)| held.phase == Phase::Ended));
            }
        }
    }
}
