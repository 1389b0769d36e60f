//! Pure: the settings of an executor, with where each default comes from.

use crate::executor::agent_runtime::AgentRuntime;
use crate::executor::mission_order::Offer;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What becomes of running missions when the executor ends in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnShutdown {
    /// They are frozen, and the next start takes them up again.
    #[default]
    Suspend,
    /// They are waited for.
    Drain,
    /// They are ended.
    Abort,
}

/// Settings of an executor.
#[derive(Debug, Clone)]
pub struct Config {
    /// For people.
    pub name: String,
    /// The registry; none: only the REST surface is served.
    pub serve_url: Option<String>,
    /// What the registry is told instead of the bound address, as behind a proxy.
    pub advertise: Option<String>,
    /// Where the REST surface listens.
    pub bind: SocketAddr,
    /// Where missions are kept.
    pub state_directory: PathBuf,
    /// The project that missions are about.
    pub workspace: PathBuf,
    /// The program of the runners: this one.
    pub runner_program: PathBuf,
    /// Missions at once.
    pub max_concurrency: usize,
    /// Missions that may wait for their turn; beyond it a dispatch is answered with 503.
    pub max_waiting: usize,
    /// What it offers.
    pub offer: Offer,
    /// How long processes may take to end after TERM. 10 s, as most supervisors give.
    pub grace: Duration,
    /// Bytes of log per mission. 64 MiB: the beginning and the end of any flood.
    pub log_limit_bytes: u64,
    /// Nothing that can hold work is removed.
    pub keep_everything: bool,
    /// What becomes of running missions at the end.
    pub on_shutdown: OnShutdown,
    /// How long ended missions and their logs are kept. 14 days: two weekends.
    pub retention: Duration,
    /// What is announced about isolation.
    pub isolation: String,
}

impl Config {
    /// Returns the capabilities that are announced.
    pub fn capabilities(&self) -> Vec<String> {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "x64",
            "aarch64" => "arm64",
            other => other,
        };
        let os = match std::env::consts::OS {
            "macos" => "darwin",
            other => other,
        };
        let mut capabilities = vec![format!("isolation:{}", self.isolation), format!("platform:{os}/{arch}")];
        capabilities.extend(["resumable".to_owned(), "hitl".to_owned()]);
        capabilities.extend(self.offer.runtimes.iter().map(AgentRuntime::capability));
        capabilities
    }
}
