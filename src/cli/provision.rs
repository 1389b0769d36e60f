//! Command: `provision`: lease worktrees and ports for a script or another tool.

use crate::cli::exit::{Code, Ended};
use crate::cli::output;
use crate::executor::process_table;
use crate::executor::provision::inventory::{self, Inventory, Scope, State};
use crate::executor::provision::orchestrator::{
    DEFAULT_DISCOVERY_FILE, Environment, Orchestrator, Order, ProvisionError,
};
use crate::executor::provision::provider::{Disposal, Object, Request};
use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `provision`.
#[derive(Debug, Args)]
pub struct ProvisionArguments {
    /// The directory that the work is about
    #[arg(long, global = true, default_value = ".", value_name = "DIR")]
    workspace: PathBuf,
    /// Remove nothing that can hold work
    #[arg(long, global = true, env = "AIWG_RS_KEEP_EVERYTHING", value_parser = FalseyValueParser::new())]
    keep_everything: bool,
    /// What to do
    #[command(subcommand)]
    command: ProvisionCommand,
}

/// Subcommands of `provision`.
#[derive(Debug, Subcommand)]
enum ProvisionCommand {
    /// Lease resources and print the snapshot and the environment variables
    Acquire {
        /// Name of the lease
        #[arg(long, value_name = "ID")]
        session: String,
        /// A kind, or KIND={"option":…}; repeat it for more. Without any: git-worktree and port-range
        #[arg(long = "resource", value_name = "KIND[=JSON]")]
        resources: Vec<String>,
        /// Let the leases end with this process; without it they end only by `provision release`
        #[arg(long, value_name = "PID")]
        owner_pid: Option<u32>,
        /// Where to write the snapshot, below the working directory
        #[arg(long, default_value = DEFAULT_DISCOVERY_FILE, value_name = "PATH")]
        discovery_file: String,
    },
    /// Show what is leased: age, size, state, and whether anything in it exists nowhere else
    List {
        /// Print JSON also on a terminal
        #[arg(long, env = "AIWG_RS_JSON", value_parser = FalseyValueParser::new())]
        json: bool,
    },
    /// Give a session's resources back; work in a worktree is kept on a branch
    Release {
        /// Name of the lease
        #[arg(long, value_name = "ID")]
        session: String,
        /// Throw work away instead of keeping it on a branch
        #[arg(long)]
        discard: bool,
    },
    /// Remove what has no owner any more and is provably saved or empty
    Gc {
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the snapshot of a session's resources
    Snapshot {
        /// Name of the lease
        #[arg(long, value_name = "ID")]
        session: String,
    },
}

/// Carries out `provision`.
///
/// # Errors
/// Whatever stopped it.
pub async fn run(arguments: ProvisionArguments) -> anyhow::Result<Code> {
    let workspace = arguments.workspace.canonicalize().map_err(|error| {
        Ended::new(Code::Usage, format!("--workspace {} cannot be used", arguments.workspace.display()))
            .because(error)
    })?;
    let orchestrator = Orchestrator::with_built_in().keep_everything(arguments.keep_everything);
    match arguments.command {
        ProvisionCommand::Acquire { session, resources, owner_pid, discovery_file } => {
            let resources = requests(&resources)?;
            orchestrator
                .check(&resources)
                .map_err(|error| Ended::new(Code::Usage, "failed to understand --resource").because(error))?;
            let order = Order {
                session_id: session,
                workspace_root: workspace,
                resources,
                owner: owner_pid
                    .map(|pid| {
                        process_table::of(pid).ok_or_else(|| {
                            Ended::new(Code::Usage, format!("--owner-pid {pid} names no running process"))
                        })
                    })
                    .transpose()?,
            };
            let environment = orchestrator.provision(&order).await.map_err(explain)?;
            match environment.inject(&discovery_file) {
                Ok(env) => output::json(&json!({ "snapshot": environment.snapshot(), "env": env }))?,
                Err(error) => {
                    orchestrator.release(&environment, Disposal::Save).await?;
                    return Err(error.into());
                }
            }
        }
        ProvisionCommand::List { json } => {
            let inventory = inventory::list(&Scope::of(&workspace)).await?;
            if json || !output::is_terminal() {
                output::json(&inventory)?;
            } else {
                output::line(&table(&inventory))?;
            }
        }
        ProvisionCommand::Release { session, discard } => {
            let environment = find(&workspace, &session)?;
            let disposal = if discard { Disposal::Discard } else { Disposal::Save };
            let released = orchestrator.release(&environment, disposal).await?;
            output::json(&json!({ "sessionId": session, "kept": released.kept }))?;
        }
        ProvisionCommand::Gc { dry_run } => {
            let scope = Scope::of(&workspace);
            output::json(&inventory::clean(&scope, arguments.keep_everything, dry_run).await?)?;
        }
        ProvisionCommand::Snapshot { session } => output::json(&find(&workspace, &session)?.snapshot())?,
    }
    Ok(Code::Done)
}

fn explain(error: ProvisionError) -> anyhow::Error {
    match error {
        ProvisionError::Leased { .. } | ProvisionError::Overtaken { .. } => Ended::new(
            Code::Failed,
            error.to_string(),
        )
        .hint("`aiwg-rs provision snapshot` shows what it has, `aiwg-rs provision release` gives it back")
        .into(),
        ProvisionError::Request(_) | ProvisionError::Provider { .. } | ProvisionError::Record { .. } => {
            error.into()
        }
    }
}

fn find(workspace: &Path, session: &str) -> anyhow::Result<Environment> {
    let found = Orchestrator::find_environment(workspace, session).map_err(|error| {
        Ended::new(Code::State, format!("the leases of session {session:?} cannot be read")).because(error)
    })?;
    Ok(found.ok_or_else(|| {
        Ended::new(Code::Failed, format!("session {session:?} has nothing leased in {}", workspace.display()))
            .hint("`aiwg-rs provision list` shows what is leased")
    })?)
}

/// Reads `KIND` and `KIND={…}`.
fn requests(texts: &[String]) -> anyhow::Result<Vec<Request>> {
    if texts.is_empty() {
        return Ok(vec![Request::of("git-worktree"), Request::of("port-range")]);
    }
    let mut requests = Vec::new();
    for text in texts {
        let (kind, options) = text.split_once('=').map_or((text.as_str(), None), |(k, o)| (k, Some(o)));
        let options: Object = match options {
            None => Object::new(),
            Some(options) => serde_json::from_str(options).map_err(|error| {
                Ended::new(Code::Usage, format!("the options of --resource {kind} are no JSON object"))
                    .because(error)
            })?,
        };
        requests.push(Request { kind: kind.to_owned(), options });
    }
    Ok(requests)
}

fn table(inventory: &Inventory) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::TableStyle::new());
    table.set_header(["RESOURCE", "SESSION", "STATE", "AGE", "SIZE", "UNSAVED", "DETAIL"]);
    let age = |seconds: Option<u64>| seconds.map_or_else(|| "?".to_owned(), duration);
    for entry in &inventory.worktrees {
        let unsaved = match entry.unsaved_work {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown",
        };
        table.add_row([
            entry.path.display().to_string(),
            entry.session_id.clone(),
            state(entry.state).to_owned(),
            age(entry.age_seconds),
            size(entry.size_bytes),
            unsaved.to_owned(),
            entry.detail.clone(),
        ]);
    }
    for entry in &inventory.ports {
        let ports = format!("ports {}-{}", entry.start_port, entry.end_port);
        let (session, state, age) =
            (entry.session_id.clone(), state(entry.state).to_owned(), age(entry.age_seconds));
        table.add_row([ports, session, state, age, String::new(), String::new(), String::new()]);
    }
    table.to_string()
}

fn state(state: State) -> &'static str {
    match state {
        State::InUse => "in use",
        State::Abandoned => "abandoned",
        State::Kept => "kept",
        State::Foreign => "foreign",
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=9999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}
