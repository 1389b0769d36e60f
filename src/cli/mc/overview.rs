//! Command: what the folder and the bridge say at one moment, gathered for whoever shows it.
//!
//! A session whose file did not change since the last look is not read again, so that a view may be refreshed often.

use super::folder::{self, Folder};
use crate::bridge::LOCK_FILE;
use crate::disk::lock;
use crate::domain::file::FileIdentity;
use crate::domain::id::SessionId;
use crate::domain::lifecycle::MissionState;
use crate::domain::session::SessionState;
use crate::domain::time::Timestamp;
use crate::session::document::Document;
use crate::session::ledger::Ledger;
use crate::session::mission_view::MissionView;
use crate::session::status_file::{self, BridgeStatus};
use crate::session::store::{ReadError, Reading, SessionStore};
use crate::session::waiting::{self, Around, Bridge, Cause, Reason, Remedy, Surroundings, is_handed_over};
use crate::writeback::merge::{self, Scope};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

/// Largest status file that is read: several times what a thousand of each kind of problem take.
const MAX_STATUS_BYTES: u64 = 16 * 1024 * 1024;

/// Longest outcome that is shown, in characters: a few lines. The file has all of it.
const LONGEST_OUTCOME: usize = 400;

/// A session's file as it was read last.
#[derive(Debug, Clone)]
pub enum Content {
    /// It parses.
    Session {
        /// The document.
        document: Arc<Document>,
        /// What makes missions unusable, by their place in the array.
        problems: Arc<HashMap<usize, String>>,
    },
    /// It cannot be read, for this reason.
    Unreadable(String),
}

/// Reads the folder again and again, and what changed only.
#[derive(Debug)]
pub struct Looker {
    folder: Folder,
    store: SessionStore,
    seen: HashMap<SessionId, (FileIdentity, Content)>,
}

/// The folder at one moment.
#[derive(Debug)]
pub struct Overview {
    /// When.
    pub now: Timestamp,
    /// What is known of the bridge.
    pub bridge: Bridge,
    /// The sessions, in the order of their ids.
    pub sessions: Vec<(SessionId, Content)>,
    /// What looks like a session and is not used: a sentence each.
    pub ignored: Vec<String>,
}

impl Looker {
    /// Looks into `folder` from here on.
    pub fn new(folder: &Folder) -> Self {
        Self { folder: folder.clone(), store: folder.store(), seen: HashMap::new() }
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Looks at every session, or at `only` one.
    ///
    /// # Errors
    /// The directory of the sessions cannot be read.
    pub fn look(&mut self, only: Option<&SessionId>, now: Timestamp) -> anyhow::Result<Overview> {
        let listing = self.store.list().map_err(folder::refused_read)?;
        let mut listed = listing.sessions;
        listed.retain(|(session, _)| only.is_none_or(|only| only == session));
        listed.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut seen = std::mem::take(&mut self.seen);
        let mut sessions = Vec::with_capacity(listed.len());
        for (session, listed) in listed {
            let known = seen.remove(&session).filter(|(identity, _)| *identity == listed);
            let Some((identity, content)) = known.or_else(|| self.read(&session, listed, now)) else {
                continue;
            };
            self.seen.insert(session.clone(), (identity, content.clone()));
            sessions.push((session, content));
        }
        let ignored = listing.ignored.iter();
        let mut ignored: Vec<String> = ignored
            .filter(|_| only.is_none())
            .map(|ignored| format!("{} is ignored: {}", ignored.path.display(), chain(&ignored.reason)))
            .collect();
        let places = sessions.iter().map(|(session, _)| self.store.inbox_dir(session));
        let shared = only.is_none().then(|| self.store.shared_inbox_dir());
        ignored.extend(shared.into_iter().chain(places).filter_map(|inbox| rejected(&inbox)));
        Ok(Overview { now, bridge: self.bridge(), sessions, ignored })
    }

    /// Reads a session; nothing when it is gone. The identity is that of the content that was looked at.
    fn read(
        &self,
        session: &SessionId,
        listed: FileIdentity,
        now: Timestamp,
    ) -> Option<(FileIdentity, Content)> {
        match folder::read_settled(&self.store, session) {
            Ok(Reading { document, identity }) => {
                let (_, findings) =
                    merge::reconcile(&document, &mut Ledger::default(), Scope::Everything, now);
                let problems = findings.problems.into_iter().map(|problem| {
                    let text = match problem.field {
                        "" => format!("the mission {}", problem.what),
                        field => format!("{field:?} {}", problem.what),
                    };
                    (problem.index, text)
                });
                let problems = Arc::new(problems.collect());
                Some((identity, Content::Session { document, problems }))
            }
            Err(ReadError::Missing { .. }) => None,
            Err(error) => {
                let (identity, text) = match &error {
                    ReadError::Torn { identity, source, .. } => {
                        (*identity, format!("session.json does not parse at {source}"))
                    }
                    ReadError::TooLarge { .. }
                    | ReadError::Refused { .. }
                    | ReadError::Io { .. }
                    | ReadError::Missing { .. } => (listed, chain(&error)),
                };
                Some((identity, Content::Unreadable(text)))
            }
        }
    }

    /// Looks at the bridge alone.
    pub fn bridge(&self) -> Bridge {
        let path = self.store.watch_dir().join(status_file::FILE_NAME);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Bridge::Never,
            Err(error) => return Bridge::Unreadable(error.to_string()),
        };
        let mut bytes = Vec::new();
        if let Err(error) = file.take(MAX_STATUS_BYTES).read_to_end(&mut bytes) {
            return Bridge::Unreadable(error.to_string());
        }
        match serde_json::from_slice::<BridgeStatus>(&bytes) {
            Ok(status) if !status.ended && self.is_killed(&status) => Bridge::Killed(Box::new(status)),
            Ok(status) => Bridge::Seen(Box::new(status)),
            Err(error) => Bridge::Unreadable(error.to_string()),
        }
    }

    /// Says whether the process that wrote `status` is gone: at once, and not when its status has become old.
    fn is_killed(&self, status: &BridgeStatus) -> bool {
        let holder = lock::last_holder(&self.store.watch_dir().join(LOCK_FILE));
        holder.is_some_and(|holder| holder.pid == status.pid && holder.is_gone())
    }
}

/// Says how many dropped files were rejected, as long as they lie there.
fn rejected(inbox: &Path) -> Option<String> {
    let directory = inbox.join("rejected");
    let names = std::fs::read_dir(&directory).ok()?.flatten().map(|entry| entry.file_name());
    let count = names.filter(|name| !name.as_encoded_bytes().ends_with(b".error.txt")).count();
    let files = match count {
        0 => return None,
        1 => "1 dropped file was".to_owned(),
        n => format!("{n} dropped files were"),
    };
    Some(format!("{files} rejected; why is written beside each in {}", directory.display()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// How many missions of a session stand where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// In the queue.
    pub queued: usize,
    /// With an executor, question or pause or not.
    pub live: usize,
    /// Of those, the ones that ask a human.
    pub asking: usize,
    /// Ended well.
    pub done: usize,
    /// Ended badly.
    pub failed: usize,
    /// Ended by order.
    pub aborted: usize,
    /// Unusable as they are written.
    pub unusable: usize,
}

/// One session, ready to be shown.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionLine<'a> {
    /// Its id: the name of its directory.
    pub session: &'a str,
    /// Its name for people.
    pub name: Option<Cow<'a, str>>,
    /// Its state as the file spells it.
    pub state: Cow<'a, str>,
    /// Its missions.
    #[serde(flatten)]
    pub counts: Counts,
    /// How many unfinished missions it takes.
    pub max_missions: Option<u64>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// When it was changed.
    pub updated_at: Option<Timestamp>,
    /// Why it cannot be read.
    pub unreadable: Option<&'a str>,
}

/// One mission, ready to be shown.
#[derive(Debug, Clone)]
pub struct MissionLine<'a> {
    /// Its session.
    pub session: &'a str,
    /// Its id, or its place in the array where it has none.
    pub id: Cow<'a, str>,
    /// Its state; nothing when the file says no known word.
    pub state: Option<MissionState>,
    /// Its fields.
    pub view: MissionView<'a>,
    /// Since when it is in its state.
    pub since: Option<Timestamp>,
    /// Why it does not move.
    pub waits: Option<Reason>,
}

impl Overview {
    /// Returns a line per session.
    pub fn session_lines(&self) -> Vec<SessionLine<'_>> {
        self.sessions.iter().map(|(session, content)| session_line(session, content)).collect()
    }

    /// Returns a line per mission of one session, in the order of the array.
    pub fn mission_lines<'a>(
        &'a self,
        surroundings: &Surroundings<'a>,
        session: &'a SessionId,
        content: &'a Content,
    ) -> Vec<MissionLine<'a>> {
        let Content::Session { document, problems } = content else { return Vec::new() };
        let word = document.state_word();
        let state = SessionState::from_file(Some(&word));
        let line = |view: MissionView<'a>| {
            let problem = problems.get(&view.index()).map(String::as_str);
            let around = Around { session: session.as_str(), state, state_word: &word, problem };
            MissionLine {
                session: session.as_str(),
                id: view.string("id").unwrap_or_else(|| Cow::Owned(format!("missions[{}]", view.index()))),
                state: view.string("status").and_then(|word| MissionState::parse(&word).ok()),
                view,
                since: waiting::state_since(&view),
                waits: surroundings.reason(&view, around),
            }
        };
        document.missions().map(line).collect()
    }
}

fn session_line<'a>(session: &'a SessionId, content: &'a Content) -> SessionLine<'a> {
    let blank = SessionLine {
        session: session.as_str(),
        name: None,
        state: Cow::Borrowed("unreadable"),
        counts: Counts::default(),
        max_missions: None,
        created_at: None,
        updated_at: None,
        unreadable: None,
    };
    let (document, problems) = match content {
        Content::Session { document, problems } => (document, problems),
        Content::Unreadable(why) => return SessionLine { unreadable: Some(why), ..blank },
    };
    let mut counts = Counts { unusable: problems.len(), ..Counts::default() };
    for mission in document.missions() {
        match mission.string("status").and_then(|word| MissionState::parse(&word).ok()) {
            Some(MissionState::Queued) => counts.queued += 1,
            Some(MissionState::Paused) if !is_handed_over(&mission) => counts.queued += 1,
            Some(MissionState::Done) => counts.done += 1,
            Some(MissionState::Failed) => counts.failed += 1,
            Some(MissionState::Aborted) => counts.aborted += 1,
            Some(state) => {
                counts.live += 1;
                counts.asking += usize::from(state == MissionState::HitlRequired);
            }
            None => {}
        }
    }
    let moment = |key| document.session_str(key).and_then(|text| Timestamp::parse(&text).ok());
    SessionLine {
        name: document.session_str("name"),
        state: document.state_word(),
        counts,
        max_missions: document.session_raw("maxMissions").and_then(|raw| raw.parse().ok()),
        created_at: moment("createdAt"),
        updated_at: moment("updatedAt"),
        ..blank
    }
}

impl MissionLine<'_> {
    /// Says whether it has not ended. One that is to be aborted ends when the executor says so.
    pub fn is_unfinished(&self) -> bool {
        let is_open = |reason: &Reason| reason.cause == Cause::AbortOnItsWay;
        !self.state.is_some_and(MissionState::is_terminal) || self.waits.as_ref().is_some_and(is_open)
    }

    /// Returns what the mission says of its end: a summary, or why it failed or was aborted.
    pub fn outcome(&self) -> Option<String> {
        outcome(&self.view)
    }

    /// Returns the mission as it is named on a command line.
    fn spelt(&self) -> String {
        folder::shell(&self.id)
    }

    /// Returns the command that would help a waiting mission.
    pub fn remedy(&self, folder: &Folder) -> Option<String> {
        let option = folder.option();
        Some(match self.waits.as_ref()?.remedy? {
            Remedy::StartBridge => format!("aiwg-rs mc bridge{option}"),
            Remedy::ResumeSession => format!("aiwg-rs mc resume --session {}{option}", self.session),
            Remedy::ResumeMission => format!("aiwg-rs mc resume {}{option}", self.spelt()),
            Remedy::Answer => format!("aiwg-rs mc respond {} TEXT{option}", self.spelt()),
        })
    }

    /// Returns everything a program may want to know, on one line.
    pub fn json(&self, folder: &Folder) -> serde_json::Value {
        let text = |key: &str| self.view.string(key);
        let waits = self.waits.as_ref().map(|reason| {
            serde_json::json!({
                "cause": reason.cause,
                "text": reason.text,
                "since": reason.since,
                "until": reason.until,
                "remedy": self.remedy(folder),
            })
        });
        serde_json::json!({
            "session": self.session,
            "mission": self.id,
            "status": text("status"),
            "since": self.since,
            "objective": text("objective"),
            "priority": text("priority").unwrap_or(Cow::Borrowed("normal")),
            "createdAt": text("createdAt"),
            "executor": text("executorId"),
            "attempts": self.view.unsigned("dispatchAttempts"),
            "loop": self.view.unsigned("loop"),
            "lastAction": text("lastAction"),
            "prompt": text("hitlPrompt").filter(|_| self.state == Some(MissionState::HitlRequired)),
            "exitCode": self.view.field("exitCode").and_then(|raw| raw.parse::<i64>().ok()),
            "outcome": self.outcome(),
            "waits": waits,
        })
    }
}

/// Returns what a mission says of its end: a summary, or why it failed or was aborted.
pub fn outcome(mission: &MissionView<'_>) -> Option<String> {
    let text = |key: &str| mission.string(key).filter(|text| !text.trim().is_empty());
    let joined = |parts: [Option<Cow<'_, str>>; 2]| {
        let parts: Vec<String> = parts.into_iter().flatten().map(|part| flowing(&part)).collect();
        if parts.is_empty() { None } else { Some(parts.join(": ")) }
    };
    match MissionState::parse(&mission.string("status")?).ok()? {
        MissionState::Done => joined([text("summary"), None]),
        MissionState::Failed => {
            joined([text("failureReason"), text("failureMessage").or_else(|| text("error"))])
        }
        MissionState::Aborted => {
            let by = text("abortedBy");
            let reason = text("abortReason").filter(|reason| Some(reason) != by.as_ref());
            joined([by.map(|by| Cow::Owned(format!("by {by}"))), reason])
        }
        MissionState::Queued
        | MissionState::Assigned
        | MissionState::Running
        | MissionState::HitlRequired
        | MissionState::Paused
        | MissionState::Suspended => None,
    }
}

/// Runs the lines of a text together, without control characters, and cuts it at [`LONGEST_OUTCOME`].
fn flowing(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let joined = lines.join(" ");
    let mut shown: String = joined.chars().take(LONGEST_OUTCOME).filter(|c| !c.is_control()).collect();
    if shown.len() < joined.len() && joined.chars().count() > LONGEST_OUTCOME {
        shown.push('…');
    }
    shown
}
