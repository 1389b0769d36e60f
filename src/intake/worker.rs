//! Service: looks into drop folders when something moved there.

use super::Config;
use super::machine::{Decision, Machine, Obstacle};
use crate::domain::error::with_causes;
use crate::domain::id::SessionId;
use crate::runtime::clock;
use crate::runtime::shutdown::Shutdown;
use crate::session::inbox::{DropFolder, Dropped, IntakeError};
use crate::session::store::SessionStore;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How often `accepted/` is swept. Retention is counted in days.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);

/// A drop folder: of a session, or without one the shared one.
pub type Place = Option<SessionId>;

/// Files that are still there after a look, each with why.
type Left = Vec<(Dropped, IntakeError)>;

/// Runs until `shutdown`; `places` says where something may lie.
pub async fn run(
    config: Config,
    store: Arc<SessionStore>,
    mut places: mpsc::Receiver<Place>,
    shutdown: Shutdown,
) {
    let mut machine: Machine<(Place, String)> = Machine::default();
    let mut timers: BTreeSet<(Instant, Place)> = BTreeSet::new();
    let mut next_sweep = Instant::now();
    loop {
        let wake = timers.first().map_or(next_sweep, |(at, _)| next_sweep.min(*at));
        let mut due: HashSet<Place> = HashSet::new();
        tokio::select! {
            place = places.recv() => {
                let Some(place) = place else { break };
                due.insert(place);
                while let Ok(more) = places.try_recv() {
                    due.insert(more);
                }
            }
            () = tokio::time::sleep_until(wake) => {}
            () = shutdown.started() => break,
        }
        while let Some((at, place)) = timers.first().cloned().filter(|(at, _)| *at <= Instant::now()) {
            timers.remove(&(at, place.clone()));
            due.insert(place);
        }
        for place in due {
            let (folders, where_to) = (Arc::clone(&store), place.clone());
            let looked = tokio::task::spawn_blocking(move || look(&folders, where_to.as_ref(), config)).await;
            let left = looked.unwrap_or_default();
            machine.keep(|(of, name)| *of != place || left.iter().any(|(dropped, _)| dropped.name == *name));
            for (dropped, error) in left {
                let key = (place.clone(), dropped.name.clone());
                let now = Instant::now();
                let obstacle = obstacle(&error);
                match machine.on_obstacle(key.clone(), dropped.identity, obstacle, now.into_std()) {
                    Decision::Again(pause) => {
                        let error = with_causes(&error);
                        if obstacle == Obstacle::Elsewhere && machine.is_news(&key, &error) {
                            tracing::warn!(error, "a dropped file cannot be taken in now; it is tried again");
                        }
                        timers.insert((now + pause, place.clone()));
                    }
                    Decision::Reject => {
                        machine.on_gone(&key);
                        let (store, place) = (Arc::clone(&store), place.clone());
                        let rejected = tokio::task::spawn_blocking(move || {
                            reject(&store, place.as_ref(), &dropped, config);
                        });
                        if let Err(error) = rejected.await {
                            tracing::error!(error = %error, "a dropped file could not be rejected");
                        }
                    }
                }
            }
        }
        if Instant::now() >= next_sweep {
            next_sweep = Instant::now() + SWEEP_EVERY;
            let store = Arc::clone(&store);
            let swept = tokio::task::spawn_blocking(move || {
                for place in kept_places(&store) {
                    sweep(&store, place.as_ref(), config.retention);
                }
            });
            if let Err(error) = swept.await {
                tracing::error!(error = %error, "drop folders could not be swept");
            }
        }
    }
}

fn open(store: &SessionStore, place: Option<&SessionId>) -> Option<DropFolder> {
    store.drop_folder(place).unwrap_or_else(|error| {
        tracing::warn!(error = %error, "a drop folder cannot be used");
        None
    })
}

/// Takes in what can be taken in.
fn look(store: &SessionStore, place: Option<&SessionId>, config: Config) -> Left {
    let Some(folder) = open(store, place) else { return Left::new() };
    let listed = folder.list().unwrap_or_else(|error| {
        tracing::warn!(file.path = %folder.path().display(), error = %error, "a drop folder cannot be read");
        Vec::new()
    });
    let mut left = Left::new();
    for dropped in listed {
        match store.take_in(&folder, &dropped, config.max_missions, clock::wall()) {
            Ok(intake) => {
                for (session, mission) in &intake.added {
                    tracing::info!(
                        session.id = %session, mission.id = %mission, file.path = %intake.moved_to.display(),
                        "mission taken in from a dropped file"
                    );
                }
                if !intake.added.is_empty() {
                    for (session, mission) in &intake.known {
                        tracing::warn!(
                            session.id = %session, mission.id = %mission, file.path = %intake.moved_to.display(),
                            "a mission of a dropped file was left out: its session has the id already"
                        );
                    }
                }
                if intake.is_duplicate {
                    tracing::warn!(
                        file.path = %intake.moved_to.display(),
                        "a dropped file holds only missions that its session has already; nothing was added"
                    );
                }
            }
            Err(error) => left.push((dropped, error)),
        }
    }
    left
}

fn obstacle(error: &IntakeError) -> Obstacle {
    match error {
        _ if error.is_final() => Obstacle::Final,
        IntakeError::Content { .. } | IntakeError::Changed { .. } => Obstacle::Unfinished,
        IntakeError::Form { .. } => Obstacle::Final,
        IntakeError::Session { .. } | IntakeError::Io { .. } => Obstacle::Elsewhere,
    }
}

/// Tries once more, and rejects with what is wrong this time.
fn reject(store: &SessionStore, place: Option<&SessionId>, dropped: &Dropped, config: Config) {
    let Some(folder) = open(store, place) else { return };
    match store.take_in(&folder, dropped, config.max_missions, clock::wall()) {
        Ok(_just_in_time) => {}
        Err(error) => match folder.reject(dropped, &error) {
            Ok(moved_to) => tracing::warn!(
                file.path = %moved_to.display(), error = with_causes(&error),
                "a dropped file was rejected; the reason lies beside it"
            ),
            Err(again) => tracing::warn!(error = with_causes(&again), "a dropped file could not be moved"),
        },
    }
}

/// Every drop folder that may hold accepted files.
fn kept_places(store: &SessionStore) -> Vec<Place> {
    let entries = std::fs::read_dir(store.sessions_dir()).into_iter().flatten().flatten();
    let sessions = entries.filter_map(|entry| SessionId::new(entry.file_name().to_str()?).ok());
    let with_accepted = sessions.filter(|session| store.inbox_dir(session).join("accepted").is_dir());
    std::iter::once(None).chain(with_accepted.map(Some)).collect()
}

fn sweep(store: &SessionStore, place: Option<&SessionId>, retention: Duration) {
    let Some(folder) = open(store, place) else { return };
    match folder.sweep_accepted(retention, clock::wall()) {
        Ok(0) => {}
        Ok(count) => {
            tracing::info!(file.path = %folder.path().display(), count, "old files removed from accepted/");
        }
        Err(error) => {
            tracing::warn!(file.path = %folder.path().display(), error = %error, "accepted/ cannot be swept");
        }
    }
}
