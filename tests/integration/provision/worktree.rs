//! Making worktrees, and giving them back when nothing is in them.

use super::{gone, order, path_of, status, worktree, worktrees};
use crate::support::repository::{Repository, git, write};
use aiwg_rs::executor::provision::orchestrator::Orchestrator;
use aiwg_rs::executor::provision::provider::Disposal;
use serde_json::{Value, json};

async fn refusal(repository: &Repository, options: Value) -> String {
    let order = order(repository, "refused", json!([{"kind": "git-worktree", "options": options}]));
    let error = Orchestrator::with_built_in().provision(&order).await.unwrap_err().to_string();
    assert_eq!(worktrees(repository), 0, "{error}");
    let leases = repository.root().join(".ai_ops/worktrees/.leases");
    let left = leases.read_dir().map_or(0, Iterator::count);
    assert_eq!(left, 0, "{error}");
    assert!(error.starts_with("Resource provisioning failed: git-worktree: "), "{error}");
    error
}

#[tokio::test]
async fn a_worktree_is_detached_named_after_its_session_and_hidden_from_the_status() {
    let repository = Repository::new();
    let environment = worktree(&repository, "mission 1").await;
    let path = path_of(&environment);
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("mission-1-") && name.len() == "mission-1-".len() + 8, "{name}");
    assert_eq!(path.parent().unwrap(), repository.root().join(".ai_ops/worktrees"));
    assert_eq!(git(&path, ["rev-parse", "HEAD"]), repository.git(["rev-parse", "main"]));
    assert_eq!(git(&path, ["rev-parse", "--abbrev-ref", "HEAD"]), "HEAD");
    assert_eq!(status(repository.root()), "");
    assert_eq!(status(&path), "");
    let snapshot = environment.snapshot();
    let env = &snapshot.soft_constraints.env;
    assert_eq!(env.get("AGENT_WORKTREE_PATH").unwrap(), path.to_str().unwrap());
    assert_eq!(env.get("AGENT_REPO_ROOT").unwrap(), repository.root().to_str().unwrap());
    assert_eq!(env.get("AGENT_WORKTREE_BASE_REF").unwrap(), "HEAD");
    assert_eq!(snapshot.soft_constraints.metadata.get("git_worktree_base_ref").unwrap(), "HEAD");
    let released = Orchestrator::with_built_in().release(&environment, Disposal::Save).await.unwrap();
    assert_eq!(released.kept, []);
    assert!(!path.exists());
    assert_eq!(worktrees(&repository), 0);
    assert_eq!(repository.git(["branch", "--list"]), "* main");
}

#[tokio::test]
async fn a_target_path_makes_a_sparse_checkout() {
    let repository = Repository::new();
    let options = json!({"targetPath": ".\\app//", "baseRef": "main"});
    let order = order(&repository, "sparse", json!([{"kind": "git-worktree", "options": options}]));
    let environment = Orchestrator::with_built_in().provision(&order).await.unwrap();
    let directory = path_of(&environment);
    assert!(directory.ends_with("app") && directory.join("main.txt").exists());
    let top = directory.parent().unwrap();
    assert!(top.join("README").exists() && !top.join("lib").exists());
    assert_eq!(status(top), "");
    assert_eq!(
        environment.snapshot().soft_constraints.metadata.get("git_worktree_target_path"),
        Some(&json!("app"))
    );
    environment.inject(".agent-context/resources.json").unwrap();
    write(top, "app/main.txt", "changed\n");
    write(top, "lib/outside.txt", "beyond the cone\n");
    let released = Orchestrator::with_built_in().release(&environment, Disposal::Save).await.unwrap();
    let branch = released.branch().unwrap();
    assert_eq!(repository.show(branch, "app/main.txt"), "changed");
    assert_eq!(repository.show(branch, "lib/outside.txt"), "beyond the cone");
    assert_eq!(repository.show(branch, "lib/lib.txt"), "lib");
    assert!(!repository.git(["ls-tree", "-r", "--name-only", branch]).contains("agent-context"));
}

#[tokio::test]
async fn what_cannot_be_made_says_why_and_leaves_nothing() {
    let repository = Repository::new();
    let error = refusal(&repository, json!({"baseRef": "no-such-branch"})).await;
    assert!(error.contains("no-such-branch"), "{error}");
    let error = refusal(&repository, json!({"targetPath": "nowhere"})).await;
    assert!(error.contains("nowhere does not exist at HEAD"), "{error}");
    let error = refusal(&repository, json!({"targetPath": "../up"})).await;
    assert!(error.contains("targetPath must not contain .."), "{error}");
    refusal(&repository, json!({"targetPath": "/etc"})).await;
    refusal(&repository, json!({"rootDirectory": ""})).await;
    refusal(&repository, json!({"rootDirectory": 7})).await;
    refusal(&repository, json!({"baseRef": "--upload-pack=evil"})).await;
    // A filter that is required and missing is how a repository with LFS looks without LFS.
    repository.git(["config", "filter.lfs.smudge", "git-lfs-is-not-here smudge"]);
    repository.git(["config", "filter.lfs.required", "true"]);
    repository.write(".gitattributes", "*.bin filter=lfs\n");
    repository.git(["-c", "filter.lfs.required=false", "add", "-A"]);
    repository.git(["-c", "filter.lfs.required=false", "commit", "-q", "-m", "attributes"]);
    let blob = repository.git(["hash-object", "-w", "README"]);
    repository.git(["update-index", "--add", "--cacheinfo", &format!("100644,{blob},big.bin")]);
    repository.git(["commit", "-q", "-m", "a big file"]);
    let error = refusal(&repository, json!({})).await;
    assert!(error.contains("big.bin"), "{error}");
}

#[tokio::test]
async fn a_bare_or_absent_repository_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let mut order = order(&Repository::new(), "s", json!([{"kind": "git-worktree"}]));
    directory.path().clone_into(&mut order.workspace_root);
    let error = Orchestrator::with_built_in().provision(&order).await.unwrap_err().to_string();
    assert!(error.contains("no git repository"), "{error}");
    git(directory.path(), ["init", "-q", "--bare"]);
    let error = Orchestrator::with_built_in().provision(&order).await.unwrap_err().to_string();
    assert!(error.contains("bare repository"), "{error}");
}

#[tokio::test]
async fn a_detached_head_and_a_dirty_tree_are_no_obstacle() {
    let repository = Repository::new();
    repository.git(["checkout", "-q", "--detach"]);
    repository.write("README", "changed and not committed\n");
    let environment = worktree(&repository, "s").await;
    assert_eq!(std::fs::read_to_string(path_of(&environment).join("README")).unwrap(), "hello\n");
    Orchestrator::with_built_in().release(&environment, Disposal::Save).await.unwrap();
    assert_eq!(status(repository.root()), " M README");
}

#[tokio::test]
async fn a_worktree_removed_by_hand_can_be_released_and_made_again() {
    let repository = Repository::new();
    let first = worktree(&repository, "s").await;
    std::fs::remove_dir_all(path_of(&first)).unwrap();
    Orchestrator::with_built_in().release(&first, Disposal::Save).await.unwrap();
    assert_eq!(worktrees(&repository), 0);
    let second = super::abandoned_worktree(&repository, "s").await;
    std::fs::remove_dir_all(path_of(&second)).unwrap();
    let third = worktree(&repository, "s").await;
    assert!(path_of(&third).join("README").exists());
    // The second lease is over: releasing it must not take the third's worktree.
    Orchestrator::with_built_in().release(&second, Disposal::Save).await.unwrap();
    assert!(path_of(&third).join("README").exists());
    Orchestrator::with_built_in().release(&third, Disposal::Save).await.unwrap();
}

#[tokio::test]
async fn a_live_sessions_worktree_is_not_given_twice() {
    let repository = Repository::new();
    let environment = worktree(&repository, "s").await;
    let again = order(&repository, "s", json!([{"kind": "git-worktree"}]));
    let error = Orchestrator::with_built_in().provision(&again).await.unwrap_err().to_string();
    assert!(error.contains("session \"s\" has leased git-worktree already, held by process"), "{error}");
    assert!(path_of(&environment).join("README").exists());
    let mut unowned = order(&repository, "t", json!([{"kind": "git-worktree"}]));
    unowned.owner = None;
    Orchestrator::with_built_in().provision(&unowned).await.unwrap();
    let error = Orchestrator::with_built_in().provision(&unowned).await.unwrap_err().to_string();
    assert!(error.contains("held until they are released"), "{error}");
}

#[tokio::test]
async fn a_directory_that_is_not_ours_is_left_alone() {
    let repository = Repository::new();
    let environment = worktree(&repository, "s").await;
    let path = path_of(&environment);
    Orchestrator::with_built_in().release(&environment, Disposal::Save).await.unwrap();
    write(&path, "precious.txt", "mine");
    let again = order(&repository, "s", json!([{"kind": "git-worktree"}]));
    let error = Orchestrator::with_built_in().provision(&again).await.unwrap_err().to_string();
    assert!(error.contains("is no worktree of ours"), "{error}");
    assert!(path.join("precious.txt").exists());
}

#[tokio::test]
async fn a_lock_of_another_git_is_waited_for() {
    let repository = Repository::new();
    let environment = worktree(&repository, "s").await;
    let path = path_of(&environment);
    write(&path, "new.txt", "new");
    // The save uses an index of its own: even a stale lock is not in its way.
    let index = git(&path, ["rev-parse", "--path-format=absolute", "--git-path", "index"]);
    std::fs::write(format!("{index}.lock"), "").unwrap();
    let released = Orchestrator::with_built_in().release(&environment, Disposal::Save).await.unwrap();
    assert_eq!(repository.show(released.branch().unwrap(), "new.txt"), "new");
    assert!(!path.exists());
}

#[tokio::test]
async fn ignored_files_that_worktreeinclude_names_are_copied_and_never_overwrite() {
    let repository = Repository::new();
    repository.write(".worktreeinclude", ".env\nREADME\nconfig/*.log\nuntracked.txt\n/link/.env\n");
    repository.commit("include");
    repository.write(".env", "SECRET=1\n");
    repository.write("config/a.log", "a\n");
    repository.write("other.log", "not asked for\n");
    repository.write("untracked.txt", "not ignored\n");
    repository.write("README", "changed\n");
    repository.write("sub/dir/.env", "DEEP=1\n");
    let environment = worktree(&repository, "s").await;
    let path = path_of(&environment);
    let text = |name: &str| std::fs::read_to_string(path.join(name)).ok();
    assert_eq!(text(".env").as_deref(), Some("SECRET=1\n"));
    assert_eq!(text("sub/dir/.env").as_deref(), Some("DEEP=1\n"));
    assert_eq!(text("config/a.log").as_deref(), Some("a\n"));
    assert_eq!(text("README").as_deref(), Some("hello\n"));
    assert_eq!((text("other.log"), text("untracked.txt")), (None, None));
    // Another worktree's copies are not copied on.
    let second = worktree(&repository, "t").await;
    assert!(!path_of(&second).join(".ai_ops").exists());
    for environment in [environment, second] {
        let released = Orchestrator::with_built_in().release(&environment, Disposal::Save).await.unwrap();
        assert_eq!(released.kept, [], "copies of ignored files are no work");
    }
}

#[tokio::test]
async fn a_worktree_of_a_dead_owner_is_reclaimed_with_its_work() {
    let repository = Repository::new();
    let mut dead = order(&repository, "s", json!([{"kind": "git-worktree"}]));
    dead.owner = Some(gone());
    let first = Orchestrator::with_built_in().provision(&dead).await.unwrap();
    first.inject(".agent-context/resources.json").unwrap();
    write(&path_of(&first), "half.txt", "half done");
    let second = worktree(&repository, "s").await;
    assert!(!path_of(&second).join("half.txt").exists());
    let branches = repository.git(["branch", "--list", "--format=%(refname:short)", "aiwg/*"]);
    assert_eq!(repository.show(&branches, "half.txt"), "half done");
    assert!(!repository.git(["ls-tree", "-r", "--name-only", &branches]).contains("agent-context"));
    Orchestrator::with_built_in().release(&second, Disposal::Save).await.unwrap();
}
