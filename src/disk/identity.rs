//! Edge: reads the identity of a file.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::domain::file::FileIdentity;

/// Takes the identity out of metadata.
pub fn of_metadata(metadata: &Metadata) -> FileIdentity {
    let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    FileIdentity {
        device: metadata.dev(),
        inode: metadata.ino(),
        size_bytes: metadata.size(),
        modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
    }
}

/// Returns the identity of an open file.
///
/// # Errors
/// What `fstat` says.
pub fn of_file(file: &File) -> io::Result<FileIdentity> {
    file.metadata().map(|metadata| of_metadata(&metadata))
}

/// Returns the identity of what a path names, links followed; nothing when nothing is there.
///
/// # Errors
/// What `stat` says, except that the file is missing.
pub fn of_path(path: &Path) -> io::Result<Option<FileIdentity>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(of_metadata(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
