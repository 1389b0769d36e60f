//! Edge: one `git` command: arguments as a vector, no questions asked, an end to every wait.
//!
//! The user's own git does the work, so hooks, filters and credential helpers behave as they do for the user. Variables
//! that would point git at another repository are taken away; the language is fixed so that messages can be read.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// The longest that a command may take: a checkout of a large tree over a slow disk, with LFS downloads.
const PATIENCE: Duration = Duration::from_secs(600);

/// Output beyond this is an error: nothing that is asked here has so much to say. 256 MiB is a million long paths.
const MAX_OUTPUT_BYTES: usize = 256 * 1024 * 1024;

/// A git command that failed.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git.
    #[error("run git: {source}")]
    NotStarted {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It did not end in time.
    #[error("git {command} in {} did not end within {} s", directory.display(), PATIENCE.as_secs())]
    TooSlow {
        /// Its arguments.
        command: String,
        /// Where it ran.
        directory: PathBuf,
    },
    /// It ended with an error.
    #[error("git {command} in {}: {message}", directory.display())]
    Failed {
        /// Its arguments.
        command: String,
        /// Where it ran.
        directory: PathBuf,
        /// What it said.
        message: String,
    },
}

impl GitError {
    /// Says whether another git process was in the way, so that trying again may help.
    pub fn is_lock_conflict(&self) -> bool {
        let Self::Failed { message, .. } = self else {
            return false;
        };
        let message = message.to_ascii_lowercase();
        (message.contains(".lock")
            && (message.contains("file exists") || message.contains("unable to create")))
            || message.contains("could not lock")
            || message.contains("cannot lock ref")
            || message.contains("another git process")
    }
}

/// One command in the making.
#[derive(Debug)]
pub struct Git {
    directory: PathBuf,
    arguments: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    input: Vec<u8>,
}

/// Starts a command that runs in `directory`.
pub fn git<A: AsRef<OsStr>>(directory: &Path, arguments: impl IntoIterator<Item = A>) -> Git {
    Git {
        directory: directory.to_owned(),
        arguments: arguments.into_iter().map(|a| a.as_ref().to_owned()).collect(),
        env: Vec::new(),
        input: Vec::new(),
    }
}

impl Git {
    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key, value.as_ref().to_owned()));
        self
    }

    /// Gives it something to read.
    #[must_use]
    pub fn input(mut self, bytes: Vec<u8>) -> Self {
        self.input = bytes;
        self
    }

    /// Runs it and returns what it wrote to standard output.
    ///
    /// # Errors
    /// [`GitError`]; its message is git's own.
    ///
    /// # Cancel safety
    /// Dropping the future kills the command.
    pub async fn bytes(self) -> Result<Vec<u8>, GitError> {
        let command = self.shown();
        let Self { directory, arguments, env, input } = self;
        let mut process = tokio::process::Command::new("git");
        for inherited in [
            "GIT_DIR",
            "GIT_WORK_TREE",
            "GIT_INDEX_FILE",
            "GIT_COMMON_DIR",
            "GIT_OBJECT_DIRECTORY",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES",
            "GIT_NAMESPACE",
            "GIT_PREFIX",
        ] {
            process.env_remove(inherited);
        }
        process
            .args(arguments)
            .current_dir(&directory)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_EDITOR", "true")
            .env("LC_ALL", "C")
            .envs(env)
            .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = process.spawn().map_err(|source| GitError::NotStarted { source })?;
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A command that ends without reading everything says so by its status.
                drop(stdin.write_all(&input).await);
            }
        };
        let ended = async {
            let ((), output) = tokio::join!(feed, child.wait_with_output());
            output
        };
        let output = match tokio::time::timeout(PATIENCE, ended).await {
            Ok(Ok(output)) => output,
            Ok(Err(source)) => return Err(GitError::NotStarted { source }),
            Err(_elapsed) => return Err(GitError::TooSlow { command, directory }),
        };
        if output.status.success() && output.stdout.len() <= MAX_OUTPUT_BYTES {
            return Ok(output.stdout);
        }
        let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        let said = String::from_utf8_lossy(said);
        let lines: Vec<&str> = said.lines().map(str::trim).collect();
        let mut message: String = lines.join("; ").chars().take(4000).collect();
        if message.is_empty() {
            message = output.status.to_string();
        }
        Err(GitError::Failed { command, directory, message })
    }

    /// Runs it and returns its output as trimmed text.
    ///
    /// # Errors
    /// As [`Git::bytes`].
    pub async fn text(self) -> Result<String, GitError> {
        let bytes = self.bytes().await?;
        Ok(String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned())
    }

    /// Runs it for its effect.
    ///
    /// # Errors
    /// As [`Git::bytes`].
    pub async fn run(self) -> Result<(), GitError> {
        self.bytes().await.map(drop)
    }

    fn shown(&self) -> String {
        let words: Vec<_> = self.arguments.iter().map(|a| a.to_string_lossy()).collect();
        words.join(" ").chars().take(200).collect()
    }
}

/// Splits output of a `-z` command.
pub fn records(output: &[u8]) -> impl Iterator<Item = &[u8]> {
    output.split(|byte| *byte == 0).filter(|record| !record.is_empty())
}

/// Makes a path of bytes that git printed.
pub fn path_of(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(OsStr::from_bytes(bytes))
}

/// Where a repository keeps things.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repository {
    /// The top of the working tree that was asked about.
    pub top_level: PathBuf,
    /// The directory that all its worktrees share.
    pub common_directory: PathBuf,
}

/// Why a directory is in no usable repository.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// No repository.
    #[error("{} is in no git repository; start in one, or run `git init` there", directory.display())]
    None {
        /// The directory.
        directory: PathBuf,
    },
    /// No working tree.
    #[error("{} is in a bare repository, which has no files to work on; give a working tree of it", directory.display())]
    Bare {
        /// The directory.
        directory: PathBuf,
    },
    /// Git failed.
    #[error(transparent)]
    Git(#[from] GitError),
}

/// Finds the repository that holds `directory`.
///
/// # Errors
/// [`RepositoryError`] says what it is instead.
pub async fn find_repository(directory: &Path) -> Result<Repository, RepositoryError> {
    let asked =
        git(directory, ["rev-parse", "--path-format=absolute", "--git-common-dir", "--show-toplevel"])
            .text()
            .await;
    match asked {
        Ok(text) => {
            let mut lines = text.lines();
            match (lines.next(), lines.next()) {
                (Some(common), Some(top)) if !top.is_empty() => {
                    Ok(Repository { top_level: PathBuf::from(top), common_directory: PathBuf::from(common) })
                }
                _ => Err(RepositoryError::Bare { directory: directory.to_owned() }),
            }
        }
        Err(GitError::Failed { message, .. }) if message.contains("not a git repository") => {
            Err(RepositoryError::None { directory: directory.to_owned() })
        }
        Err(GitError::Failed { message, .. }) if message.contains("must be run in a work tree") => {
            Err(RepositoryError::Bare { directory: directory.to_owned() })
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(message: &str) -> GitError {
        GitError::Failed { command: String::new(), directory: PathBuf::new(), message: message.to_owned() }
    }

    #[test]
    fn lock_conflicts_are_told_from_other_failures() {
        for lock in [
            "fatal: Unable to create '/r/.git/index.lock': File exists.; Another git process seems to be running",
            "error: could not lock config file .git/config: File exists",
            "fatal: cannot lock ref 'refs/heads/x': is at 1 but expected 2",
        ] {
            assert!(failed(lock).is_lock_conflict(), "{lock}");
        }
        for other in
            ["fatal: invalid reference: nope", "fatal: '/w' already exists", "No space left on device"]
        {
            assert!(!failed(other).is_lock_conflict(), "{other}");
        }
    }

    #[tokio::test]
    async fn a_directory_outside_any_repository_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = find_repository(directory.path()).await.unwrap_err();
        assert!(matches!(error, RepositoryError::None { .. }), "{error}");
        git(directory.path(), ["init", "-q", "--bare"]).run().await.unwrap();
        let error = find_repository(directory.path()).await.unwrap_err();
        assert!(matches!(error, RepositoryError::Bare { .. }), "{error}");
    }
}
