//! A worktree never takes work along.

use super::{path_of, worktree, worktrees};
use crate::support::repository::{Repository, commit, git, write};
use aiwg_rs::executor::provision::orchestrator::{Orchestrator, Released};
use aiwg_rs::executor::provision::provider::{Disposal, Kept};

async fn release(environment: &aiwg_rs::executor::provision::orchestrator::Environment) -> Released {
    Orchestrator::with_built_in().release(environment, Disposal::Save).await.unwrap()
}

#[tokio::test]
async fn changes_and_new_files_are_kept_on_a_branch() {
    let repository = Repository::new();
    let environment = worktree(&repository, "s").await;
    let path = path_of(&environment);
    environment.inject(".agent-context/resources.json").unwrap();
    write(&path, "README", "changed\n");
    write(&path, "new dir/ünïcode \"quoted\".txt", "new\n");
    write(&path, "target/ignored", "worthless\n");
    std::fs::remove_file(path.join("lib/lib.txt")).unwrap();
    git(&path, ["mv", "app/main.txt", "app/renamed.txt"]);
    let released = release(&environment).await;
    let name = path.file_name().unwrap().to_str().unwrap();
    let branch = format!("aiwg/{name}");
    assert_eq!(released.branch(), Some(branch.as_str()));
    assert_eq!(repository.show(&branch, "README"), "changed");
    assert_eq!(repository.show(&branch, "new dir/ünïcode \"quoted\".txt"), "new");
    let files = repository.git(["ls-tree", "-r", "--name-only", "-z", &branch]);
    assert!(files.contains("app/renamed.txt") && !files.contains("app/main.txt"), "{files}");
    for gone in ["lib/lib.txt", "target", "agent-context"] {
        assert!(!files.contains(gone), "{gone} in {files}");
    }
    assert_eq!(repository.git(["rev-parse", &format!("{branch}^")]), repository.git(["rev-parse", "main"]));
    assert!(!path.exists());
    assert_eq!(worktrees(&repository), 0);
}

#[tokio::test]
async fn only_our_own_files_are_no_work() {
    let repository = Repository::new();
    let environment = worktree(&repository, "s").await;
    environment.inject(".agent-context/resources.json").unwrap();
    assert_eq!(release(&environment).await.kept, []);
    // Also where the directory is the user's and tracked.
    repository.write(".agent-context/notes.md", "notes\n");
    repository.write(".agent-context/resources.json", "{}\n");
    repository.commit("context");
    let environment = worktree(&repository, "s").await;
    environment.inject(".agent-context/resources.json").unwrap();
    assert_eq!(release(&environment).await.kept, []);
    assert_eq!(repository.git(["branch", "--list"]), "* main");
}

#[tokio::test]
async fn commits_on_no_branch_are_kept_and_commits_on_a_branch_need_no_keeping() {
    let repository = Repository::new();
    let environment = worktree(&repository, "s").await;
    let path = path_of(&environment);
    write(&path, "a.txt", "a");
    commit(&path, "loose");
    let head = git(&path, ["rev-parse", "HEAD"]);
    let released = release(&environment).await;
    let Some(Kept::Branch { name, commit: kept }) = released.kept.first() else { panic!("{released:?}") };
    assert_eq!(*kept, head);
    assert_eq!(repository.git(["rev-parse", name]), head);

    let environment = worktree(&repository, "s").await;
    let path = path_of(&environment);
    git(&path, ["switch", "-q", "-c", "feature"]);
    write(&path, "b.txt", "b");
    commit(&path, "on a branch");
    assert_eq!(release(&environment).await.kept, []);
    assert_eq!(repository.show("feature", "b.txt"), "b");

    // A branch of saved work is never moved: the next one gets a number.
    let environment = worktree(&repository, "s").await;
    write(&path_of(&environment), "c.txt", "c");
    let second = release(&environment).await;
    assert_eq!(second.branch().unwrap(), format!("{name}-2"));
    assert_eq!(repository.git(["rev-parse", name]), head);
}

#[tokio::test]
async fn loose_commits_with_changes_on_top_are_one_branch() {
    let repository = Repository::new();
    let environment = worktree(&repository, "s").await;
    let path = path_of(&environment);
    write(&path, "a.txt", "a");
    commit(&path, "loose");
    write(&path, "b.txt", "b");
    let released = release(&environment).await;
    assert_eq!(released.kept.len(), 1);
    let branch = released.branch().unwrap();
    assert_eq!(
        (repository.show(branch, "a.txt"), repository.show(branch, "b.txt")),
        ("a".into(), "b".into())
    );
}

#[tokio::test]
async fn work_in_the_middle_of_a_conflict_or_a_rebase_is_kept() {
    let repository = Repository::new();
    repository.git(["switch", "-q", "-c", "other"]);
    repository.write("README", "theirs\n");
    repository.commit("theirs");
    repository.git(["switch", "-q", "main"]);
    let environment = worktree(&repository, "s").await;
    let path = path_of(&environment);
    write(&path, "README", "ours\n");
    commit(&path, "ours");
    let ours = git(&path, ["rev-parse", "HEAD"]);
    let rebase = std::process::Command::new("git")
        .args(["-c", "user.name=T", "-c", "user.email=t@example.org", "rebase", "-q", "other"])
        .current_dir(&path)
        .output()
        .unwrap();
    assert!(!rebase.status.success(), "the rebase must stop at a conflict");
    let released = release(&environment).await;
    let reachable = repository.git(["rev-list", "--branches"]);
    assert!(reachable.contains(&ours), "where the rebase started is kept: {released:?}");
    let texts: Vec<String> = released
        .kept
        .iter()
        .map(|kept| match kept {
            Kept::Branch { name, .. } => repository.show(name, "README"),
            Kept::InPlace { why, .. } => panic!("{why}"),
        })
        .collect();
    assert!(texts.iter().any(|text| text.contains("<<<<<<<")), "{texts:?}");
    assert!(!path.exists());
}

#[tokio::test]
async fn discard_means_discard_and_keep_everything_removes_nothing() {
    let repository = Repository::new();
    let environment = worktree(&repository, "s").await;
    write(&path_of(&environment), "a.txt", "a");
    let released = Orchestrator::with_built_in().release(&environment, Disposal::Discard).await.unwrap();
    assert_eq!(released.kept, []);
    assert_eq!(repository.git(["branch", "--list"]), "* main");
    assert!(!path_of(&environment).exists());

    let environment = worktree(&repository, "s").await;
    let path = path_of(&environment);
    let keeping = Orchestrator::with_built_in().keep_everything(true);
    let released = keeping.release(&environment, Disposal::Discard).await.unwrap();
    assert!(matches!(&released.kept[..], [Kept::InPlace { .. }]));
    assert!(path.join("README").exists());
}

#[tokio::test]
async fn work_that_no_commit_can_hold_keeps_the_worktree() {
    let repository = Repository::new();
    let environment = worktree(&repository, "nested").await;
    let path = path_of(&environment);
    std::fs::create_dir(path.join("inner")).unwrap();
    git(&path.join("inner"), ["init", "-q"]);
    write(&path, "inner/precious.txt", "only here");
    let released = release(&environment).await;
    let Some(Kept::InPlace { why, .. }) = released.kept.first() else { panic!("{released:?}") };
    assert!(why.contains("inner/ is a repository of its own"), "{why}");
    assert!(path.join("inner/precious.txt").exists());
}

#[tokio::test]
async fn a_submodule_goes_when_it_is_clean_and_stays_when_it_holds_work() {
    let library = Repository::new();
    let repository = Repository::new();
    repository.git(["submodule", "--quiet", "add", library.root().to_str().unwrap(), "sub"]);
    repository.commit("submodule");
    for (session, dirty) in [("clean", false), ("dirty", true)] {
        let environment = worktree(&repository, session).await;
        let path = path_of(&environment);
        git(&path, ["submodule", "--quiet", "update", "--init"]);
        if dirty {
            write(&path, "sub/new.txt", "only here");
            commit(&path.join("sub"), "inside");
        }
        let released = release(&environment).await;
        assert_eq!(path.exists(), dirty, "{released:?}");
    }
}

#[tokio::test]
async fn a_commit_hook_or_a_missing_name_is_not_in_the_way_of_saving() {
    use std::os::unix::fs::PermissionsExt as _;
    let repository = Repository::new();
    let hook = repository.root().join(".git/hooks/pre-commit");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, "#!/bin/sh\nexit 1\n").unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let environment = worktree(&repository, "s").await;
    write(&path_of(&environment), "a.txt", "a");
    let released = release(&environment).await;
    assert_eq!(repository.show(released.branch().unwrap(), "a.txt"), "a");
    assert_eq!(repository.git(["log", "-1", "--format=%an", released.branch().unwrap()]), "aiwg-rs");
}
