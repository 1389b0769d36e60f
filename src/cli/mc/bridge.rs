//! Command: `mc bridge`.

use crate::bridge::{self, BridgeError, Config, Ending};
use crate::cli::duration;
use crate::cli::exit::{Code, Ended};
use crate::cli::mc::folder::Folder;
use crate::cli::output;
use crate::cli::registry_url::RegistryUrl;
use crate::disk::fsync::FsyncPolicy;
use crate::disk::lock::LockError;
use crate::dispatcher::payload::Payload;
use crate::dispatcher::{self, OnNoExecutor, OnUnreachable};
use crate::domain::id::ExecutorId;
use crate::domain::retry::RetryPolicy;
use crate::domain::secret::Token;
use crate::dry_run::{self, Shown};
use crate::events;
use crate::intake;
use crate::net::http;
use crate::protocol::executor_v1::{DEFAULT_COMPLETION, PayloadForm};
use crate::runtime::shutdown::{self, Cause, Shutdown};
use crate::session::waiting::one_line;
use crate::watcher::{self, WatchMode};
use anyhow::Context as _;
use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Carry missions from the folder to a registry and their results back.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
pub struct Arguments {
    /// The folder with sessions/ and inbox/; it is waited for when it does not exist yet.
    #[command(flatten)]
    folder: Folder,
    /// Which registry.
    #[command(flatten)]
    registry: RegistryUrl,
    /// Print what would be sent, and send and write nothing
    #[arg(long, env = "AIWG_RS_DRY_RUN", value_parser = FalseyValueParser::new())]
    dry_run: bool,
    /// End when everything that is queued now has been answered for
    #[arg(long, env = "AIWG_RS_ONCE", value_parser = FalseyValueParser::new())]
    once: bool,

    /// Send the strict form, or the one of the Node bridge
    #[arg(long, env = "AIWG_RS_PAYLOAD", default_value = "v1", help_heading = "Dispatch")]
    payload: Form,
    /// Send this where a mission names no completion
    #[arg(long, env = "AIWG_RS_DEFAULT_COMPLETION", default_value = DEFAULT_COMPLETION, value_name = "TEXT", help_heading = "Dispatch")]
    default_completion: String,
    /// Have at most this many requests open
    #[arg(long, env = "AIWG_RS_MAX_INFLIGHT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "N", help_heading = "Dispatch")]
    max_inflight: u16,
    /// Give a mission up after this many refusals for now
    #[arg(long, env = "AIWG_RS_MAX_ATTEMPTS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..), value_name = "N", help_heading = "Dispatch")]
    max_attempts: u32,
    /// Wait this long before the second attempt; it doubles up to 30 s
    #[arg(
        long,
        env = "AIWG_RS_RETRY_BASE_MS",
        default_value_t = 500,
        value_name = "MS",
        help_heading = "Dispatch"
    )]
    retry_base_ms: u64,
    /// Draw each delay between zero and its length
    #[arg(long, env = "AIWG_RS_RETRY_JITTER", value_parser = FalseyValueParser::new(), help_heading = "Dispatch")]
    retry_jitter: bool,
    /// While no executor takes a mission: fail after the attempts, or hold it
    #[arg(long, env = "AIWG_RS_ON_NO_EXECUTOR", default_value = "fail", help_heading = "Dispatch")]
    on_no_executor: NoExecutor,
    /// While the registry cannot be reached: wait, or count attempts and fail
    #[arg(long, env = "AIWG_RS_ON_UNREACHABLE", default_value = "wait", help_heading = "Dispatch")]
    on_unreachable: Unreachable,
    /// Give one request this long
    #[arg(long, env = "AIWG_RS_REQUEST_TIMEOUT", default_value = "30s", value_parser = duration::parse, value_name = "TIME", help_heading = "Dispatch")]
    request_timeout: Duration,
    /// At the end, give open requests and then the files this long each
    #[arg(long, env = "AIWG_RS_DRAIN_TIMEOUT", default_value = "5s", value_parser = duration::parse, value_name = "TIME", help_heading = "Dispatch")]
    drain_timeout: Duration,
    /// Read the registry's operator token from this file
    #[arg(long, env = "AIWG_RS_OPERATOR_TOKEN_FILE", value_name = "FILE", help_heading = "Dispatch")]
    operator_token_file: Option<PathBuf>,

    /// Follow this executor from the start; may be given more than once
    #[arg(
        long,
        env = "AIWG_RS_SUBSCRIBE",
        value_delimiter = ',',
        value_name = "EXECUTOR_ID",
        help_heading = "Events"
    )]
    subscribe: Vec<ExecutorId>,
    /// Show this executor's token, read from a file, to registries whose observers need one, and to the executor itself
    #[arg(
        long,
        env = "AIWG_RS_EXECUTOR_TOKEN",
        value_delimiter = ',',
        value_name = "EXECUTOR_ID=FILE",
        help_heading = "Events"
    )]
    executor_token: Vec<String>,
    /// Ask about live missions instead of listening to WebSockets
    #[arg(long, env = "AIWG_RS_NO_WS", value_parser = FalseyValueParser::new(), help_heading = "Events")]
    no_ws: bool,

    /// Notice changes by notification, by polling, or by whatever works
    #[arg(long, env = "AIWG_RS_WATCH_MODE", default_value = "auto", help_heading = "Folder")]
    watch_mode: Watch,
    /// While polling, look this often
    #[arg(long, env = "AIWG_RS_POLL_INTERVAL_MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..), value_name = "MS", help_heading = "Folder")]
    poll_interval_ms: u64,
    /// Keep files in inbox/accepted/ for this long
    #[arg(long, env = "AIWG_RS_INBOX_RETENTION", default_value = "7d", value_parser = duration::parse, value_name = "TIME", help_heading = "Folder")]
    inbox_retention: Duration,
    /// Flush every line and file to the disk, once per write cycle, or never
    #[arg(long, env = "AIWG_RS_FSYNC", default_value = "batch", help_heading = "Folder")]
    fsync: Fsync,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    V1,
    Legacy,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NoExecutor {
    Fail,
    Hold,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Unreachable {
    Wait,
    Fail,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Watch {
    Auto,
    Native,
    Poll,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Fsync {
    Always,
    Batch,
    Never,
}

impl Arguments {
    fn config(&self) -> anyhow::Result<Config> {
        let serve_url = self.registry.resolve()?;
        let operator = self.operator_token_file.as_deref().map(read_token).transpose()?;
        let form = match self.payload {
            Form::V1 => PayloadForm::V1,
            Form::Legacy => PayloadForm::Legacy,
        };
        Ok(Config {
            watcher: watcher::Config {
                watch_dir: self.folder.watch_dir.clone(),
                mode: match self.watch_mode {
                    Watch::Auto => WatchMode::Auto,
                    Watch::Native => WatchMode::Native,
                    Watch::Poll => WatchMode::Poll,
                },
                poll_interval: Duration::from_millis(self.poll_interval_ms),
                ..watcher::Config::default()
            },
            dispatcher: dispatcher::Config {
                serve_url: serve_url.clone(),
                max_in_flight: usize::from(self.max_inflight),
                max_attempts: self.max_attempts,
                retry: RetryPolicy {
                    base: Duration::from_millis(self.retry_base_ms),
                    jitter: self.retry_jitter,
                    ..RetryPolicy::DISPATCH
                },
                on_no_executor: match self.on_no_executor {
                    NoExecutor::Fail => OnNoExecutor::Fail,
                    NoExecutor::Hold => OnNoExecutor::Hold,
                },
                on_unreachable: match self.on_unreachable {
                    Unreachable::Wait => OnUnreachable::Wait,
                    Unreachable::Fail => OnUnreachable::Fail,
                },
                drain_timeout: self.drain_timeout,
                ..dispatcher::Config::default()
            },
            payload: Payload {
                form,
                default_completion: self.default_completion.clone(),
                ..Payload::default()
            },
            events: events::Config {
                serve_url,
                subscribe: self.subscribe.clone(),
                tokens: self.executor_tokens()?,
                no_ws: self.no_ws,
                operator: operator.clone(),
            },
            http: http::Config { request_timeout: self.request_timeout, ..http::Config::default() },
            operator,
            fsync: match self.fsync {
                Fsync::Always => FsyncPolicy::Always,
                Fsync::Batch => FsyncPolicy::Batch,
                Fsync::Never => FsyncPolicy::Never,
            },
            write_mode: None,
            intake: intake::Config { retention: self.inbox_retention, ..intake::Config::default() },
            once: self.once,
        })
    }

    fn executor_tokens(&self) -> anyhow::Result<HashMap<ExecutorId, Token>> {
        let mut tokens = HashMap::new();
        for pair in &self.executor_token {
            let (id, file) = pair.split_once('=').ok_or_else(|| {
                Ended::new(Code::Usage, format!("--executor-token {pair:?} has no ="))
                    .hint("write EXECUTOR_ID=FILE; the file holds the token")
            })?;
            let id = ExecutorId::new(id).map_err(|error| {
                Ended::new(Code::Usage, format!("--executor-token {pair:?}")).because(error)
            })?;
            tokens.insert(id, read_token(Path::new(file))?);
        }
        Ok(tokens)
    }
}

fn read_token(file: &Path) -> anyhow::Result<Token> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Ended::new(Code::Settings, format!("failed to read the token in {}", file.display())).because(error)
    })?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        let ended = Ended::new(Code::Settings, format!("{} does not hold one token", file.display()));
        return Err(ended.hint("the file holds the token alone, on one line").into());
    }
    Ok(Token::new(token))
}

/// Runs the bridge until a signal, or to the end with `--once`.
///
/// # Errors
/// What kept it from starting, with the exit code for it.
pub async fn run(arguments: Arguments) -> anyhow::Result<Code> {
    let config = arguments.config()?;
    let shutdown = Shutdown::new();
    shutdown::listen(&shutdown).context("failed to listen for signals")?;
    if arguments.once && !arguments.folder.watch_dir.is_dir() {
        let folder = arguments.folder.watch_dir.display();
        let ended = Ended::new(Code::State, format!("the watched folder {folder} does not exist"));
        let hint =
            "aiwg-rs mc dispatch makes it, or --watch-dir names another; without --once it is waited for";
        return Err(ended.hint(hint).into());
    }
    if arguments.dry_run {
        return dry_run(config, output::is_terminal() && !arguments.folder.json, shutdown).await;
    }
    match bridge::run(config, shutdown).await {
        Ok(Ending::Orderly) => Ok(Code::Done),
        Ok(Ending::Unreachable) => Ok(Code::Unreachable),
        Ok(Ending::Broken) => Ok(Code::Failed),
        Err(error) => Err(explain(error)),
    }
}

async fn dry_run(config: Config, for_terminal: bool, shutdown: Shutdown) -> anyhow::Result<Code> {
    let mut failure = None;
    let mut count = 0_usize;
    let serve_url = config.dispatcher.serve_url.clone();
    dry_run::run(config, shutdown.clone(), |shown| {
        let printed = match (for_terminal, count) {
            (false, _) => output::json(&shown),
            (true, 0) => output::line(&title(&serve_url)).and_then(|()| output::line(&for_people(&shown))),
            (true, _) => output::line(&for_people(&shown)),
        };
        count += 1;
        if let Err(error) = printed {
            failure = Some(error);
            shutdown.start(Cause::Fatal("output"));
        }
    })
    .await;
    if let Some(error) = failure {
        return Err(error.into());
    }
    if let Some(Cause::Panic(_)) = shutdown.cause() {
        return Ok(Code::Failed);
    }
    if for_terminal && count == 0 {
        output::line(&format!("nothing is queued that would be sent to {serve_url}"))?;
    }
    Ok(Code::Done)
}

/// Where everything goes, and the names of the columns.
fn title(serve_url: &str) -> String {
    format!(
        "would be sent to {serve_url}; --json shows the requests whole\n\n{}",
        columns("SESSION", "MISSION", "PRIORITY", "OBJECTIVE")
    )
}

fn columns(session: &str, mission: &str, priority: &str, objective: &str) -> String {
    format!("{session:<20}  {mission:<20}  {priority:<8}  {objective}")
}

/// One line per request: where from, what, and what is special about it.
fn for_people(shown: &Shown) -> String {
    let body: serde_json::Value =
        shown.payload.as_ref().and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    let objective = body.get("objective").and_then(|text| text.as_str()).unwrap_or_default();
    let priority = body.pointer("/metadata/priority").and_then(|text| text.as_str()).unwrap_or("-");
    let first_line: String = one_line(objective).chars().take(60).collect();
    let mut line = columns(shown.session_id.as_str(), shown.mission_id.as_str(), priority, &first_line);
    if let Some(file) = shown.dropped.as_ref() {
        line = format!("{line}\n    still lies at {}", file.display());
    }
    match (&shown.error, shown.uncertain) {
        (Some(error), _) => format!("{line}\n    cannot be sent: {error}"),
        (None, true) => format!("{line}\n    may have been sent before; would be asked about first"),
        (None, false) => line,
    }
}

/// Says what kept a bridge from starting, with the exit code for it.
pub fn explain(error: BridgeError) -> anyhow::Error {
    let message = format!("failed to {error}");
    match error {
        BridgeError::Lock(source) => {
            let ended = Ended::new(Code::State, message);
            let ended = match &source {
                LockError::Held { .. } => {
                    ended.hint("one bridge per folder: end that one, or give this one another --watch-dir")
                }
                LockError::Io { .. } => {
                    ended.hint("the bridge needs to write into the watched folder; --dry-run does not")
                }
            };
            ended.because(source).into()
        }
        BridgeError::Folder { source, .. } => Ended::new(Code::State, message).because(source).into(),
        BridgeError::Http(source) => Ended::new(Code::Settings, message).because(source).into(),
    }
}
