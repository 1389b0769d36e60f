//! Domain: the states of a mission and the one table of what may follow what.
//!
//! The registry and the writeback both ask [`transition`]; there is no second table. Files spell `hitl_required`,
//! the wire spells `hitl-required`: one enum, two codecs.
//!
//! | event | allowed from | becomes |
//! |---|---|---|
//! | assigned | queued | assigned |
//! | started | queued, assigned, suspended | running |
//! | progress | any live | – |
//! | `hitl_required` | any live | `hitl_required` |
//! | `hitl_responded` | `hitl_required` | running |
//! | paused | any live | paused |
//! | suspended | any live | suspended |
//! | reconnected | suspended | running |
//! | resumed | any live | running |
//! | completed, failed, aborted | any live | done, failed, aborted |

use std::fmt;

/// Where a mission stands. `Done`, `Failed` and `Aborted` are terminal: nothing leaves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MissionState {
    /// Waits to be dispatched.
    Queued,
    /// An executor accepted it.
    Assigned,
    /// An agent works on it.
    Running,
    /// A human was asked something.
    HitlRequired,
    /// Held by an operator.
    Paused,
    /// The executor is away or checkpointed it.
    Suspended,
    /// Ended well.
    Done,
    /// Ended badly.
    Failed,
    /// Ended by order.
    Aborted,
}

/// A word that is not a mission state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a mission state")]
pub struct UnknownState {
    /// The refused word.
    pub text: String,
}

impl MissionState {
    /// Every state, in the order of a usual life.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Assigned,
        Self::Running,
        Self::HitlRequired,
        Self::Paused,
        Self::Suspended,
        Self::Done,
        Self::Failed,
        Self::Aborted,
    ];

    /// Says whether nothing leaves this state.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Aborted)
    }

    /// Says whether an executor holds the mission: neither queued nor ended.
    pub fn is_held_by_executor(self) -> bool {
        !self.is_terminal() && self != Self::Queued
    }

    /// Returns the spelling in `session.json`.
    pub fn as_file(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::HitlRequired => "hitl_required",
            Self::Paused => "paused",
            Self::Suspended => "suspended",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }

    /// Returns the spelling on the wire.
    pub fn as_wire(self) -> &'static str {
        match self {
            Self::HitlRequired => "hitl-required",
            Self::Queued
            | Self::Assigned
            | Self::Running
            | Self::Paused
            | Self::Suspended
            | Self::Done
            | Self::Failed
            | Self::Aborted => self.as_file(),
        }
    }

    /// Reads either spelling.
    ///
    /// # Errors
    /// [`UnknownState`] for any other word.
    pub fn parse(text: &str) -> Result<Self, UnknownState> {
        match text {
            "hitl-required" => Ok(Self::HitlRequired),
            _ => Self::ALL
                .into_iter()
                .find(|state| state.as_file() == text)
                .ok_or_else(|| UnknownState { text: text.chars().take(64).collect() }),
        }
    }
}

impl fmt::Display for MissionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_file())
    }
}

/// What can happen to a mission, without what comes along with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Happening {
    /// An executor accepted it.
    Assigned,
    /// The agent runs.
    Started,
    /// The agent said something.
    Progress,
    /// A human is asked.
    HitlRequired,
    /// The human answered.
    HitlResponded,
    /// Held.
    Paused,
    /// Checkpointed, or its executor is away.
    Suspended,
    /// Its executor is back.
    Reconnected,
    /// Goes on.
    Resumed,
    /// Ended well.
    Completed,
    /// Ended badly.
    Failed,
    /// Ended by order.
    Aborted,
}

impl Happening {
    /// Every kind, in the order of the table.
    pub const ALL: [Self; 12] = [
        Self::Assigned,
        Self::Started,
        Self::Progress,
        Self::HitlRequired,
        Self::HitlResponded,
        Self::Paused,
        Self::Suspended,
        Self::Reconnected,
        Self::Resumed,
        Self::Completed,
        Self::Failed,
        Self::Aborted,
    ];

    /// Returns the event's name on the wire.
    pub fn as_wire(self) -> &'static str {
        match self {
            Self::Assigned => "mission.assigned",
            Self::Started => "mission.started",
            Self::Progress => "mission.progress",
            Self::HitlRequired => "mission.hitl_required",
            Self::HitlResponded => "mission.hitl_responded",
            Self::Paused => "mission.paused",
            Self::Suspended => "mission.suspended",
            Self::Reconnected => "mission.reconnected",
            Self::Resumed => "mission.resumed",
            Self::Completed => "mission.completed",
            Self::Failed => "mission.failed",
            Self::Aborted => "mission.aborted",
        }
    }

    /// Reads the event's name on the wire.
    pub fn from_wire(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_wire() == name)
    }
}

/// What the table says of one event in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Transition {
    /// The mission moves to this state (possibly the one it is in).
    To(MissionState),
    /// Allowed, and the state stays.
    Stay,
    /// Not allowed from here: record the event, change nothing.
    Refused,
}

/// Answers which state `happening` leads to from `from`.
pub fn transition(from: MissionState, happening: Happening) -> Transition {
    use MissionState as S;
    if from.is_terminal() {
        return Transition::Refused;
    }
    let (allowed, to) = match happening {
        Happening::Progress => return Transition::Stay,
        Happening::Assigned => (from == S::Queued, S::Assigned),
        Happening::Started => (matches!(from, S::Queued | S::Assigned | S::Suspended), S::Running),
        Happening::HitlRequired => (true, S::HitlRequired),
        Happening::HitlResponded => (from == S::HitlRequired, S::Running),
        Happening::Paused => (true, S::Paused),
        Happening::Suspended => (true, S::Suspended),
        Happening::Reconnected => (from == S::Suspended, S::Running),
        Happening::Resumed => (true, S::Running),
        Happening::Completed => (true, S::Done),
        Happening::Failed => (true, S::Failed),
        Happening::Aborted => (true, S::Aborted),
    };
    if allowed { Transition::To(to) } else { Transition::Refused }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    #[test]
    fn the_whole_table_is_decided() {
        let mut table = String::new();
        for happening in Happening::ALL {
            for from in MissionState::ALL {
                let cell = match transition(from, happening) {
                    Transition::To(to) => to.as_file(),
                    Transition::Stay => "stay",
                    Transition::Refused => "-",
                };
                writeln!(table, "{:<24} {:<14} {cell}", happening.as_wire(), from.as_file()).unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn nothing_leaves_a_terminal_state() {
        for from in MissionState::ALL.into_iter().filter(|s| s.is_terminal()) {
            for happening in Happening::ALL {
                assert_eq!(transition(from, happening), Transition::Refused);
            }
        }
    }

    #[test]
    fn both_spellings_are_read_and_each_codec_writes_its_own() {
        for state in MissionState::ALL {
            assert_eq!(MissionState::parse(state.as_file()), Ok(state));
            assert_eq!(MissionState::parse(state.as_wire()), Ok(state));
        }
        assert_eq!(MissionState::HitlRequired.as_file(), "hitl_required");
        assert_eq!(MissionState::HitlRequired.as_wire(), "hitl-required");
        assert!(MissionState::parse("finished").is_err());
    }
}
