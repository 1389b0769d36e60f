//! Command: a runner, which the executor starts: a short way in.
//!
//! There is one for every mission that runs. Parsing the command line of the whole program, filters of logs, TLS and a
//! thread for every core would take longer than everything that it does.

use crate::cli::exit;
use crate::executor::runner;
use crate::executor::runner_protocol::RUNNER_WORD;
use crate::telemetry;
use anyhow::Context as _;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs missions if that is what the arguments of this process say: `executor-runner`, and the directory of claims.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|word| word != RUNNER_WORD) {
        return None;
    }
    Some(match run(arguments.next()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    })
}

fn run(claims: Option<OsString>) -> anyhow::Result<()> {
    let claims = claims.map(PathBuf::from).context("the directory of claims is missing")?;
    telemetry::install_plain()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    runtime.block_on(runner::run(&claims))?;
    Ok(())
}
