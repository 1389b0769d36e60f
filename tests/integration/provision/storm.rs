//! Many at once.

use super::{gone, order, path_of, worktrees};
use crate::support::repository::Repository;
use aiwg_rs::executor::provision::orchestrator::Orchestrator;
use aiwg_rs::executor::provision::provider::Disposal;
use serde_json::json;
use std::collections::BTreeSet;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_at_once_in_one_repository_all_get_their_own() {
    let repository = Repository::new();
    let mut tasks = JoinSet::new();
    for index in 0..50 {
        let order = order(
            &repository,
            &format!("s{index}"),
            json!([{"kind": "git-worktree"}, {"kind": "port-range"}]),
        );
        tasks.spawn(async move { Orchestrator::with_built_in().provision(&order).await });
    }
    let mut environments = Vec::new();
    while let Some(outcome) = tasks.join_next().await {
        environments.push(outcome.unwrap().unwrap());
    }
    let paths: BTreeSet<_> = environments.iter().map(path_of).collect();
    let ports: BTreeSet<_> = environments
        .iter()
        .map(|e| e.snapshot().soft_constraints.env.get("AGENT_PORT_RANGE_START").cloned().unwrap())
        .collect();
    assert_eq!((paths.len(), ports.len(), worktrees(&repository)), (50, 50, 50));
    let mut tasks = JoinSet::new();
    for environment in environments {
        tasks.spawn(async move { Orchestrator::with_built_in().release(&environment, Disposal::Save).await });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(worktrees(&repository), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_dead_block_is_taken_over_by_exactly_one() {
    let repository = Repository::new();
    for _ in 0..20 {
        let options = json!([{"kind": "port-range", "options": {"basePort": 62_000, "blockCount": 1}}]);
        let mut dead = order(&repository, "dead", options.clone());
        dead.owner = Some(gone());
        Orchestrator::with_built_in().provision(&dead).await.unwrap();
        let mut tasks = JoinSet::new();
        for index in 0..8 {
            let order = order(&repository, &format!("s{index}"), options.clone());
            tasks.spawn(async move { Orchestrator::with_built_in().provision(&order).await.ok() });
        }
        let mut winners: Vec<_> = Vec::new();
        while let Some(outcome) = tasks.join_next().await {
            winners.extend(outcome.unwrap());
        }
        assert_eq!(winners.len(), 1);
        Orchestrator::with_built_in().release(&winners[0], Disposal::Save).await.unwrap();
    }
}
