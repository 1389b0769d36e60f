//! Command: prints what an executor does: `cargo run --example follow_events -- http://127.0.0.1:7337 EXECUTOR_ID`.
//!
//! The stream is followed as an observer. A lost line is opened again, and the registry says first what was missed.

use aiwg_rs::cli::output;
use aiwg_rs::domain::id::ExecutorId;
use aiwg_rs::events::{self, Config, messages::Report};
use aiwg_rs::net::http::{self, Http};
use aiwg_rs::runtime::shutdown::{self, Shutdown};
use aiwg_rs::runtime::tasks::Tasks;
use anyhow::Context as _;
use std::time::Duration;
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let serve_url = arguments.next().context("name the registry")?;
    let executor = ExecutorId::new(arguments.next().context("name the executor")?)?;
    let shutdown = Shutdown::new();
    shutdown::listen(&shutdown)?;
    // Nothing is followed but the one executor; the commands would add missions of others.
    let (_commands, commanded) = mpsc::channel(1);
    let (reports, mut reported) = mpsc::channel(64);
    let config = Config { serve_url, subscribe: vec![executor], ..Config::default() };
    let tasks = Tasks::new(shutdown.clone());
    let http = Http::new(http::Config::default())?;
    tasks.spawn("events", events::worker::run(config, http, commanded, reports, shutdown.clone()));
    while let Some(report) = reported.recv().await {
        match report {
            Report::Event { frame } => output::line(&frame.raw)?,
            Report::Executor { connected: true, .. } => output::line("connected")?,
            Report::Executor { why, .. } => output::line(&format!("away: {}", why.unwrap_or_default()))?,
            Report::Snapshot { .. } | Report::NotFound { .. } | Report::Registry { .. } => {}
        }
    }
    tasks.join(Duration::from_secs(5)).await;
    Ok(())
}
