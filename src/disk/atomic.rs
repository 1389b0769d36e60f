//! Edge: replaces files so that every reader sees the old bytes or the new ones, never a mixture.
//!
//! A [`Staged`] file lies complete beside its target. It can take the target's place, or change places with it, which
//! shows what was really there at that instant: the only way to notice a writer who knows of no lock.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::fsync::FsyncPolicy;
use super::lease::{self, Writers};

/// Ends the names of files that are still being written: nobody but their writer ever needs them.
pub const UNFINISHED_SUFFIX: &str = ".new.tmp";

/// Ends the names of all our temporary files.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// What a file system can do for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Two files can change places in one step.
    pub exchange: bool,
    /// Leases tell whether somebody writes a file.
    pub leases: bool,
}

/// Tries in a directory what its file system can do. Leaves nothing behind.
///
/// # Errors
/// When no file can be made there.
pub fn probe(directory: &Path) -> io::Result<Capabilities> {
    let make = || tempfile::Builder::new().prefix(".probe.").suffix(TEMPORARY_SUFFIX).tempfile_in(directory);
    let (left, right) = (make()?.into_temp_path(), make()?.into_temp_path());
    let exchange = match exchange(&left, &right) {
        Ok(()) => true,
        Err(error) if is_unsupported(&error) => false,
        Err(error) => return Err(error),
    };
    let leases = lease::writers(&File::open(&left)?)? == Writers::None;
    left.close()?;
    right.close()?;
    Ok(Capabilities { exchange, leases })
}

/// Says whether an error means that the file system cannot do this at all.
pub fn is_unsupported(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
        || matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP))
}

/// Lets two files change places in one step.
///
/// # Errors
/// What `renameat2` says; see [`is_unsupported`].
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub fn exchange(left: &Path, right: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, left, CWD, right, RenameFlags::EXCHANGE).map_err(io::Error::from)
}

/// Lets two files change places in one step; not on this system.
///
/// # Errors
/// Always.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub fn exchange(_left: &Path, _right: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives a file another name, replacing what has it.
///
/// # Errors
/// What `rename` says.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that renames; callers sync the directory"
)]
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Gives a file another name, unless that is taken: then the error is of kind `AlreadyExists`.
///
/// # Errors
/// What `renameat2`, or `link` and `unlink`, say.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(io::Error::from) {
            Err(error) if is_unsupported(&error) => {}
            other => return other,
        }
    }
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

/// A complete file beside its target. It stays when dropped: after an exchange it holds somebody else's bytes.
#[derive(Debug)]
#[must_use = "a staged file changes nothing until it takes its target's place"]
pub struct Staged {
    path: PathBuf,
}

impl Staged {
    /// Writes `bytes` beside `target`, syncs them, and names the file `.<target>.<tag>.tmp`.
    ///
    /// With `like` it gets that mode and owner; else the mode is `0644` less the umask. Until the bytes are complete the
    /// name ends in [`UNFINISHED_SUFFIX`], so a leftover under the final name is always whole.
    ///
    /// # Errors
    /// What the file system says; nothing is left behind then.
    pub fn beside(
        target: &Path,
        tag: &str,
        bytes: &[u8],
        like: Option<&Metadata>,
        policy: FsyncPolicy,
    ) -> io::Result<Self> {
        let (directory, name) = split(target)?;
        let path = directory.join(dotted(name, &format!("{tag}{TEMPORARY_SUFFIX}")));
        place(target, bytes, like, policy, &path)?;
        Ok(Self { path })
    }

    /// Returns where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes places with `target`: what was there lies under [`Staged::path`] afterwards.
    ///
    /// # Errors
    /// What `renameat2` says; nothing has changed then.
    pub fn exchange_with(&self, target: &Path) -> io::Result<()> {
        exchange(&self.path, target)
    }

    /// Takes the place of `target`.
    ///
    /// # Errors
    /// What `rename` says; the staged file is removed then.
    pub fn replace(self, target: &Path, policy: FsyncPolicy) -> io::Result<()> {
        if let Err(error) = rename(&self.path, target) {
            self.discard()?;
            return Err(error);
        }
        policy.sync_directory(split(target)?.0)
    }

    /// Takes the name `target` if it is free.
    ///
    /// # Errors
    /// `AlreadyExists` when it is not, else what `renameat2` says; the staged file is removed then.
    pub fn create(self, target: &Path, policy: FsyncPolicy) -> io::Result<()> {
        if let Err(error) = rename_new(&self.path, target) {
            self.discard()?;
            return Err(error);
        }
        policy.sync_directory(split(target)?.0)
    }

    /// Removes the file.
    ///
    /// # Errors
    /// What `unlink` says.
    pub fn discard(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Writes a file whole, replacing what is there.
///
/// # Errors
/// What the file system says; the old file is untouched then.
pub fn write(target: &Path, bytes: &[u8], policy: FsyncPolicy) -> io::Result<()> {
    let like = match fs::metadata(target) {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    place(target, bytes, like.as_ref(), policy, target)?;
    policy.sync_directory(split(target)?.0)
}

/// Writes `bytes` beside `target`, syncs them, and gives them the name `path` in the same directory.
fn place(
    target: &Path,
    bytes: &[u8],
    like: Option<&Metadata>,
    policy: FsyncPolicy,
    path: &Path,
) -> io::Result<()> {
    let (directory, name) = split(target)?;
    let mut builder = tempfile::Builder::new();
    let prefix = dotted(name, "");
    builder.prefix(&prefix).suffix(UNFINISHED_SUFFIX).rand_bytes(8);
    builder.permissions(fs::Permissions::from_mode(0o644));
    let mut file = builder.tempfile_in(directory)?;
    file.write_all(bytes)?;
    if let Some(like) = like {
        resemble(file.as_file(), like)?;
    }
    policy.sync_file(file.as_file())?;
    let unfinished = file.into_temp_path();
    rename(&unfinished, path)?;
    unfinished.keep().map_err(|error| error.error)?;
    Ok(())
}

/// Returns sixteen hexadecimal digits that nobody else has.
///
/// # Errors
/// When the system has no randomness.
pub fn random_tag() -> io::Result<String> {
    let number = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    Ok(format!("{number:016x}"))
}

fn resemble(file: &File, like: &Metadata) -> io::Result<()> {
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
        match std::os::unix::fs::fchown(file, Some(like.uid()), Some(like.gid())) {
            // Only root may give files away. Others can read the new file as they could the old one: see the mode.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    file.set_permissions(fs::Permissions::from_mode(like.mode() & 0o7777))
}

/// Splits a path into its directory and its last segment.
pub(crate) fn split(path: &Path) -> io::Result<(&Path, &std::ffi::OsStr)> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path has no directory or no file name"));
    };
    Ok((if directory.as_os_str().is_empty() { Path::new(".") } else { directory }, name))
}

fn dotted(name: &std::ffi::OsStr, rest: &str) -> OsString {
    let mut dotted = OsString::from(".");
    dotted.push(name);
    dotted.push(".");
    dotted.push(rest);
    dotted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_replaced_file_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        write(&path, b"one", FsyncPolicy::Always).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        write(&path, b"two", FsyncPolicy::Batch).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(names(directory.path()), ["f"]);
    }

    #[test]
    fn exchange_shows_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let capabilities = probe(directory.path()).unwrap();
        assert_eq!(names(directory.path()), [""; 0]);
        if !capabilities.exchange {
            println!("skipped: this file system cannot exchange");
            return;
        }
        let path = directory.path().join("f");
        fs::write(&path, "theirs").unwrap();
        let staged = Staged::beside(&path, "t", b"ours", None, FsyncPolicy::Never).unwrap();
        staged.exchange_with(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "ours");
        assert_eq!(fs::read_to_string(staged.path()).unwrap(), "theirs");
        assert_eq!(names(directory.path()), [".f.t.tmp", "f"]);
        staged.discard().unwrap();
    }

    #[test]
    fn create_never_overwrites() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let stage = |bytes: &[u8]| Staged::beside(&path, "t", bytes, None, FsyncPolicy::Never).unwrap();
        stage(b"one").create(&path, FsyncPolicy::Never).unwrap();
        let error = stage(b"two").create(&path, FsyncPolicy::Never).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(names(directory.path()), ["f"]);
    }
}
