//! Command: `aiwg-rs serve`, the registry.

use crate::cli::duration;
use crate::cli::exit::{Code, Ended};
use crate::registry::identity::IdentityError;
use crate::registry::server::{self, ServeError};
use crate::registry::{Config, identity_path};
use crate::runtime::shutdown::{self, Shutdown};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpListener;

/// Settings of the registry
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Listen on this address; port 0 takes a free one and says which
    #[arg(long, env = "AIWG_RS_BIND", default_value = "127.0.0.1:7337", value_name = "HOST:PORT")]
    pub bind: String,
    /// Keep missions, events and executors in this folder
    ///
    /// Without the flag it is `.aiwg/aiwg-rs` of the project, if that has an `.aiwg`, else `$XDG_STATE_HOME/aiwg-rs`.
    #[arg(long, env = "AIWG_RS_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Keep the executors' tokens in this file
    ///
    /// Other programs share it. Without the flag it is found as they do: `roots.executor_identity` in
    /// `.aiwg/storage.config`, else `~/.config/aiwg/executor-identities.json`.
    #[arg(long, env = "AIWG_EXECUTOR_IDENTITY_STORE", value_name = "FILE")]
    pub identity_store: Option<PathBuf>,
    /// Give an executor so long to answer a dispatch
    #[arg(long, env = "AIWG_RS_FORWARD_TIMEOUT", default_value = "10s", value_parser = duration::parse, value_name = "TIME")]
    pub forward_timeout: Duration,
    /// Give an executor so long to come back before its missions are suspended or failed
    #[arg(long, env = "AIWG_RS_EXECUTOR_GRACE", default_value = "30s", value_parser = duration::parse, value_name = "TIME")]
    pub executor_grace: Duration,
    /// Let one executor hold at most so many missions at a time
    #[arg(long, env = "AIWG_RS_MAX_MISSIONS_PER_EXECUTOR", value_name = "COUNT")]
    pub max_missions_per_executor: Option<u32>,
    /// Give open requests so long to end once a signal has come
    #[arg(long, env = "AIWG_RS_DRAIN_TIMEOUT", default_value = "5s", value_parser = duration::parse, value_name = "TIME")]
    pub drain_timeout: Duration,
}

impl Arguments {
    /// Turns the arguments into settings.
    ///
    /// # Errors
    /// The token file cannot be located.
    pub fn config(&self) -> anyhow::Result<Config> {
        let home = std::env::home_dir();
        let project = std::env::current_dir()?;
        let path = identity_path::locate(self.identity_store.as_deref(), &project, home.as_deref());
        let state_dir = match &self.state_dir {
            Some(folder) => folder.clone(),
            None => default_state_dir(&project, home.as_deref()),
        };
        Ok(Config {
            state_dir: Some(state_dir),
            identity_file: Some(path.map_err(refused)?),
            forward_timeout: self.forward_timeout,
            executor_grace: self.executor_grace,
            max_missions_per_executor: self.max_missions_per_executor,
            drain_timeout: self.drain_timeout,
            ..Config::default()
        })
    }
}

/// Returns where state lies when nobody says so.
pub fn default_state_dir(project: &Path, home: Option<&Path>) -> PathBuf {
    let in_project = project.join(".aiwg");
    if in_project.is_dir() {
        return in_project.join("aiwg-rs");
    }
    let state_home = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    match state_home.or_else(|| home.map(|home| home.join(".local/state"))) {
        Some(state_home) => state_home.join("aiwg-rs"),
        None => in_project.join("aiwg-rs"),
    }
}

fn refused(error: IdentityError) -> Ended {
    let hint = "set AIWG_EXECUTOR_IDENTITY_STORE to use another file";
    Ended::new(Code::State, "use the executors' tokens").hint(hint).because(error)
}

/// Runs the registry until a signal comes.
///
/// # Errors
/// Whatever stopped it.
pub async fn run(arguments: Arguments) -> anyhow::Result<Code> {
    let config = arguments.config()?;
    let shutdown = Shutdown::new();
    shutdown::listen(&shutdown)?;
    let listener = TcpListener::bind(&arguments.bind).await.map_err(|error| {
        let message = format!("listen on {}", arguments.bind);
        Ended::new(Code::Failed, message).hint("choose another address with --bind").because(error)
    })?;
    let address = listener.local_addr()?;
    tracing::info!(address = %address, "registry listening on http://{address}");
    match server::run(listener, config, shutdown.clone()).await {
        Ok(()) => Ok(Code::Done),
        Err(ServeError::Identity(error)) => Err(refused(error).into()),
        Err(ServeError::Store(error)) => {
            let hint = "choose another folder with --state-dir, or end the registry that uses this one";
            Err(Ended::new(Code::State, "use the registry's store").hint(hint).because(error).into())
        }
        Err(error) => Err(error.into()),
    }
}
