//! Command: `mc logs`: what a mission's agent said.
//!
//! The registry knows who runs the mission and where that executor is reached; the log itself lies with the executor.

use crate::cli::exit::{Code, Ended};
use crate::cli::output;
use crate::domain::id::MissionId;
use crate::net::http::{Config, Http};
use crate::protocol::executor_v1::{ExecutorStatus, MissionStatus};
use crate::protocol::problem::Problem;
use crate::protocol::route;
use clap::Args;
use serde::de::DeserializeOwned;
use std::io::IsTerminal as _;
use std::time::Duration;

/// How long a followed log may be silent: as long as an agent may think.
const LONGEST_FOLLOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Show what a mission's agent said.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The mission's id
    mission: MissionId,
    /// Go on until the mission ends
    #[arg(long, short)]
    follow: bool,
    /// Leave colours and cursor movements out; default where standard output is no terminal
    #[arg(long, conflicts_with = "raw")]
    plain: bool,
    /// Keep colours and cursor movements
    #[arg(long)]
    raw: bool,
    /// The registry to ask
    #[arg(
        long,
        visible_alias = "aiwg-serve",
        env = "AIWG_SERVE_ENDPOINT",
        default_value = "http://127.0.0.1:7337",
        value_name = "URL"
    )]
    serve_url: String,
}

/// Carries out the verb.
///
/// # Errors
/// The mission is unknown, or nobody who knows it can be reached.
pub async fn run(arguments: Arguments) -> anyhow::Result<Code> {
    let http = Http::new(Config { request_timeout: LONGEST_FOLLOW, ..Config::default() })?;
    let mission = arguments.mission.as_str();
    let status: MissionStatus = ask(&http, &arguments.serve_url, &route::mission(mission)).await?;
    let executor = status.executor_id.ok_or_else(|| {
        Ended::new(Code::Failed, format!("mission {mission} has no log yet")).hint("no executor has taken it")
    })?;
    let executor: ExecutorStatus =
        ask(&http, &arguments.serve_url, &route::executor(executor.as_str())).await?;
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
    while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
        output::raw(&chunk)?;
    }
    Ok(Code::Done)
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
        return Err(Ended::new(Code::Failed, format!("the registry refuses: {}", answer.message())).into());
    }
    Ok(serde_json::from_slice(&answer.body).map_err(|error| {
        Ended::new(Code::Failed, format!("the answer of {base} cannot be read")).because(error)
    })?)
}
