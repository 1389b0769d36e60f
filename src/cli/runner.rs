//! Command: a runner, which the executor starts: a short way in.
//!
//! There is one for every mission that runs. Parsing the command line of the whole program, filters of logs, TLS and a
//! thread for every core would take longer than everything that it does.

use crate::cli::exit;
use crate::executor::runner;
use crate::executor::runner_protocol::RUNNER_WORD;
use crate::telemetry;
use anyhow::Context as _;
use std::process::ExitCode;

/// Runs missions if that is what the argument of this process says: `executor-runner`.
pub fn run_if_asked() -> Option<ExitCode> {
    if std::env::args_os().nth(1).is_none_or(|word| word != RUNNER_WORD) {
        return None;
    }
    Some(match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    })
}

fn run() -> anyhow::Result<()> {
    telemetry::install_plain()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    runtime.block_on(runner::run())?;
    Ok(())
}
