//! Command: `executor`: run missions on this host, and say what could be run.

mod doctor;
mod settings;

use crate::cli::duration;
use crate::cli::exit::{Code, Ended};
use crate::cli::registry_url::RegistryUrl;
use crate::domain::id::ExecutorId;
use crate::domain::nearest::nearest;
use crate::executor::agent_runtime::AgentRuntime;
use crate::executor::config::{Config, OnShutdown};
use crate::executor::daemon::{self, DaemonError};
use crate::executor::mission_order::Offer;
use crate::executor::provision::orchestrator::Orchestrator;
use crate::executor::provision::port_lock::make_quiet_directory;
use crate::executor::provision::provider::Request;
use crate::executor::run::Limits;
use crate::runtime::shutdown::{self, Shutdown};
use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Agents that are tried in this order when none is named.
const PREFERRED: [&str; 3] = ["claude-code", "codex", "aider"];

/// The port of the Node program that this one stands in for.
const DEFAULT_PORT: u16 = 7338;

/// Arguments of `executor`.
#[derive(Debug, Clone, Args)]
pub struct ExecutorArguments {
    /// What to do instead of running missions
    #[command(subcommand)]
    command: Option<ExecutorCommand>,
    /// Which registry to register with.
    #[command(flatten)]
    registry: RegistryUrl,
    /// Listen on this address for the registry; port 0 takes any free one
    #[arg(long, env = "AIWG_RS_EXECUTOR_BIND", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_name = "ADDRESS")]
    bind: IpAddr,
    /// Listen on this port
    #[arg(long, env = "AIWG_RS_EXECUTOR_PORT", default_value_t = DEFAULT_PORT, value_name = "PORT")]
    port: u16,
    /// Tell the registry this address instead of the bound one
    #[arg(long, env = "AIWG_RS_EXECUTOR_ADVERTISE", value_name = "URL")]
    advertise: Option<String>,
    /// Use this id instead of the one kept in the state directory
    #[arg(long, env = "AIWG_RS_EXECUTOR_ID", value_name = "UUID")]
    executor_id: Option<ExecutorId>,
    /// Name for people; default: aiwg-rs and the host's name
    #[arg(long, env = "AIWG_RS_EXECUTOR_NAME")]
    name: Option<String>,
    /// The project that missions are about
    #[arg(long, env = "AIWG_RS_WORKSPACE", default_value = ".", value_name = "DIR")]
    workspace: PathBuf,
    /// Where missions and logs are kept; default: .aiwg/aiwg-rs/executor in the workspace
    #[arg(long, env = "AIWG_RS_EXECUTOR_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Settings; default: .aiwg/aiwg-rs/executor.toml in the workspace, if it is there
    #[arg(long, env = "AIWG_RS_EXECUTOR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Run at most so many missions at once; default: 4
    #[arg(long, env = "AIWG_RS_MAX_CONCURRENCY", value_name = "N")]
    max_concurrency: Option<usize>,
    /// Let at most so many more wait; beyond it a dispatch is answered with 503; default: twice the concurrency
    #[arg(long, env = "AIWG_RS_MAX_WAITING", value_name = "N")]
    max_waiting: Option<usize>,
    /// The agent of missions that name none; default: the first of claude-code, codex, aider that is installed
    #[arg(long, env = "AIWG_RS_RUNTIME", value_name = "NAME")]
    runtime: Option<String>,
    /// The resources of missions that ask for none, such as git-worktree,port-range
    #[arg(long, env = "AIWG_RS_DEFAULT_RESOURCES", value_name = "KINDS")]
    default_resources: Option<String>,
    /// End a mission that takes longer, such as 2h
    #[arg(long, env = "AIWG_RS_TIMEOUT", value_parser = duration::parse, value_name = "DURATION")]
    timeout: Option<Duration>,
    /// End a mission that says nothing meaningful for so long, such as 15m
    #[arg(long, env = "AIWG_RS_STALL", value_parser = duration::parse, value_name = "DURATION")]
    stall: Option<Duration>,
    /// Remove nothing that can hold work
    #[arg(long, env = "AIWG_RS_KEEP_EVERYTHING", value_parser = FalseyValueParser::new())]
    keep_everything: bool,
    /// At the end wait for running missions instead of freezing them for the next start
    #[arg(long, env = "AIWG_RS_DRAIN", value_parser = FalseyValueParser::new())]
    drain: bool,
}

/// Subcommands of `executor`.
#[derive(Debug, Clone, Subcommand)]
enum ExecutorCommand {
    /// Say which agents are installed and whether the workspace can be used
    Doctor,
}

/// `local-executor serve`.
#[derive(Debug, Clone, Subcommand)]
pub enum LocalExecutor {
    /// Run missions on this host
    Serve(Box<ExecutorArguments>),
}

/// Carries out `executor`.
///
/// # Errors
/// Whatever stopped it.
pub async fn run(arguments: ExecutorArguments) -> anyhow::Result<Code> {
    let (config, executor) = prepare(&arguments)?;
    if matches!(arguments.command, Some(ExecutorCommand::Doctor)) {
        return doctor::run(&arguments, &config).await;
    }
    let listener = tokio::net::TcpListener::bind(config.bind).await.map_err(|error| {
        Ended::new(Code::Failed, format!("failed to listen on {}", config.bind))
            .because(error)
            .hint("choose another --port, or 0 for any free one")
    })?;
    let shutdown = Shutdown::new();
    shutdown::listen(&shutdown)?;
    daemon::run(listener, config, executor, shutdown).await.map_err(ended)?;
    Ok(Code::Done)
}

/// Turns a failure of the daemon into an exit code.
pub fn ended(error: DaemonError) -> Ended {
    let code = match &error {
        DaemonError::Locked(_) | DaemonError::Store(_) | DaemonError::Identity { .. } => Code::State,
        DaemonError::Serve(_) | DaemonError::Http(_) => Code::Failed,
    };
    Ended::new(code, "failed to run the executor").because(error)
}

impl ExecutorArguments {
    /// Returns the arguments of `aiwg-rs executor` without any, for programs that run an executor beside other things.
    pub fn for_workspace(workspace: PathBuf, serve_url: String) -> Self {
        Self {
            command: None,
            registry: RegistryUrl::new(serve_url),
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            advertise: None,
            executor_id: None,
            name: None,
            workspace,
            state_dir: None,
            config: None,
            max_concurrency: None,
            max_waiting: None,
            runtime: None,
            default_resources: None,
            timeout: None,
            stall: None,
            keep_everything: false,
            drain: false,
        }
    }
}

impl ExecutorArguments {
    /// Lays what another command was told over these.
    pub fn adjust(
        &mut self,
        runtime: Option<String>,
        resources: Option<String>,
        concurrency: Option<usize>,
        drain: bool,
    ) {
        self.runtime = runtime.or(self.runtime.take());
        self.default_resources = resources.or(self.default_resources.take());
        self.max_concurrency = concurrency.or(self.max_concurrency);
        self.drain |= drain;
    }

    /// Keeps missions and logs there, if anywhere else than by default.
    pub fn keep_state_in(&mut self, directory: Option<PathBuf>) {
        self.state_dir = directory.or(self.state_dir.take());
    }

    /// Says whether resources are named, even if none.
    pub fn names_resources(&self) -> bool {
        self.default_resources.is_some()
    }
}

/// Reads the settings and puts flags over them.
///
/// # Errors
/// A setting is wrong, or a directory cannot be used.
pub fn prepare(arguments: &ExecutorArguments) -> anyhow::Result<(Config, ExecutorId)> {
    let workspace = arguments.workspace.canonicalize().map_err(|error| {
        Ended::new(Code::Usage, format!("--workspace {} cannot be used", arguments.workspace.display()))
            .because(error)
    })?;
    let home = workspace.join(".aiwg/aiwg-rs");
    let settings = settings::read(arguments.config.as_deref(), &home.join("executor.toml"))?;
    let state_directory = if let Some(directory) = &arguments.state_dir {
        directory.clone()
    } else {
        make_quiet_directory(&home).map_err(|error| {
            Ended::new(Code::State, format!("{} cannot be used", home.display())).because(error)
        })?;
        home.join("executor")
    };
    let executor = daemon::identity(&state_directory, arguments.executor_id.clone()).map_err(ended)?;
    let length = |flag: Option<Duration>, text: Option<&String>, key: &str| match (flag, text) {
        (Some(flag), _) => Ok(Some(flag)),
        (None, Some(text)) => duration::parse(text).map(Some).map_err(|error| {
            Ended::new(Code::Settings, format!("the setting {key} = {text:?} is wrong")).because(error)
        }),
        (None, None) => Ok(None),
    };
    let known = settings.runtimes()?;
    let in_file = arguments.config.clone().unwrap_or_else(|| home.join("executor.toml"));
    // Who named a thing decides what is wrong when there is no such thing.
    let wrong = |by_option: bool, option: &str| {
        if by_option {
            Ended::new(Code::Usage, format!("failed to understand --{option}"))
        } else {
            Ended::new(Code::Settings, format!("the settings in {} are wrong", in_file.display()))
        }
    };
    if let Some(name) = arguments.runtime.as_ref().or(settings.runtime.as_ref()) {
        let names: Vec<&str> = known.iter().map(|runtime| runtime.name.as_str()).collect();
        if !names.contains(&name.as_str()) {
            let meant = nearest(name, names.iter().copied());
            let meant = meant.map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
            let problem = format!("there is no runtime {name:?}; there are {}{meant}", names.join(", "));
            let hint = "a runtime of your own is a section [runtimes.\"custom:NAME\"] in executor.toml";
            return Err(wrong(arguments.runtime.is_some(), "runtime").because(problem).hint(hint).into());
        }
    }
    let runtimes: Vec<AgentRuntime> = known.into_iter().filter(doctor::is_installed).collect();
    let installed = |name: &&str| runtimes.iter().any(|runtime| runtime.name == **name);
    let default_runtime = arguments.runtime.clone().or(settings.runtime.clone());
    let default_runtime = default_runtime.unwrap_or_else(|| {
        PREFERRED.iter().find(|name| installed(name)).unwrap_or(&PREFERRED[0]).to_string()
    });
    let default_resources: Vec<Request> = match &arguments.default_resources {
        Some(kinds) => {
            kinds.split(',').map(str::trim).filter(|kind| !kind.is_empty()).map(Request::of).collect()
        }
        None => settings.default_resources.clone().unwrap_or_default().into_iter().map(Request::of).collect(),
    };
    Orchestrator::with_built_in()
        .check(&default_resources)
        .map_err(|error| wrong(arguments.default_resources.is_some(), "default-resources").because(error))?;
    let max_concurrency = arguments.max_concurrency.or(settings.max_concurrency).unwrap_or(4).max(1);
    let config = Config {
        name: arguments.name.clone().or(settings.name.clone()).unwrap_or_else(default_name),
        serve_url: Some(arguments.registry.resolve()?),
        advertise: arguments.advertise.clone(),
        bind: SocketAddr::new(arguments.bind, arguments.port),
        state_directory,
        workspace,
        runner_program: std::env::current_exe()?,
        max_concurrency,
        max_waiting: arguments.max_waiting.or(settings.max_waiting).unwrap_or(max_concurrency * 2),
        offer: Offer {
            runtimes,
            default_runtime,
            default_resources,
            setup: settings.setup.clone(),
            limits: Limits {
                timeout: length(arguments.timeout, settings.timeout.as_ref(), "timeout")?,
                stall: length(arguments.stall, settings.stall.as_ref(), "stall")?,
                iterations: settings.max_iterations.unwrap_or(1).max(1),
                tokens: None,
                time_budget: None,
                answer_within: length(None, settings.answer_within.as_ref(), "answer_within")?
                    .or(Some(Duration::from_secs(24 * 60 * 60))),
            },
        },
        grace: length(None, settings.grace.as_ref(), "grace")?.unwrap_or(Duration::from_secs(10)),
        log_limit_bytes: settings.log_limit_bytes.unwrap_or(64 * 1024 * 1024).max(64 * 1024),
        keep_everything: arguments.keep_everything || settings.keep_everything,
        on_shutdown: if arguments.drain { OnShutdown::Drain } else { OnShutdown::Suspend },
        retention: length(None, settings.retention.as_ref(), "retention")?
            .unwrap_or(Duration::from_secs(14 * 24 * 60 * 60)),
        isolation: "host".to_owned(),
    };
    Ok((config, executor))
}

fn default_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let name = if host.is_empty() { "aiwg-rs".to_owned() } else { format!("aiwg-rs on {host}") };
    name.chars().take(128).collect()
}
