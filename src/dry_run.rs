//! Service: `mc bridge --dry-run`: what would be sent, without sending or writing anything.
//!
//! It looks at the folder with the same eyes as the bridge: the same watcher, the same merge, the same queue, the same
//! payload. It takes no lock, so it may run beside a bridge.

use crate::bridge::Config;
use crate::dispatcher::machine::turn_length;
use crate::dispatcher::queue::Queue;
use crate::domain::id::{MissionId, SessionId};
use crate::protocol::route;
use crate::runtime::clock;
use crate::runtime::shutdown::{Cause, Shutdown};
use crate::runtime::tasks::Tasks;
use crate::session::document::Document;
use crate::session::journal_file;
use crate::session::ledger::Phase;
use crate::session::messages::Offer;
use crate::session::store::SessionStore;
use crate::watcher::{Notice, worker as watch_worker};
use crate::writeback::merge::{Scope, reconcile};
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
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
    /// Why it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// A bridge may have sent it already: it would ask before sending.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub uncertain: bool,
}

struct Look {
    document: Arc<Document>,
    offers: Vec<Offer>,
    uncertain: Vec<MissionId>,
}

/// Shows every mission once, in the order in which it would be sent, and follows the folder until `shutdown`; with
/// `once` it ends after the first sweep.
pub async fn run(config: Config, shutdown: Shutdown, mut show: impl FnMut(Shown)) {
    let tasks = Tasks::new(shutdown.clone());
    let (notices, mut arrived) = mpsc::channel(64);
    // Nothing is ever answered: a file that is torn now is shown when it changes.
    let (_answers, answered) = mpsc::channel(1);
    tasks.spawn("watcher", watch_worker::run(config.watcher.clone(), notices, answered, shutdown.clone()));
    let store = Arc::new(SessionStore::new(&config.watcher.watch_dir, config.fsync));
    let mut shown: HashMap<(SessionId, MissionId), String> = HashMap::new();
    while let Some(notice) = arrived.recv().await {
        let (sessions, swept) = match notice {
            Notice::Changed { session, .. } => (vec![session], false),
            Notice::Swept { sessions } => (sessions.into_iter().map(|(session, _)| session).collect(), true),
            Notice::Inbox { .. } | Notice::Mode { .. } => continue,
        };
        for one in shown_of(&config, &store, sessions).await {
            let key = (one.session_id.clone(), one.mission_id.clone());
            let body = one.payload.as_ref().map_or_else(String::new, |raw| raw.get().to_owned());
            if shown.get(&key) != Some(&body) {
                shown.insert(key, body);
                show(one);
            }
        }
        if swept && config.once {
            shutdown.start(Cause::Finished);
        }
    }
    tasks.join(Duration::from_secs(2)).await;
}

/// Everything that would be sent from these sessions, in turns.
async fn shown_of(config: &Config, store: &Arc<SessionStore>, sessions: Vec<SessionId>) -> Vec<Shown> {
    let store = Arc::clone(store);
    let looks = tokio::task::spawn_blocking(move || {
        let look = |session: SessionId| Some((session.clone(), look(&store, &session)?));
        sessions.into_iter().filter_map(look).collect::<BTreeMap<SessionId, Look>>()
    })
    .await
    .unwrap_or_default();
    let mut queue = Queue::default();
    let turn_length = turn_length(config.dispatcher.max_in_flight);
    for (session, look) in &looks {
        queue.replace(session, look.offers.clone());
    }
    let mut all = Vec::new();
    while let Some((key, _offer)) = queue.pop(turn_length) {
        let Some(look) = looks.get(&key.session) else { continue };
        let Some(view) = look.document.mission(key.mission.as_str()) else { continue };
        let wire = look.document.wire_session(&key.session).into_owned();
        let body = config.payload.body(&wire, &key.mission, &view);
        let (payload, error) = match body {
            Ok(body) => (RawValue::from_string(body).ok(), None),
            Err(error) => (None, Some(error.to_string())),
        };
        all.push(Shown {
            endpoint: route::join(&config.dispatcher.serve_url, &route::dispatch(&wire)),
            uncertain: look.uncertain.contains(&key.mission),
            session_id: key.session,
            mission_id: key.mission,
            payload,
            error,
        });
    }
    all
}

fn look(store: &SessionStore, session: &SessionId) -> Option<Look> {
    let document = match store.read(session) {
        Ok(reading) => reading.document,
        Err(error) => {
            tracing::warn!(session.id = %session, error = %error, "session.json cannot be read");
            return None;
        }
    };
    let mut ledger = journal_file::read(&store.log_file(session)).unwrap_or_default();
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
    for problem in &findings.problems {
        tracing::warn!(session.id = %session, "{} {}", problem.place(), problem.what);
    }
    Some(Look { document, offers: findings.offers, uncertain })
}
