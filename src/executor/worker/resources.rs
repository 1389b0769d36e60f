//! Service: leases what a mission asks for, and gives it back with its work saved.

use super::{Internal, Shared, Unit};
use crate::domain::id::MissionId;
use crate::executor::effect::Event;
use crate::executor::outcome::Outcome;
use crate::executor::process_table;
use crate::executor::provision::git::git;
use crate::executor::provision::git_save;
use crate::executor::provision::orchestrator::{DEFAULT_DISCOVERY_FILE, Environment, Order};
use crate::executor::provision::provider::{Disposal, Kept};
use crate::runtime::clock;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Unit {
    /// Leases what the mission asks for. The answer comes later, unless it asks for nothing.
    pub(super) fn provision(&mut self) -> Option<Event> {
        let mut order = Order {
            session_id: self.record.mission_id.as_str().to_owned(),
            workspace_root: self.shared.config.workspace.clone(),
            resources: self.order.resources.clone(),
            owner: None,
        };
        if order.resources.is_empty() {
            // Nothing to write down, nothing to give back.
            self.provisioned(Environment::empty(&order), BTreeMap::new());
            return Some(Event::Provisioned(Ok(())));
        }
        order.owner = Some(process_table::own());
        let (shared, results) = (Arc::clone(&self.shared), self.internal.0.clone());
        self.background(async move {
            let outcome = match shared.orchestrator.provision(&order).await {
                Ok(environment) => match environment.inject(DEFAULT_DISCOVERY_FILE) {
                    Ok(env) => Ok((environment, env)),
                    Err(error) => {
                        drop(shared.orchestrator.release(&environment, Disposal::Save).await);
                        Err(error.to_string())
                    }
                },
                Err(error) => Err(error.to_string()),
            };
            drop(results.send(Internal::Provisioned(outcome)).await);
        });
        None
    }

    /// Notes that the resources are there.
    pub(super) fn provisioned(&mut self, environment: Environment, env: BTreeMap<String, String>) {
        (self.environment, self.env) = (Some(environment), env);
        self.record.begun_at = Some(clock::wall());
        self.record.begun_uptime_ms = process_table::uptime_ms();
    }

    /// Writes down how the mission ends and gives its resources back. The answer comes later, unless there are none.
    pub(super) async fn release(&mut self, outcome: Outcome) -> Option<Event> {
        self.record.outcome = Some(outcome);
        let Some(environment) = self.environment.take().filter(|e| !e.record().leases.is_empty()) else {
            return Some(Event::Released { branch: None, artifacts: Vec::new(), remark: None });
        };
        // On disk before they go: what is left of the run tells no more how it ended once its worktree is gone.
        if self.save_durably().await {
            self.let_runner_go().await;
        }
        let (shared, results) = (Arc::clone(&self.shared), self.internal.0.clone());
        let mission = self.record.mission_id.clone();
        self.background(async move {
            let (branch, artifacts, remark) = give_back(&shared, &environment, &mission).await;
            drop(results.send(Internal::Released { branch, artifacts, remark }).await);
        });
        None
    }
}

async fn give_back(
    shared: &Shared,
    environment: &Environment,
    mission: &MissionId,
) -> (Option<String>, Vec<String>, Option<String>) {
    let artifacts = changed_files(environment).await;
    match shared.orchestrator.release(environment, Disposal::Save).await {
        Ok(released) => {
            let stays = released.kept.iter().find_map(|kept| match kept {
                Kept::InPlace { path, why } => Some(format!("{} stays: {why}", path.display())),
                Kept::Branch { .. } => None,
            });
            (released.branch().map(str::to_owned), artifacts, stays)
        }
        Err(error) => {
            tracing::warn!(mission.id = %mission, %error, "failed to give resources back");
            let branch = error.kept.iter().find_map(|kept| match kept {
                Kept::Branch { name, .. } => Some(name.clone()),
                Kept::InPlace { .. } => None,
            });
            (branch, artifacts, Some(format!("some resources could not be given back: {error}")))
        }
    }
}

/// Lists what a mission changed in its worktree, against the commit that it started from.
async fn changed_files(environment: &Environment) -> Vec<String> {
    const MOST: usize = 1000;
    let record = environment.record();
    let mut files = std::collections::BTreeSet::new();
    for lease in &record.leases {
        let text = |key: &str| lease.allocation.get(key).and_then(|value| value.as_str());
        let (Some(path), Some(base)) = (text("worktreePath"), text("baseCommit")) else { continue };
        let path = Path::new(path);
        let Ok(work) = git_save::inspect(path, &[]).await else { continue };
        let own = |file: &PathBuf| file.starts_with(".agent-context");
        files.extend(work.changed.iter().filter(|file| !own(file)).map(|file| file.display().to_string()));
        if let Ok(text) = git(path, ["diff", "--name-only", "-z", base, "HEAD"]).bytes().await {
            let names = crate::executor::provision::git::records(&text);
            files.extend(names.map(|name| String::from_utf8_lossy(name).into_owned()));
        }
    }
    files.into_iter().take(MOST).collect()
}
