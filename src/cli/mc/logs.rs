//! Command: `mc logs`: what a mission's agent said.
//!
//! The registry knows who runs the mission and where that executor is reached; the log itself lies with the executor.

use super::folder::{self, Folder};
use super::overview::Looker;
use super::target::Target;
use crate::cli::exit::{Code, Ended};
use crate::cli::output;
use crate::cli::registry_url::RegistryUrl;
use crate::net::http::{Config, Http};
use crate::protocol::executor_v1::{ExecutorStatus, MissionStatus};
use crate::protocol::problem::Problem;
use crate::protocol::route;
use crate::session::waiting::Bridge;
use clap::Args;
use serde::de::DeserializeOwned;
use std::io::IsTerminal as _;
use std::time::Duration;

/// How long a followed log may be silent: as long as an agent may think.
const LONGEST_FOLLOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A line that is longer is cut, in bytes.
const LONGEST_LINE: usize = 64 * 1024;

/// Show what a mission's agent said.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The mission, as ID or SESSION/ID
    mission: String,
    /// Go on until the mission ends
    #[arg(long, short)]
    follow: bool,
    /// Leave colours and cursor movements out; default where standard output is no terminal
    #[arg(long, conflicts_with = "raw")]
    plain: bool,
    /// Keep colours and cursor movements
    #[arg(long)]
    raw: bool,
    /// Which registry to ask. Without one, that of the folder's bridge.
    #[command(flatten)]
    registry: RegistryUrl,
    /// Which folder.
    #[command(flatten)]
    folder: Folder,
}

/// Returns the mission's id on the wire and the registry of the folder's bridge, as far as the folder tells.
fn known(folder: &Folder, name: &str) -> (String, Option<String>) {
    let mission = Target::find(folder, &folder.store(), name).map(|target| target.mission);
    let registry = match Looker::new(folder).bridge() {
        Bridge::Seen(status) | Bridge::Killed(status) => Some(status.serve_url),
        Bridge::Never | Bridge::Unreadable(_) => None,
    };
    (mission.unwrap_or_else(|_absent| name.to_owned()), registry)
}

/// Carries out the verb.
///
/// # Errors
/// The mission is unknown, or nobody who knows it can be reached.
pub async fn run(arguments: Arguments) -> anyhow::Result<Code> {
    let http = Http::new(Config { request_timeout: LONGEST_FOLLOW, ..Config::default() })?;
    let folder = arguments.folder.clone();
    let (mission, registry) = folder::blocking(move || Ok(known(&folder, &arguments.mission))).await?;
    let mission = mission.as_str();
    let registry = arguments.registry.resolve_or(registry)?;
    let status: MissionStatus = ask(&http, &registry, &route::mission(mission)).await?;
    let executor = status.executor_id.ok_or_else(|| {
        Ended::new(Code::Failed, format!("mission {mission} has no log yet")).hint("no executor has taken it")
    })?;
    let executor: ExecutorStatus = ask(&http, &registry, &route::executor(executor.as_str())).await?;
    let endpoints = executor.transport_endpoints.ok_or_else(|| {
        Ended::new(Code::Unreachable, format!("executor {} says nowhere to be reached", executor.executor_id))
    })?;
    let plain = arguments.plain || !(arguments.raw || std::io::stdout().is_terminal());
    let flag = |set: bool| if set { "1" } else { "0" };
    let path =
        format!("{}/log?follow={}&plain={}", route::mission(mission), flag(arguments.follow), flag(plain));
    let url = route::join(&endpoints.rest, &path);
    let unreachable = |error: reqwest::Error| {
        Ended::new(Code::Unreachable, format!("failed to read the log from {}", endpoints.rest))
            .because(error.without_url())
    };
    let mut answer = http.request(reqwest::Method::GET, &url).send().await.map_err(unreachable)?;
    if !answer.status().is_success() {
        let status = answer.status().as_u16();
        let problem = Problem::read(status, &answer.bytes().await.map_err(unreachable)?);
        let mut ended = Ended::new(
            Code::Failed,
            format!("executor {} refuses: {}", executor.executor_id, problem.detail),
        );
        if status == 404 {
            ended = ended.hint("executors of other makes keep no log that could be asked for");
        }
        return Err(ended.into());
    }
    let mut lines = arguments.folder.json.then(Lines::default);
    while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
        match &mut lines {
            Some(lines) => lines.print(&chunk)?,
            None => output::raw(&chunk)?,
        }
    }
    lines.map_or(Ok(()), Lines::finish)?;
    Ok(Code::Done)
}

/// Cuts what comes in pieces into lines, each an object.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    fn print(&mut self, chunk: &[u8]) -> std::io::Result<()> {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.begun.len() > LONGEST_LINE {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> std::io::Result<()> {
        if self.begun.is_empty() { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let text = String::from_utf8_lossy(&self.begun);
        output::json(&serde_json::json!({"line": text.trim_end_matches(['\r', '\n'])}))?;
        self.begun.clear();
        Ok(())
    }
}

async fn ask<T: DeserializeOwned>(http: &Http, base: &str, path: &str) -> anyhow::Result<T> {
    let url = route::join(base, path);
    let request = http.request(reqwest::Method::GET, &url).timeout(Duration::from_secs(10));
    let answer = http.send(request).await.map_err(|failure| {
        Ended::new(Code::Unreachable, format!("failed to ask the registry at {base}"))
            .because(failure)
            .hint("start it with `aiwg-rs serve` or `aiwg-rs up`, or name it with --serve-url")
    })?;
    if !answer.is_success() {
        let ended = Ended::new(
            if answer.status == 404 { Code::Usage } else { Code::Failed },
            format!("the registry at {base} refuses: {}", answer.message()),
        );
        let hint =
            "aiwg-rs mc status --all shows the missions of a folder; --serve-url names another registry";
        return Err(ended.hint(hint).into());
    }
    Ok(serde_json::from_slice(&answer.body).map_err(|error| {
        Ended::new(Code::Failed, format!("the answer of {base} cannot be read")).because(error)
    })?)
}
