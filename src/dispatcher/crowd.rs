//! Pure: the missions that found no room, and who may try next.
//!
//! They stand in order: the most urgent first, then by when they were claimed first. Room goes to the first of them. The
//! others stay in the queue behind a crowd, but what the next one asks for may be elsewhere, so now and then one passes:
//! at once after one that was accepted, ever more rarely after those that were not.

use crate::domain::mission::Priority;
use crate::session::messages::MissionKey;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long nobody passes at first, when the last one to pass found no room either. It doubles.
const PASS_AFTER: Duration = Duration::from_millis(250);

/// Nobody passes for this long at most.
const PASS_WITHIN: Duration = Duration::from_secs(30);

/// Those that found no room and have not been accepted since.
#[derive(Debug)]
pub struct Crowd {
    members: BTreeSet<(Priority, u64, MissionKey)>,
    /// Missions that ended while nobody waited for their room.
    spare_room: usize,
    pass_at: Option<Instant>,
    pass_after: Duration,
}

impl Default for Crowd {
    fn default() -> Self {
        Self { members: BTreeSet::new(), spare_room: 0, pass_at: None, pass_after: PASS_AFTER }
    }
}

impl Crowd {
    /// A mission found no room; says whether it may try again at once, because some was kept. `place` is its place among
    /// equals.
    #[must_use]
    pub fn join(&mut self, priority: Priority, place: u64, key: MissionKey) -> bool {
        self.members.insert((priority, place, key));
        let is_kept = self.spare_room > 0;
        self.spare_room = self.spare_room.saturating_sub(1);
        is_kept
    }

    /// A mission no longer waits for room.
    pub fn leave(&mut self, priority: Priority, place: u64, key: &MissionKey) {
        self.members.remove(&(priority, place, key.clone()));
    }

    /// Says whether nobody waits for room.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns its members, the first to get room first.
    pub fn iter(&self) -> impl Iterator<Item = &MissionKey> {
        self.members.iter().map(|(.., key)| key)
    }

    /// Keeps room that nobody waited for, at most for as many as there are members.
    pub fn keep(&mut self, count: usize) {
        self.spare_room = (self.spare_room + count).min(self.members.len());
    }

    /// Says whether at least `limit` members stand before somebody who is as urgent as this.
    pub fn stands_before(&self, next: impl FnOnce() -> Option<Priority>, limit: usize) -> bool {
        let before =
            |next: Priority| self.members.iter().take_while(|(priority, ..)| *priority <= next).count();
        self.members.len() >= limit && next().is_some_and(|next| before(next) >= limit)
    }

    /// Lets one pass, if it is time.
    #[must_use]
    pub fn may_pass(&mut self, now: Instant) -> bool {
        let may = self.pass_at.is_none_or(|at| at <= now);
        if may {
            self.pass_at = Some(now + self.pass_after);
            self.pass_after = (self.pass_after * 2).min(PASS_WITHIN);
        }
        may
    }

    /// Somebody was accepted: the next may pass at once.
    pub fn let_pass(&mut self) {
        (self.pass_at, self.pass_after) = (None, PASS_AFTER);
    }

    /// Returns when the next may pass, unless that is now.
    pub fn pass_at(&self) -> Option<Instant> {
        self.pass_at
    }
}
