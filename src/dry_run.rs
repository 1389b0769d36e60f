//! Service: `mc bridge --dry-run`: what would be sent, without sending or writing anything.
//!
//! It looks at the folder with the same eyes as the bridge: the same watcher, the same merge, the same queue, the same
//! payload; what lies in a drop folder is shown as it would be sent from its session. It takes no lock, so it may run
//! beside a bridge.

use crate::bridge::Config;
use crate::disk::wait;
use crate::dispatcher::machine::turn_length;
use crate::dispatcher::queue::Queue;
use crate::domain::error::with_causes;
use crate::domain::id::{MissionId, SessionId};
use crate::protocol::route;
use crate::runtime::clock;
use crate::runtime::shutdown::{Cause, Shutdown};
use crate::runtime::tasks::Tasks;
use crate::session::document::Document;
use crate::session::inbox::{DropFolder, Dropped, IntakeError, Preview};
use crate::session::journal_file;
use crate::session::ledger::{Ledger, Phase};
use crate::session::messages::Offer;
use crate::session::store::{ReadError, SessionStore};
use crate::watcher::{InboxPlace, Notice, worker as watch_worker};
use crate::writeback::merge::{Problem, Scope, reconcile};
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// One request that would be sent.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// The session.
    pub session_id: SessionId,
    /// The mission.
    pub mission_id: MissionId,
    /// Where the request would go.
    pub endpoint: String,
    /// Its body, when the mission can be sent.
    pub payload: Option<Box<RawValue>>,
    /// The dropped file that it comes from; without one it stands in its session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<PathBuf>,
    /// Why it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// A bridge may have sent it already: it would ask before sending.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub uncertain: bool,
}

/// How long a look waits for files that somebody is writing.
const WRITER_PATIENCE: Duration = Duration::from_secs(2);

struct Look {
    document: Arc<Document>,
    offers: Vec<Offer>,
    uncertain: Vec<MissionId>,
}

/// What is to be looked at.
#[derive(Debug, Default)]
struct Places {
    sessions: Vec<SessionId>,
    /// Drop folders: of a session, or without one the shared one.
    inboxes: Vec<Option<SessionId>>,
}

impl Places {
    fn of(notice: Notice) -> Self {
        match notice {
            Notice::Changed { session, .. } => Self { sessions: vec![session], ..Self::default() },
            Notice::Inbox { place: InboxPlace::Root } => Self { inboxes: vec![None], ..Self::default() },
            Notice::Inbox { place: InboxPlace::Session(session) } => {
                Self { inboxes: vec![Some(session)], ..Self::default() }
            }
            Notice::Swept { sessions } => {
                let sessions: Vec<SessionId> = sessions.into_iter().map(|(session, _)| session).collect();
                let inboxes = std::iter::once(None).chain(sessions.iter().cloned().map(Some)).collect();
                Self { sessions, inboxes }
            }
            Notice::Mode { .. } => Self::default(),
        }
    }
}

/// Shows every mission once, in the order in which it would be sent, and follows the folder until `shutdown`; with
/// `once` it ends after the first sweep.
pub async fn run(config: Config, shutdown: Shutdown, mut show: impl FnMut(Shown)) {
    let tasks = Tasks::new(shutdown.clone());
    let (notices, mut arrived) = mpsc::channel(64);
    // Nothing is ever answered: a file that is torn now is shown when it changes.
    let (_answers, answered) = mpsc::channel(1);
    tasks.spawn("watcher", watch_worker::run(config.watcher.clone(), notices, answered, shutdown.clone()));
    let once = config.once;
    let store = SessionStore::new(&config.watcher.watch_dir, config.fsync);
    let mut eyes = Eyes { config, store, told: HashMap::new() };
    let mut shown: HashMap<(SessionId, MissionId), String> = HashMap::new();
    while let Some(notice) = arrived.recv().await {
        let swept = matches!(notice, Notice::Swept { .. });
        if once && !swept {
            continue;
        }
        let places = Places::of(notice);
        let looked = tokio::task::spawn_blocking(move || {
            let all = eyes.look_at(places);
            (eyes, all)
        });
        let Ok((back, all)) = looked.await else {
            shutdown.start(Cause::Panic("dry run"));
            break;
        };
        eyes = back;
        let mut seen = HashSet::new();
        for one in all {
            let key = (one.session_id.clone(), one.mission_id.clone());
            if !seen.insert(key.clone()) {
                // Of two dropped files with one id, only the first is taken in.
                continue;
            }
            let body = one.payload.as_ref().map_or_else(String::new, |raw| raw.get().to_owned());
            if shown.get(&key) != Some(&body) {
                shown.insert(key, body);
                show(one);
            }
        }
        if once {
            break;
        }
    }
    shutdown.start(Cause::Finished);
    tasks.join(Duration::from_secs(2)).await;
}

/// Who looks, and what was said already.
struct Eyes {
    config: Config,
    store: SessionStore,
    /// What is wrong with each file, so that it is said and waited for once.
    told: HashMap<PathBuf, Vec<String>>,
}

impl Eyes {
    /// Everything that would be sent from these places.
    fn look_at(&mut self, places: Places) -> Vec<Shown> {
        let deadline = Instant::now() + WRITER_PATIENCE;
        let mut looks = BTreeMap::new();
        for session in places.sessions {
            if let Some(look) = self.session(&session, deadline) {
                looks.insert(session, look);
            }
        }
        let mut all = self.in_turns(&looks, None);
        for place in places.inboxes {
            all.extend(self.inbox(place.as_ref(), deadline));
        }
        all
    }

    /// Says what is wrong with a file, unless it was said.
    fn tell(&mut self, path: &Path, wrong: Vec<String>) {
        let told = self.told.remove(path).unwrap_or_default();
        for what in wrong.iter().filter(|what| !told.contains(what)) {
            tracing::warn!(file.path = %path.display(), "{what}");
        }
        if !wrong.is_empty() {
            self.told.insert(path.to_owned(), wrong);
        }
    }

    /// Until when a file is looked at again that may be in the middle of being written.
    fn patience(&self, path: &Path, deadline: Instant) -> Instant {
        if self.told.contains_key(path) { Instant::now() } else { deadline }
    }

    fn session(&mut self, session: &SessionId, deadline: Instant) -> Option<Look> {
        let path = self.store.session_file(session);
        let document = match self.store.read_settled(session, self.patience(&path, deadline)) {
            Ok(reading) => reading.document,
            Err(error) => {
                let is_there = !matches!(error, ReadError::Missing { .. });
                self.tell(&path, is_there.then(|| with_causes(&error)).into_iter().collect());
                return None;
            }
        };
        let mut ledger = journal_file::read(&self.store.log_file(session)).unwrap_or_default();
        let uncertain: Vec<MissionId> = ledger
            .iter()
            .filter(|(_, held)| held.phase == Phase::Claimed)
            .map(|(mission, _)| mission.clone())
            .collect();
        for mission in &uncertain {
            if let Some(mut held) = ledger.get_quietly(mission.as_str()) {
                held.unsent();
            }
        }
        let (_edits, findings) = reconcile(&document, &mut ledger, Scope::Everything, clock::wall());
        let wrong = |problem: &Problem| format!("{} {}", problem.place(), problem.what);
        self.tell(&path, findings.problems.iter().map(wrong).collect());
        Some(Look { document, offers: findings.offers, uncertain })
    }

    /// What would be sent from the files of a drop folder, file by file.
    fn inbox(&mut self, place: Option<&SessionId>, deadline: Instant) -> Vec<Shown> {
        let listed = self.store.drop_folder(place).and_then(|folder| {
            let Some(folder) = folder else { return Ok(None) };
            let failed = |source| ReadError::Io { path: folder.path().to_owned(), source };
            let files = folder.list().map_err(failed)?;
            Ok(Some((folder, files)))
        });
        let (folder, files) = match listed {
            Ok(Some(found)) => found,
            Ok(None) => return Vec::new(),
            Err(error) => {
                let path = place.map_or_else(|| self.store.shared_inbox_dir(), |s| self.store.inbox_dir(s));
                self.tell(&path, vec![with_causes(&error)]);
                return Vec::new();
            }
        };
        let mut all = Vec::new();
        for file in files {
            let path = folder.path().join(&file.name);
            match self.preview(&folder, file, self.patience(&path, deadline)) {
                Ok(previews) => {
                    let looks =
                        previews.into_iter().map(|preview| (preview.session.clone(), would_be(preview)));
                    all.extend(self.in_turns(&looks.collect(), Some(&path)));
                    self.tell(&path, Vec::new());
                }
                Err(IntakeError::Changed { .. }) => {}
                Err(error) => self.tell(&path, vec![with_causes(&error)]),
            }
        }
        all
    }

    /// Previews a file. While it may be in the middle of being written it is looked at again, until `deadline`.
    fn preview(
        &self,
        folder: &DropFolder,
        mut file: Dropped,
        deadline: Instant,
    ) -> Result<Vec<Preview>, IntakeError> {
        const PAUSE: Duration = Duration::from_millis(50);
        loop {
            match self.store.preview(folder, &file, self.config.intake.max_missions, clock::wall()) {
                Err(error) if !error.is_final() && Instant::now() < deadline => {
                    wait::rest(PAUSE);
                    let listed = folder.list().unwrap_or_default();
                    match listed.into_iter().find(|other| other.name == file.name) {
                        Some(now) => file = now,
                        None => return Err(error),
                    }
                }
                other => return other,
            }
        }
    }

    /// What would be sent from these sessions, in turns.
    fn in_turns(&self, looks: &BTreeMap<SessionId, Look>, dropped: Option<&Path>) -> Vec<Shown> {
        let mut queue = Queue::default();
        let turn_length = turn_length(self.config.dispatcher.max_in_flight);
        for (session, look) in looks {
            queue.replace(session, look.offers.clone());
        }
        let mut all = Vec::new();
        while let Some((key, _offer)) = queue.pop(turn_length) {
            let Some(look) = looks.get(&key.session) else { continue };
            let Some(view) = look.document.mission(key.mission.as_str()) else { continue };
            let wire = look.document.wire_session(&key.session).into_owned();
            let body = self.config.payload.body(&wire, &key.mission, &view);
            let (payload, error) = match body {
                Ok(body) => (RawValue::from_string(body).ok(), None),
                Err(error) => (None, Some(error.to_string())),
            };
            all.push(Shown {
                endpoint: route::join(&self.config.dispatcher.serve_url, &route::dispatch(&wire)),
                uncertain: look.uncertain.contains(&key.mission),
                session_id: key.session,
                mission_id: key.mission,
                payload,
                dropped: dropped.map(Path::to_owned),
                error,
            });
        }
        all
    }
}

fn would_be(preview: Preview) -> Look {
    let mut ledger = Ledger::default();
    let (_edits, findings) = reconcile(&preview.document, &mut ledger, Scope::Everything, clock::wall());
    let mut offers = findings.offers;
    offers.retain(|offer| preview.added.contains(&offer.mission));
    Look { document: preview.document, offers, uncertain: Vec::new() }
}
