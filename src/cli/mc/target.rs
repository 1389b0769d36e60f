//! Command: from what was typed to the one mission that is meant, and how that one is changed.
//!
//! A mission is named by its id, or by `session/id` where several sessions have one of that id.

use super::folder::{self, Folder};
use crate::cli::exit::{Code, Ended};
use crate::cli::output;
use crate::domain::id::SessionId;
use crate::domain::lifecycle::MissionState;
use crate::runtime::clock;
use crate::session::document::Document;
use crate::session::edits::{Edits, MissionPatch};
use crate::session::json;
use crate::session::mission_view::MissionView;
use crate::session::store::{ReadError, SessionStore};
use crate::session::waiting::is_handed_over;
use std::borrow::Cow;
use std::cell::RefCell;

/// At most this many candidates are listed.
const MOST_CANDIDATES: usize = 10;

/// One mission of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The session.
    pub session: SessionId,
    /// The mission's id as it is spelt in the file.
    pub mission: String,
}

impl Target {
    /// Finds the mission that `name` means.
    ///
    /// # Errors
    /// [`Code::Usage`] when there is none, or more than one: the message lists them.
    pub fn find(folder: &Folder, store: &SessionStore, name: &str) -> anyhow::Result<Self> {
        Self::find_as("mission", folder, store, name)
    }

    /// The same; where there is none, the message calls it `kind`.
    ///
    /// # Errors
    /// As [`Target::find`].
    pub fn find_as(kind: &str, folder: &Folder, store: &SessionStore, name: &str) -> anyhow::Result<Self> {
        if let Some(target) = Self::qualified(store, name)? {
            return Ok(target);
        }
        let mut found = Vec::new();
        let mut others = Vec::new();
        let mut unreadable = None;
        for session in folder.sessions(store)? {
            match folder::read_settled(store, &session) {
                Ok(reading) if reading.document.mission(name).is_some() => found.push(session),
                Ok(reading) => {
                    let ids = reading.document;
                    others.extend(ids.missions().filter_map(|m| m.string("id").map(Cow::into_owned)));
                }
                Err(error) => unreadable = Some((session, error)),
            }
        }
        match (found.as_slice(), unreadable) {
            ([session], _) => Ok(Self { session: session.clone(), mission: name.to_owned() }),
            ([], Some((session, error))) => {
                let ended = Ended::new(
                    Code::State,
                    format!("no {kind} {name:?} was found, but session {session} cannot be read"),
                );
                Err(ended.because(error).hint("correct the file by hand; nothing was changed").into())
            }
            ([], None) => Err(folder.unknown(kind, name, others.iter().map(String::as_str)).into()),
            (several, _) => {
                let mut candidates: Vec<String> =
                    several.iter().take(MOST_CANDIDATES).map(|session| format!("{session}/{name}")).collect();
                if several.len() > MOST_CANDIDATES {
                    candidates.push(format!("{} more", several.len() - MOST_CANDIDATES));
                }
                let message = format!("{} sessions have a mission {name:?}", several.len());
                Err(Ended::new(Code::Usage, message)
                    .hint(format!("name one of them: {}", candidates.join(", ")))
                    .into())
            }
        }
    }

    fn qualified(store: &SessionStore, name: &str) -> anyhow::Result<Option<Self>> {
        let Some((session, mission)) = name.split_once('/') else { return Ok(None) };
        let Ok(session) = SessionId::new(session) else { return Ok(None) };
        match folder::read_settled(store, &session) {
            Ok(reading) if reading.document.mission(mission).is_some() => {
                Ok(Some(Self { session, mission: mission.to_owned() }))
            }
            Ok(_) | Err(ReadError::Missing { .. }) => Ok(None),
            Err(error) => Err(folder::refused_read(error).into()),
        }
    }

    /// Says that the mission left its session after it was found.
    pub fn gone(&self) -> Ended {
        let message = format!("mission {} is no longer in session {}", self.mission, self.session);
        Ended::new(Code::State, message).hint("another program removed it from session.json")
    }
}

/// A mission as it lies in the file at one moment.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Which one.
    pub target: &'a Target,
    /// The session around it.
    pub document: &'a Document,
    /// The mission.
    pub mission: MissionView<'a>,
    /// Its status.
    pub state: MissionState,
}

impl Seen<'_> {
    /// Says that a verb does not fit the mission's state.
    pub fn unfit(&self, rule: &str) -> Ended {
        Ended::new(Code::State, format!("mission {} is {}; {rule}", self.target.mission, self.state))
    }

    /// Says whether a bridge has given the mission to an executor in this run.
    pub fn is_handed_over(&self) -> bool {
        is_handed_over(&self.mission)
    }

    /// Says whether another program has rewritten the file with `change` in it.
    fn has(&self, change: &Change) -> bool {
        let is_set = |key: &str, raw: &str| self.mission.field(key).is_some_and(|theirs| theirs == raw);
        self.state == change.status && change.patch.set.iter().all(|(key, raw)| is_set(key, raw))
    }
}

/// What a verb does to a mission.
#[derive(Debug, Clone)]
pub struct Change {
    /// The fields that it sets.
    pub patch: MissionPatch,
    /// The status that the file then says.
    pub status: MissionState,
    /// What was done, for people, behind the mission's id.
    pub said: String,
}

/// What is printed with `--json`.
#[derive(serde::Serialize)]
struct Changed<'a> {
    session: &'a str,
    mission: &'a str,
    was: &'static str,
    status: &'static str,
}

/// Changes one mission and says so. `decide` sees it as it is in the file.
///
/// # Errors
/// The mission is not found, `decide` refuses, or the file cannot be written.
pub fn change(
    folder: &Folder,
    name: &str,
    mut decide: impl FnMut(&Seen<'_>) -> Result<Change, Ended>,
) -> anyhow::Result<Code> {
    let store = folder.store();
    let target = Target::find(folder, &store, name)?;
    let mut first: Option<(MissionState, Change)> = None;
    let before: RefCell<Option<String>> = RefCell::default();
    let decide = |document: &Document| {
        let mission = document.mission(&target.mission).ok_or_else(|| target.gone())?;
        let state = state_of(&target, &mission)?;
        let seen = Seen { target: &target, document, mission, state };
        let mut edits = Edits::new();
        if let Some((was, change)) = first.as_ref().filter(|(_, change)| seen.has(change)) {
            return Ok((edits, (*was, change.clone())));
        }
        let change = decide(&seen)?;
        let (was, _) = first.get_or_insert((state, change.clone()));
        edits.patch_mission(&target.mission, change.patch.clone());
        before.replace(Some(mission.raw().to_owned()));
        Ok((edits, (*was, change)))
    };
    // A mission that differs from both was moved on by a bridge that has seen the change.
    let is_lost = |document: &Document| {
        let before = before.borrow();
        document
            .mission(&target.mission)
            .zip(before.as_deref())
            .is_some_and(|(m, b)| json::is_same(m.raw(), b))
    };
    let (was, change) = folder.update(&store, &target.session, clock::wall(), decide, is_lost)?;
    if folder.json {
        output::json(&Changed {
            session: target.session.as_str(),
            mission: &target.mission,
            was: was.as_file(),
            status: change.status.as_file(),
        })?;
    } else {
        output::line(&format!("{} {}", target.mission, change.said))?;
    }
    Ok(Code::Done)
}

fn state_of(target: &Target, mission: &MissionView<'_>) -> Result<MissionState, Ended> {
    let word = mission.string("status").unwrap_or_default();
    MissionState::parse(&word).map_err(|error| {
        Ended::new(Code::State, format!("mission {} has no usable status", target.mission))
            .because(error)
            .hint("correct \"status\" in session.json by hand")
    })
}
