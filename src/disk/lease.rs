//! Edge: tells whether some process still has a file open for writing.
//!
//! Linux grants a read lease on a file only while nobody holds it open for writing, in this process or in another.
//! Asking for one and giving it back is therefore the question itself. Neither rustix nor nix wraps the call, so this
//! file holds the only unsafe code of the crate.
//!
//! While a lease is held, somebody who opens the file for writing has the kernel send us a signal, and the one it
//! sends by default ends the process. So the lease is bound to SIGURG first, which nobody waits for and whose default
//! is to be ignored. Held for a moment, a lease is also the one way to keep programs out that know nothing of us: they
//! wait in `open`, for 45 seconds at most, and we can see that they do.

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
pub fn writers(file: &File) -> io::Result<Writers> {
    Ok(match ReadLease::take(file)? {
        Taken::Lease(_given_back) => Writers::None,
        Taken::Refused(writers) => writers,
    })
}

/// What came of asking for a lease.
#[derive(Debug)]
pub enum Taken<'f> {
    /// Nobody has the file open for writing, and whoever wants to now has to wait for us.
    Lease(ReadLease<'f>),
    /// Somebody has, or nobody can tell.
    Refused(Writers),
}

/// Keeps others from opening a file for writing: they wait until it is dropped. Hold it for a moment only.
#[derive(Debug)]
pub struct ReadLease<'f> {
    file: &'f File,
}

#[cfg(target_os = "linux")]
impl<'f> ReadLease<'f> {
    /// Takes the lease if nobody has the file open for writing. The file must have been opened for reading only.
    ///
    /// # Errors
    /// What `fcntl` says, except for the answers that [`Writers`] covers.
    pub fn take(file: &'f File) -> io::Result<Taken<'f>> {
        control(file, F_SETSIG, libc::SIGURG)?;
        match control(file, libc::F_SETLEASE, libc::F_RDLCK) {
            Ok(_) => Ok(Taken::Lease(Self { file })),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(Taken::Refused(Writers::Some)),
                Some(
                    libc::EINVAL
                    | libc::EACCES
                    | libc::EPERM
                    | libc::ENOSYS
                    | libc::EOPNOTSUPP
                    | libc::ENOLCK,
                ) => Ok(Taken::Refused(Writers::Unknown)),
                _ => Err(error),
            },
        }
    }

    /// Says whether somebody waits for us to open the file for writing.
    ///
    /// # Errors
    /// What `fcntl` says.
    pub fn is_wanted(&self) -> io::Result<bool> {
        Ok(control(self.file, libc::F_GETLEASE, 0)? != libc::F_RDLCK)
    }
}

#[cfg(target_os = "linux")]
impl Drop for ReadLease<'_> {
    fn drop(&mut self) {
        // Giving back what we hold cannot fail; if it did, closing the file gives it back too.
        control(self.file, libc::F_SETLEASE, libc::F_UNLCK).ok();
    }
}

#[cfg(target_os = "linux")]
fn control(file: &File, command: libc::c_int, argument: libc::c_int) -> io::Result<libc::c_int> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the commands of this file take an integer.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

#[cfg(not(target_os = "linux"))]
impl<'f> ReadLease<'f> {
    /// Takes no lease: only Linux has them.
    ///
    /// # Errors
    /// None.
    pub fn take(_file: &'f File) -> io::Result<Taken<'f>> {
        Ok(Taken::Refused(Writers::Unknown))
    }

    /// Says whether somebody waits for us to open the file for writing.
    ///
    /// # Errors
    /// None.
    pub fn is_wanted(&self) -> io::Result<bool> {
        Ok(false)
    }
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
    fn whoever_wants_to_write_waits_for_the_lease_and_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, "x").unwrap();
        let reader = File::open(&path).unwrap();
        let Taken::Lease(lease) = ReadLease::take(&reader).unwrap() else {
            panic!("refused");
        };
        assert!(!lease.is_wanted().unwrap());
        std::thread::scope(|scope| {
            let opener = scope.spawn(|| std::fs::write(&path, "theirs").unwrap());
            while !lease.is_wanted().unwrap() {
                std::thread::yield_now();
            }
            assert_eq!(
                std::fs::read(&path).unwrap(),
                b"x",
                "a waiting writer has not truncated the file yet"
            );
            drop(lease);
            opener.join().unwrap();
        });
        assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
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
