//! What is leased, and what may go.

use super::{abandoned_worktree, path_of, worktree, worktrees};
use crate::support::repository::{Repository, git, write};
use aiwg_rs::executor::provision::git_worktree::{self, Place};
use aiwg_rs::executor::provision::inventory::{self, Scope, State};
use aiwg_rs::executor::provision::orchestrator::Orchestrator;
use aiwg_rs::executor::provision::provider::Disposal;
use aiwg_rs::runtime::clock;

#[tokio::test]
async fn every_worktree_is_shown_with_its_state_and_its_work() {
    let repository = Repository::new();
    let live = worktree(&repository, "live").await;
    let dead = abandoned_worktree(&repository, "dead").await;
    write(&path_of(&dead), "a.txt", "a");
    repository.git(["worktree", "add", "-q", "--detach", ".ai_ops/worktrees/foreign"]);
    let listed = inventory::list(&Scope::of(repository.root())).await.unwrap();
    let entry = |part: &str| {
        listed.worktrees.iter().find(|e| e.path.to_string_lossy().contains(part)).unwrap().clone()
    };
    assert_eq!((entry("/live-").state, entry("/live-").unsaved_work), (State::InUse, Some(false)));
    assert_eq!((entry("/dead-").state, entry("/dead-").unsaved_work), (State::Abandoned, Some(true)));
    assert_eq!((entry("foreign").state, entry("foreign").age_seconds), (State::Foreign, None));
    assert!(entry("/live-").size_bytes > 0 && entry("/live-").age_seconds.unwrap() < 60);
    assert_eq!(listed.ports.len(), 1);
    assert_eq!((listed.ports[0].state, listed.ports[0].session_id.as_str()), (State::Abandoned, "dead"));
    assert_eq!(listed.environments.len(), 2);
    drop(live);
}

#[tokio::test]
async fn clean_up_removes_only_what_is_proven_and_saves_its_work() {
    let repository = Repository::new();
    let live = worktree(&repository, "live").await;
    let dead = abandoned_worktree(&repository, "dead").await;
    write(&path_of(&dead), "a.txt", "a");
    let nested = abandoned_worktree(&repository, "nested").await;
    std::fs::create_dir(path_of(&nested).join("inner")).unwrap();
    git(&path_of(&nested).join("inner"), ["init", "-q"]);
    repository.git(["worktree", "add", "-q", "--detach", ".ai_ops/worktrees/foreign"]);
    let broken = abandoned_worktree(&repository, "broken").await;
    std::fs::remove_file(path_of(&broken).join(".git")).unwrap();
    write(&path_of(&broken), "precious.txt", "only here");
    let scope = Scope::of(repository.root());

    let planned = inventory::clean(&scope, false, true).await.unwrap();
    assert_eq!(planned.worktrees.len(), 3);
    assert!(path_of(&dead).exists(), "a dry run changes nothing");
    let nothing = inventory::clean(&scope, true, false).await.unwrap();
    assert_eq!(nothing.worktrees.len(), 0, "--keep-everything");
    assert_eq!(nothing.ports.len(), 3, "a port lock holds no work");

    let cleaned = inventory::clean(&scope, false, false).await.unwrap();
    assert_eq!(cleaned.worktrees, [path_of(&dead)]);
    assert!(path_of(&nested).join("inner").exists());
    assert!(path_of(&broken).join("precious.txt").exists(), "what git cannot judge stays");
    assert!(path_of(&live).exists() && repository.root().join(".ai_ops/worktrees/foreign").exists());
    let branch = repository.git(["branch", "--list", "--format=%(refname:short)", "aiwg/*"]);
    assert_eq!(repository.show(&branch, "a.txt"), "a");
    Orchestrator::with_built_in().release(&live, Disposal::Save).await.unwrap();
    // Once the obstacle is gone, the next clean-up takes it.
    std::fs::remove_dir_all(path_of(&nested).join("inner")).unwrap();
    let cleaned = inventory::clean(&scope, false, false).await.unwrap();
    assert_eq!(cleaned.worktrees, [path_of(&nested)]);
    assert_eq!(worktrees(&repository), 1, "the foreign one");
}

#[tokio::test]
async fn a_worktree_that_somebody_took_since_it_was_looked_at_is_not_cleaned_up() {
    let repository = Repository::new();
    let path = path_of(&worktree(&repository, "s").await);
    let place = Place {
        repo_root: repository.root().to_owned(),
        root: path.parent().unwrap().to_owned(),
        name: path.file_name().unwrap().to_str().unwrap().to_owned(),
    };
    assert_eq!(git_worktree::clean_up(&place, clock::wall()).await.unwrap(), None);
    assert!(path.join("README").exists());
}
