//! Command: says which sessions of a folder change: `cargo run --example watch_sessions -- DIR`.

use aiwg_rs::runtime::shutdown::{self, Shutdown};
use aiwg_rs::runtime::tasks::Tasks;
use aiwg_rs::watcher::{self, Config, Looked, Notice};
use aiwg_rs::{cli::output, disk::fsync::FsyncPolicy, domain::id::SessionId, session::store::SessionStore};
use std::{path::PathBuf, time::Duration};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let watch_dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| ".".to_owned()));
    let shutdown = Shutdown::new();
    shutdown::listen(&shutdown)?;
    let (notices, mut inbox) = mpsc::channel(64);
    let (looked, looks) = mpsc::channel(64);
    let tasks = Tasks::new(shutdown.clone());
    let config = Config { watch_dir: watch_dir.clone(), ..Config::default() };
    tasks.spawn("watcher", watcher::worker::run(config, notices, looks, shutdown.clone()));
    let store = SessionStore::new(watch_dir, FsyncPolicy::Never);
    while let Some(notice) = inbox.recv().await {
        let sessions: Vec<SessionId> = match notice {
            Notice::Changed { session, .. } => vec![session],
            Notice::Swept { sessions } => sessions.into_iter().map(|(session, _)| session).collect(),
            Notice::Inbox { place } => {
                output::line(&format!("{place:?}: something was dropped"))?;
                continue;
            }
            Notice::Mode { native, .. } => {
                output::line(if native { "told by the system" } else { "polling" })?;
                continue;
            }
        };
        for session in sessions {
            // A notice carries no data: what is so now is in the file.
            output::line(&match store.read(&session) {
                Ok(reading) => format!("{session}: {} missions", reading.document.missions().len()),
                Err(error) => format!("{session}: {error}"),
            })?;
            looked.send(Looked { session, unreadable: None }).await?;
        }
    }
    tasks.join(Duration::from_secs(5)).await;
    Ok(())
}
