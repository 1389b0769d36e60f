//! Pure: which sessions hold which missions.
//!
//! Events name a mission and not its session. Ids are unique by convention only, so one may stand in several sessions.

use crate::domain::id::{MissionId, SessionId};
use std::collections::HashMap;

/// Where each live mission stands.
#[derive(Debug, Default)]
pub struct Whereabouts {
    sessions: HashMap<MissionId, Vec<SessionId>>,
}

impl Whereabouts {
    /// `session` holds `mission`. Returns whether that is new.
    pub fn add(&mut self, mission: MissionId, session: &SessionId) -> bool {
        let list = self.sessions.entry(mission).or_default();
        let is_new = !list.contains(session);
        if is_new {
            list.push(session.clone());
        }
        is_new
    }

    /// `session` no longer holds `mission`. Returns whether no session does.
    pub fn remove(&mut self, mission: &MissionId, session: &SessionId) -> bool {
        let Some(list) = self.sessions.get_mut(mission) else { return true };
        list.retain(|held| held != session);
        if list.is_empty() {
            self.sessions.remove(mission);
            return true;
        }
        false
    }

    /// Returns the sessions that hold `mission`.
    pub fn of(&self, mission: &MissionId) -> &[SessionId] {
        self.sessions.get(mission).map_or(&[], Vec::as_slice)
    }

    /// Returns how many missions are known.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Says whether no mission is known.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}
