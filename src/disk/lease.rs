//! Edge: tells whether some process still has a file open for writing.
//!
//! Linux grants a read lease on a file only while nobody holds it open for writing, in this process or in another.
//! Asking for one and giving it back is therefore the question itself. Neither rustix nor nix wraps the call, so this
//! file holds the only unsafe code of the crate.
//!
//! While a lease is held, somebody who opens the file for writing has the kernel send us a signal, and the one it
//! sends by default ends the process. So the lease is bound to SIGURG first, which nobody waits for and whose default
//! is to be ignored; and the lease is given back at once.

#![cfg_attr(target_os = "linux", expect(unsafe_code, reason = "fcntl(F_SETLEASE) has no safe wrapper"))]

use std::fs::File;
use std::io;

/// `F_SETSIG` of Linux, the same number on every architecture that Rust supports there; libc lacks it.
#[cfg(target_os = "linux")]
const F_SETSIG: libc::c_int = 10;

/// Who has a file open for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// Nobody.
    None,
    /// At least one process, perhaps this one.
    Some,
    /// The file system or our rights do not let us know.
    Unknown,
}

/// Asks who has this file open for writing. The file must have been opened for reading only.
///
/// # Errors
/// What `fcntl` says, except for the answers that [`Writers`] covers.
#[cfg(target_os = "linux")]
pub fn writers(file: &File) -> io::Result<Writers> {
    use std::os::fd::AsRawFd;

    let descriptor = file.as_raw_fd();
    let control = |command: libc::c_int, argument: libc::c_int| {
        // SAFETY: the descriptor is open for as long as `file` is borrowed, and these commands take an integer.
        let answer = unsafe { libc::fcntl(descriptor, command, argument) };
        if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    control(F_SETSIG, libc::SIGURG)?;
    match control(libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => {
            control(libc::F_SETLEASE, libc::F_UNLCK)?;
            Ok(Writers::None)
        }
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(Writers::Some),
            Some(
                libc::EINVAL | libc::EACCES | libc::EPERM | libc::ENOSYS | libc::EOPNOTSUPP | libc::ENOLCK,
            ) => Ok(Writers::Unknown),
            _ => Err(error),
        },
    }
}

/// Asks who has this file open for writing; only Linux can tell.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn writers(_file: &File) -> io::Result<Writers> {
    Ok(Writers::Unknown)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    #[test]
    fn a_writer_is_seen_until_it_closes_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert_eq!(writers(&reader).unwrap(), Writers::Some);
        drop(writer);
        assert_eq!(writers(&reader).unwrap(), Writers::None);
        let appender = OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(writers(&reader).unwrap(), Writers::Some);
        drop(appender);
    }

    #[test]
    fn asking_while_others_open_the_file_neither_kills_us_nor_stays_in_their_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, "x").unwrap();
        let reader = File::open(&path).unwrap();
        std::thread::scope(|scope| {
            let opener = scope.spawn(|| {
                for _round in 0..2000 {
                    drop(OpenOptions::new().write(true).open(&path).unwrap());
                }
            });
            while !opener.is_finished() {
                writers(&reader).unwrap();
            }
        });
        assert_eq!(writers(&reader).unwrap(), Writers::None);
    }
}
