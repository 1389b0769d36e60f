//! Command: `aiwg-rs up`: registry, bridge and executor in one process, for the repository one stands in.
//!
//! They end in the order of the flow: first the executor, whose missions are frozen and reported, then the bridge, which
//! writes that down, then the registry.

use crate::cli::executor::{self, ExecutorArguments};
use crate::cli::exit::{Code, Ended};
use crate::cli::parts::{Whole, start_bridge, start_registry};
use crate::cli::project::DEFAULT_WATCH_DIR;
use crate::cli::serve::{address, default_state_dir};
use crate::executor::daemon;
use crate::executor::provision::git::find_repository;
use crate::executor::provision::provider::Request;
use crate::registry::{self, identity_path};
use crate::runtime::shutdown::{self, Cause, Shutdown};
use crate::runtime::tasks::Tasks;
use anyhow::Context as _;
use clap::Args;
use clap::builder::FalseyValueParser;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpListener;

/// How long each part may take to end; the executor may wait for missions when it drains.
const ENDING: Duration = Duration::from_secs(60);

/// Arguments of `up`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Let the registry listen on this address; port 0 takes a free one and says which
    #[arg(long, env = "AIWG_RS_BIND", default_value = "127.0.0.1:7337", value_parser = address, value_name = "HOST:PORT")]
    bind: String,
    /// The folder with sessions/ and inbox/; default: .aiwg/ralph-external/mc in the repository
    #[arg(long, env = "AIWG_RS_WATCH_DIR", value_name = "DIR")]
    watch_dir: Option<PathBuf>,
    /// Keep all state here; default: as `serve` and `executor` do
    #[arg(long, env = "AIWG_RS_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The agent of missions that name none; default: the first of claude-code, codex, aider that is installed
    #[arg(long, env = "AIWG_RS_RUNTIME", value_name = "NAME")]
    runtime: Option<String>,
    /// The resources of missions that ask for none; default: git-worktree in a repository
    #[arg(long, env = "AIWG_RS_DEFAULT_RESOURCES", value_name = "KINDS")]
    default_resources: Option<String>,
    /// Run at most so many missions at once; default: 4
    #[arg(long, env = "AIWG_RS_MAX_CONCURRENCY", value_name = "N")]
    max_concurrency: Option<usize>,
    /// At the end wait for running missions instead of freezing them for the next start
    #[arg(long, env = "AIWG_RS_DRAIN", value_parser = FalseyValueParser::new())]
    drain: bool,
}

/// Runs all three until a signal comes.
///
/// # Errors
/// One of them cannot begin.
pub async fn run(arguments: Arguments) -> anyhow::Result<Code> {
    let here = std::env::current_dir().context("failed to find the current directory")?;
    let repository = find_repository(&here).await.ok().map(|repository| repository.top_level);
    let project = repository.clone().unwrap_or(here);
    let watch_dir = arguments.watch_dir.clone().unwrap_or_else(|| project.join(DEFAULT_WATCH_DIR));
    for folder in ["sessions", "inbox"] {
        let folder = watch_dir.join(folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    }
    let listener = TcpListener::bind(&arguments.bind).await.map_err(|error| {
        Ended::new(Code::Failed, format!("failed to listen on {}", arguments.bind))
            .because(error)
            .hint("another registry may run there; choose another address with --bind")
    })?;
    let url = format!("http://{}", listener.local_addr()?);

    let mut wanted = ExecutorArguments::for_workspace(project.clone(), url.clone());
    wanted.adjust(arguments.runtime, arguments.default_resources, arguments.max_concurrency, arguments.drain);
    wanted.keep_state_in(arguments.state_dir.as_ref().map(|directory| directory.join("executor")));
    let (mut executor_config, id) = executor::prepare(&wanted)?;
    if repository.is_some() && executor_config.offer.default_resources.is_empty() && !wanted.names_resources()
    {
        executor_config.offer.default_resources = vec![Request::of("git-worktree")];
    }
    let executor_listener =
        TcpListener::bind(executor_config.bind).await.context("failed to listen for the registry")?;

    let whole = Whole::default();
    let asked = &whole.end;
    shutdown::listen(asked)?;
    // One switch for each, so that they end one after the other; whoever breaks ends all.
    let (executor_end, bridge_end, registry_end) = (Shutdown::new(), Shutdown::new(), Shutdown::new());
    let registry_tasks = Tasks::new(asked.clone());
    let bridge_tasks = Tasks::new(asked.clone());
    let executor_tasks = Tasks::new(asked.clone());
    let registry_config = registry_config(&project, arguments.state_dir.as_deref())?;
    start_registry(listener, registry_config, &registry_tasks, &registry_end, &whole)?;
    start_bridge(&watch_dir, &url, &bridge_tasks, &bridge_end, &whole);
    let (of, end) = (whole.clone(), executor_end.clone());
    executor_tasks.spawn("executor", async move {
        let ended = Box::pin(daemon::run(executor_listener, executor_config, id, end)).await;
        of.over("executor", ended.map_err(|error| executor::ended(error).into()));
    });
    tracing::info!(http.url = url, file.path = %watch_dir.display(), "up: drop missions into the inbox, or use `aiwg-rs mc dispatch`");

    asked.started().await;
    let by_signal = asked.cause() == Some(Cause::Signal);
    let mut in_order = true;
    let patience = if arguments.drain { Duration::from_secs(24 * 60 * 60) } else { ENDING };
    for (end, tasks, patience) in [
        (executor_end, executor_tasks, patience),
        (bridge_end, bridge_tasks, ENDING),
        (registry_end, registry_tasks, ENDING),
    ] {
        end.start(Cause::Finished);
        in_order &= tasks.join(patience).await;
    }
    match whole.broken() {
        Some(error) => Err(error),
        None => Ok(if by_signal && in_order { Code::Done } else { Code::Failed }),
    }
}

fn registry_config(project: &Path, state_dir: Option<&Path>) -> anyhow::Result<registry::Config> {
    let home = std::env::home_dir();
    let path = identity_path::locate(None, project, home.as_deref())
        .map_err(|error| Ended::new(Code::State, "failed to find the executors' tokens").because(error))?;
    let (state, identities) = match state_dir {
        Some(directory) => (directory.to_owned(), directory.join("executor-identities.json")),
        None => (default_state_dir(project, home.as_deref()), path),
    };
    Ok(registry::Config {
        state_dir: Some(state),
        identity_file: Some(identities),
        ..registry::Config::default()
    })
}
