//! Edge: when written bytes are forced out of the page cache.

use std::fs::File;
use std::io;
use std::path::Path;

/// How hard we try that a power cut takes nothing back. A killed process loses nothing under any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FsyncPolicy {
    /// After every line and every file.
    Always,
    /// Once per write cycle: what goes out together is synced together. The default, because a cycle that waits for
    /// its sync collects the updates that arrive meanwhile, so the cost does not grow with the load.
    #[default]
    Batch,
    /// Never; the kernel writes when it likes.
    Never,
}

/// A word that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is not one of always, batch, never")]
pub struct FsyncPolicyError {
    /// The refused word.
    pub word: String,
}

impl std::str::FromStr for FsyncPolicy {
    type Err = FsyncPolicyError;
    fn from_str(word: &str) -> Result<Self, FsyncPolicyError> {
        match word {
            "always" => Ok(Self::Always),
            "batch" => Ok(Self::Batch),
            "never" => Ok(Self::Never),
            _ => Err(FsyncPolicyError { word: word.to_owned() }),
        }
    }
}

impl FsyncPolicy {
    /// Syncs a finished file, unless the policy is `Never`.
    pub(crate) fn sync_file(self, file: &File) -> io::Result<()> {
        match self {
            Self::Always | Self::Batch => file.sync_all(),
            Self::Never => Ok(()),
        }
    }

    /// Syncs the names in a directory, unless the policy is `Never`.
    pub(crate) fn sync_directory(self, directory: &Path) -> io::Result<()> {
        match self {
            Self::Always | Self::Batch => File::open(directory)?.sync_all(),
            Self::Never => Ok(()),
        }
    }
}
