//! Edge: finds work in a worktree that exists nowhere else, and keeps it on a branch.
//!
//! Work is: changes against `HEAD`, untracked files that are not ignored, and commits that no branch, tag or remote branch
//! reaches. What git ignores is worthless by the repository's own word. Work that a commit cannot hold (repositories
//! nested in the worktree, submodules with work of their own) is an obstacle: the worktree must stay.
//!
//! Saving goes through an index of its own and plumbing commands: a stale `index.lock`, a merge in progress, hooks and a
//! missing user name are not in its way.

use crate::executor::provision::git::{GitError, git, path_of, records};
use std::path::{Path, PathBuf};

/// Branches of saved work start with this.
pub const BRANCH_PREFIX: &str = "aiwg/";

/// How many branches of one name are tried before giving up.
const MOST_BRANCHES: u32 = 1000;

/// What a worktree holds that exists nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Work {
    /// Changed and untracked files, relative to the worktree.
    pub changed: Vec<PathBuf>,
    /// Commits that nothing else reaches: where the worktree stands, and where an interrupted rebase started.
    pub loose_commits: Vec<String>,
    /// Why a commit could not hold it all.
    pub obstacles: Vec<String>,
}

impl Work {
    /// Says whether removing the worktree loses nothing.
    pub fn is_none(&self) -> bool {
        self.changed.is_empty() && self.loose_commits.is_empty() && self.obstacles.is_empty()
    }
}

/// A branch with saved work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Its short name.
    pub branch: String,
    /// What it points to.
    pub commit: String,
}

/// Looks for work.
///
/// # Errors
/// Git cannot tell: then the worktree must stay.
pub async fn inspect(worktree: &Path, own_files: &[PathBuf]) -> Result<Work, GitError> {
    let mut work = Work::default();
    if !private_directory(worktree).is_some_and(|directory| directory.is_dir()) {
        // Git would answer for the repository around it.
        return Err(GitError::Failed {
            command: "status".to_owned(),
            directory: worktree.to_owned(),
            message: "its .git file is gone or leads nowhere, so git cannot tell what is in it".to_owned(),
        });
    }
    let status = git(
        worktree,
        ["status", "--porcelain=v1", "-z", "--untracked-files=all", "--ignore-submodules=none"],
    )
    .env("GIT_OPTIONAL_LOCKS", "0")
    .bytes()
    .await?;
    let mut entries = records(&status);
    while let Some(entry) = entries.next() {
        let (Some(code), Some(name)) = (entry.get(..2), entry.get(3..)) else { continue };
        if code.iter().any(|c| matches!(c, b'R' | b'C')) {
            let _from = entries.next();
        }
        let path = path_of(name);
        if own_files.iter().any(|own| own == path) {
            continue;
        }
        if name.ends_with(b"/") {
            work.obstacles.push(format!("{} is a repository of its own", path.display()));
        } else {
            work.changed.push(path.to_owned());
        }
    }
    for tip in tips(worktree).await? {
        let unreached = git(worktree, ["rev-list", "-1", &tip, "--not", "--branches", "--tags", "--remotes"]);
        if !unreached.text().await?.is_empty() {
            work.loose_commits.push(tip);
        }
    }
    work.obstacles.extend(submodules_with_work(worktree).await?);
    Ok(work)
}

/// Returns where the worktree stands, and where a rebase that is under way started.
async fn tips(worktree: &Path) -> Result<Vec<String>, GitError> {
    let mut tips = Vec::new();
    if let Some(head) = head(worktree).await? {
        tips.push(head);
    }
    if let Some(directory) = private_directory(worktree) {
        for state in ["rebase-merge/orig-head", "rebase-apply/orig-head"] {
            if let Ok(commit) = std::fs::read_to_string(directory.join(state)) {
                tips.push(commit.trim().to_owned());
            }
        }
    }
    tips.dedup();
    Ok(tips)
}

/// Returns the commit that a worktree stands on; `None` on a branch without commits.
///
/// # Errors
/// Git cannot tell.
pub async fn head(worktree: &Path) -> Result<Option<String>, GitError> {
    match git(worktree, ["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).text().await {
        Ok(commit) => Ok(Some(commit)),
        Err(GitError::Failed { message, .. }) if message.starts_with("exit status: 1") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the directory where the repository keeps what belongs to this worktree alone.
pub fn private_directory(worktree: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(worktree.join(".git")).ok()?;
    Some(worktree.join(text.strip_prefix("gitdir:")?.trim()))
}

async fn submodules_with_work(worktree: &Path) -> Result<Vec<String>, GitError> {
    let modules = private_directory(worktree).map(|directory| directory.join("modules"));
    if !modules.is_some_and(|modules| modules.is_dir()) {
        return Ok(Vec::new());
    }
    let listed =
        git(worktree, ["submodule", "foreach", "--quiet", "--recursive", "printf '%s\\0' \"$displaypath\""]);
    let mut with_work = Vec::new();
    for path in records(&listed.bytes().await?).map(path_of) {
        let directory = worktree.join(path);
        let changed = git(&directory, ["status", "--porcelain", "--untracked-files=all"]).text().await?;
        let loose = git(&directory, ["rev-list", "-1", "HEAD", "--branches", "--tags", "--not", "--remotes"]);
        let stashed =
            git(&directory, ["rev-parse", "--verify", "--quiet", "refs/stash"]).text().await.is_ok();
        if stashed || !changed.is_empty() || !loose.text().await?.is_empty() {
            with_work.push(format!("the submodule {} holds work that exists nowhere else", path.display()));
        }
    }
    Ok(with_work)
}

/// Keeps work on branches `aiwg/<name>`, `aiwg/<name>-2`, …; a branch that is there is never moved.
///
/// # Errors
/// Git cannot: then the worktree must stay.
pub async fn save(
    worktree: &Path,
    name: &str,
    message: &str,
    work: &Work,
    own_files: &[PathBuf],
) -> Result<Vec<Saved>, GitError> {
    let head = head(worktree).await?;
    let mut commits = work.loose_commits.clone();
    if !work.changed.is_empty()
        && let Some(commit) = commit_changes(worktree, head.as_deref(), message, own_files).await?
    {
        // It stands on the head, so it keeps that too.
        commits.retain(|loose| Some(loose) != head.as_ref());
        commits.insert(0, commit);
    }
    let mut saved = Vec::new();
    for commit in commits {
        saved.push(branch(worktree, name, &commit).await?);
    }
    Ok(saved)
}

/// Makes a commit of all changes; `None` when they amount to nothing.
async fn commit_changes(
    worktree: &Path,
    head: Option<&str>,
    message: &str,
    own_files: &[PathBuf],
) -> Result<Option<String>, GitError> {
    let index = TemporaryIndex::beside(worktree).await?;
    let with_index = |arguments: Vec<String>| git(worktree, arguments).env("GIT_INDEX_FILE", &index.path);
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    with_index(words(&["add", "--all", "--sparse", "--", ":/"])).run().await?;
    if !own_files.is_empty() {
        // Excluding them from the adding would fail where they are ignored.
        let mut reset = words(&["reset", "--quiet", "--"]);
        reset.extend(own_files.iter().map(|file| format!(":(top,literal){}", file.display())));
        with_index(reset).run().await?;
    }
    let tree = with_index(vec!["write-tree".to_owned()]).text().await?;
    if let Some(head) = head
        && git(worktree, ["rev-parse", &format!("{head}^{{tree}}")]).text().await? == tree
    {
        return Ok(None);
    }
    let mut commit = git(worktree, ["commit-tree", &tree, "-m", message])
        .env("GIT_AUTHOR_NAME", "aiwg-rs")
        .env("GIT_AUTHOR_EMAIL", "aiwg-rs@localhost")
        .env("GIT_COMMITTER_NAME", "aiwg-rs")
        .env("GIT_COMMITTER_EMAIL", "aiwg-rs@localhost");
    if let Some(head) = head {
        commit = commit.arg("-p").arg(head);
    }
    commit.text().await.map(Some)
}

/// A copy of the worktree's index that goes when dropped.
#[derive(Debug)]
struct TemporaryIndex {
    path: PathBuf,
}

impl TemporaryIndex {
    async fn beside(worktree: &Path) -> Result<Self, GitError> {
        let index =
            git(worktree, ["rev-parse", "--path-format=absolute", "--git-path", "index"]).text().await?;
        let index = PathBuf::from(index);
        let path = index.with_file_name("aiwg-save-index");
        let copied = match std::fs::copy(&index, &path) {
            // A worktree that was never checked out has none; git starts an empty one.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => Ok(()),
        };
        copied.map_err(|source| GitError::NotStarted { source })?;
        Ok(Self { path })
    }
}

impl Drop for TemporaryIndex {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
        drop(std::fs::remove_file(self.path.with_extension("lock")));
    }
}

async fn branch(worktree: &Path, name: &str, commit: &str) -> Result<Saved, GitError> {
    let mut failure = None;
    for number in 1..=MOST_BRANCHES {
        let suffix = if number == 1 { String::new() } else { format!("-{number}") };
        let branch = format!("{BRANCH_PREFIX}{name}{suffix}");
        let reference = format!("refs/heads/{branch}");
        let there = git(worktree, ["rev-parse", "--verify", "--quiet", &reference]).text().await;
        match there {
            Ok(found) if found == commit => return Ok(Saved { branch, commit: found }),
            Ok(_another) => continue,
            Err(_absent) => {}
        }
        // The zero id means: only if there is none.
        let zero = "0".repeat(commit.len());
        let message = "aiwg-rs: keep the work of a worktree";
        match git(worktree, ["update-ref", "-m", message, &reference, commit, &zero]).run().await {
            Ok(()) => return Ok(Saved { branch, commit: commit.to_owned() }),
            Err(error) if error.is_lock_conflict() => failure = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(failure.unwrap_or_else(|| GitError::Failed {
        command: "update-ref".to_owned(),
        directory: worktree.to_owned(),
        message: format!("there are {MOST_BRANCHES} branches {BRANCH_PREFIX}{name} already"),
    }))
}
