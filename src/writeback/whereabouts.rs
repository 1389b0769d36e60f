//! Pure: which sessions hold which missions.
//!
//! Events name a mission and not its session. Ids are unique by convention only, so one may stand in several sessions.

use crate::domain::id::{MissionId, SessionId};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Where each live mission stands.
#[derive(Debug, Default)]
pub struct Whereabouts {
    sessions: HashMap<MissionId, Place>,
}

/// Nearly every mission stands in one session.
#[derive(Debug)]
enum Place {
    One(SessionId),
    Several(Vec<SessionId>),
}

impl Place {
    fn sessions(&self) -> &[SessionId] {
        match self {
            Self::One(session) => std::slice::from_ref(session),
            Self::Several(sessions) => sessions,
        }
    }
}

impl Whereabouts {
    /// `session` holds `mission`. Returns whether that is new.
    pub fn add(&mut self, mission: MissionId, session: &SessionId) -> bool {
        match self.sessions.entry(mission) {
            Entry::Vacant(nowhere) => {
                nowhere.insert(Place::One(session.clone()));
                true
            }
            Entry::Occupied(known) if known.get().sessions().contains(session) => false,
            Entry::Occupied(mut known) => {
                let mut sessions = known.get().sessions().to_vec();
                sessions.push(session.clone());
                known.insert(Place::Several(sessions));
                true
            }
        }
    }

    /// `session` no longer holds `mission`. Returns whether no session does.
    pub fn remove(&mut self, mission: &MissionId, session: &SessionId) -> bool {
        let Some(place) = self.sessions.get_mut(mission) else { return true };
        if let Place::Several(sessions) = place {
            sessions.retain(|held| held != session);
        }
        if place.sessions().iter().all(|held| held == session) {
            self.sessions.remove(mission);
            return true;
        }
        false
    }

    /// Returns the sessions that hold `mission`.
    pub fn of(&self, mission: &MissionId) -> &[SessionId] {
        self.sessions.get(mission).map_or(&[], Place::sessions)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mission_is_known_until_its_last_session_lets_it_go() {
        let (mission, [a, b]) =
            (MissionId::new("m").unwrap(), ["a", "b"].map(|s| SessionId::new(s).unwrap()));
        let mut places = Whereabouts::default();
        assert!(places.remove(&mission, &a), "nobody holds it");
        assert!(places.add(mission.clone(), &a) && !places.add(mission.clone(), &a));
        assert!(!places.remove(&mission, &b), "another one does not let it go");
        assert!(places.add(mission.clone(), &b) && !places.add(mission.clone(), &b));
        assert_eq!(places.of(&mission), [a.clone(), b.clone()]);
        assert!(!places.remove(&mission, &a));
        assert_eq!(places.of(&mission), std::slice::from_ref(&b));
        assert!(places.remove(&mission, &b) && places.is_empty());
    }
}
