//! Edge: copies what git ignores but an agent needs (`.env`, local settings) into a new worktree.
//!
//! `.worktreeinclude` at the top of the repository holds patterns as in `.gitignore`. A file is copied when it matches *and*
//! is ignored: tracked files are in the worktree already, and untracked ones are somebody's unfinished work. Nothing
//! is overwritten, and nothing is written through a symbolic link that leads out.

use crate::executor::provision::git::{GitError, git, path_of, records};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file of patterns.
pub const FILE: &str = ".worktreeinclude";

/// Something could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum IncludeError {
    /// Git cannot say what matches.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A copy failed.
    #[error("copy {} as {FILE} asks: {source}", path.display())]
    Copy {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The copying thread died.
    #[error("copy what {FILE} asks for: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

/// Copies into `worktree` what `.worktreeinclude` of `repository` asks for, and returns what was copied. `skip` is not looked into.
///
/// # Errors
/// [`IncludeError`]; what was copied before stays.
pub async fn copy(repository: &Path, worktree: &Path, skip: &Path) -> Result<Vec<PathBuf>, IncludeError> {
    if !repository.join(FILE).is_file() {
        return Ok(Vec::new());
    }
    let matching = git(repository, ["ls-files", "-z", "--others", "--ignored"])
        .arg(format!("--exclude-from={FILE}"))
        .bytes()
        .await?;
    if matching.is_empty() {
        return Ok(Vec::new());
    }
    let ignored = match git(repository, ["check-ignore", "-z", "--stdin"]).input(matching).bytes().await {
        Ok(ignored) => ignored,
        // Nothing is ignored.
        Err(GitError::Failed { message, .. }) if message.starts_with("exit status: 1") => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error.into()),
    };
    let (repository, worktree, skip) = (repository.to_owned(), worktree.to_owned(), skip.to_owned());
    tokio::task::spawn_blocking(move || {
        let mut copied = Vec::new();
        for path in records(&ignored).map(path_of) {
            if repository.join(path).starts_with(&skip) {
                continue;
            }
            match copy_one(&repository, &worktree, path) {
                Ok(true) => copied.push(path.to_owned()),
                Ok(false) => {}
                Err(source) => return Err(IncludeError::Copy { path: path.to_owned(), source }),
            }
        }
        Ok(copied)
    })
    .await?
}

fn copy_one(repository: &Path, worktree: &Path, path: &Path) -> io::Result<bool> {
    let (from, to) = (repository.join(path), worktree.join(path));
    let kind = fs::symlink_metadata(&from)?.file_type();
    if fs::symlink_metadata(&to).is_ok() || !(kind.is_file() || kind.is_symlink()) {
        return Ok(false);
    }
    let parent = to.parent().unwrap_or(worktree);
    let existing = parent.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(worktree);
    if !existing.canonicalize()?.starts_with(worktree.canonicalize()?) {
        return Ok(false);
    }
    fs::create_dir_all(parent)?;
    if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
    } else {
        let mut source = fs::File::open(&from)?;
        let mut target = fs::OpenOptions::new().write(true).create_new(true).open(&to)?;
        io::copy(&mut source, &mut target)?;
        target.set_permissions(source.metadata()?.permissions())?;
    }
    Ok(true)
}
