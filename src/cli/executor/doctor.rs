//! Command: `executor doctor`: what could be run here.

use super::{ExecutorArguments, settings};
use crate::cli::exit::Code;
use crate::cli::output;
use crate::executor::agent_runtime::AgentRuntime;
use crate::executor::config::Config;
use crate::executor::program;
use crate::executor::provision::git::find_repository;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Says which agents are installed and whether the workspace can be used.
///
/// # Errors
/// The settings are wrong, or nobody takes the answer.
pub(super) async fn run(arguments: &ExecutorArguments, config: &Config) -> anyhow::Result<Code> {
    let settings =
        settings::read(arguments.config.as_deref(), &config.workspace.join(".aiwg/aiwg-rs/executor.toml"))?;
    let mut found = Vec::new();
    for runtime in settings.runtimes()? {
        let program = runtime.command.first().cloned().unwrap_or_default();
        let path = find_program(&program);
        found.push(
            json!({ "runtime": runtime.name, "program": program, "installed": path.is_some(), "path": path }),
        );
    }
    let repository = find_repository(&config.workspace).await;
    let usable = config.offer.runtimes.iter().any(|runtime| runtime.name == config.offer.default_runtime);
    let report = json!({
        "runtimes": found,
        "defaultRuntime": config.offer.default_runtime,
        "defaultRuntimeInstalled": usable,
        "git": find_program("git"),
        "repository": repository.as_ref().ok().map(|repository| &repository.top_level),
        "repositoryProblem": repository.as_ref().err().map(ToString::to_string),
        "workspace": config.workspace,
        "stateDirectory": config.state_directory,
        "capabilities": config.capabilities(),
    });
    if output::is_terminal() {
        output::line(&describe(&report))?;
    } else {
        output::json(&report)?;
    }
    Ok(if usable { Code::Done } else { Code::Failed })
}

/// Tells people the same, with what to do about what is missing.
fn describe(report: &Value) -> String {
    let text = |key: &str| report.get(key).and_then(Value::as_str);
    let mut lines = Vec::new();
    for runtime in report.get("runtimes").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| runtime.get(key).and_then(Value::as_str).unwrap_or_default();
        let place = match text("path") {
            "" => format!("not installed: there is no {} on the PATH", text("program")),
            path => path.to_owned(),
        };
        lines.push(format!("runtime {:<14} {place}", text("runtime")));
    }
    let without_git = "not installed: there are no worktrees without it";
    for (name, value) in [
        ("default runtime", text("defaultRuntime")),
        ("git", text("git").or(Some(without_git))),
        ("repository", text("repository").or(text("repositoryProblem"))),
        ("workspace", text("workspace")),
        ("state directory", text("stateDirectory")),
    ] {
        lines.push(format!("{name:<22} {}", value.unwrap_or_default()));
    }
    if report.get("defaultRuntimeInstalled") == Some(&Value::Bool(false)) {
        let runtime = text("defaultRuntime").unwrap_or_default();
        lines.push(format!(
            "\nMissions that name no runtime would be refused: {runtime} is not installed. Install it, or name another \
             with --runtime; shell runs objectives as commands."
        ));
    }
    lines.join("\n")
}

/// Says whether an agent can be started here.
pub(super) fn is_installed(runtime: &AgentRuntime) -> bool {
    runtime.command.first().is_some_and(|program| find_program(program).is_some())
}

fn find_program(name: &str) -> Option<PathBuf> {
    program::find(name, std::env::var_os("PATH").as_deref())
}
