//! Resources before work, given back in reverse.

mod command;
mod failing_git;
mod inventory;
mod orchestrator;
mod saved_work;
mod storm;
mod worktree;

use crate::support::repository::Repository;
use aiwg_rs::executor::process_identity::ProcessIdentity;
use aiwg_rs::executor::process_table;
use aiwg_rs::executor::provision::orchestrator::{Environment, Orchestrator, Order};
use aiwg_rs::executor::provision::provider::Request;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn order(repository: &Repository, session: &str, resources: Value) -> Order {
    Order {
        session_id: session.to_owned(),
        workspace_root: repository.root().to_owned(),
        resources: serde_json::from_value(resources).unwrap(),
        owner: Some(process_table::own()),
    }
}

async fn worktree(repository: &Repository, session: &str) -> Environment {
    let order = order(repository, session, json!([{"kind": "git-worktree"}]));
    Orchestrator::with_built_in().provision(&order).await.unwrap()
}

/// An owner that is gone for good.
fn gone() -> ProcessIdentity {
    ProcessIdentity { pid: 1, boot_id: "before".to_owned(), process_start_time: 1 }
}

async fn abandoned_worktree(repository: &Repository, session: &str) -> Environment {
    let mut order = order(repository, session, json!([{"kind": "git-worktree"}, {"kind": "port-range"}]));
    order.owner = Some(gone());
    Orchestrator::with_built_in().provision(&order).await.unwrap()
}

fn path_of(environment: &Environment) -> PathBuf {
    environment.snapshot().working_directory
}

fn worktrees(repository: &Repository) -> usize {
    repository.git(["worktree", "list", "--porcelain"]).matches("worktree ").count() - 1
}

fn requests(kinds: &[&str]) -> Vec<Request> {
    kinds.iter().map(|kind| Request::of(*kind)).collect()
}

/// Says which files git would tell about, as a user sees them.
fn status(directory: &Path) -> String {
    crate::support::repository::git(directory, ["status", "--porcelain", "--untracked-files=all"])
}
