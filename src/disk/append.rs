//! Edge: files of lines that several processes append to.
//!
//! A line, or several that belong together, goes out in one `write` in append mode, so lines of different writers do
//! not mix. A line that a killed writer left unfinished is closed off by whoever comes next; readers skip it.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::atomic;
use super::fsync::FsyncPolicy;
use super::identity;
use crate::domain::file::FileIdentity;

/// A file that lines are appended to. It is opened when first needed, and again when another one has its name.
#[derive(Debug)]
pub struct LineFile {
    path: PathBuf,
    policy: FsyncPolicy,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    device: u64,
    inode: u64,
    /// Its size after our last append, which ended a line; nothing when that is not certain.
    ended_at: Option<u64>,
}

impl LineFile {
    /// Names a file; opens nothing yet.
    pub fn new(path: impl Into<PathBuf>, policy: FsyncPolicy) -> Self {
        Self { path: path.into(), policy, open: None }
    }

    /// Appends lines in one write; each gets its newline here. Under `Always` they are on disk afterwards, under
    /// `Batch` after the next [`LineFile::sync`].
    ///
    /// # Errors
    /// What the file system says. Part of the text may be in the file then; the next append closes it off.
    pub fn append<'l>(&mut self, lines: impl IntoIterator<Item = &'l str>) -> io::Result<()> {
        let mut text = Vec::new();
        for line in lines {
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
        }
        self.append_whole(&text)
    }

    /// Appends lines that have their newlines already, as [`LineFile::append`] does.
    ///
    /// # Errors
    /// As for [`LineFile::append`].
    pub fn append_whole(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let policy = self.policy;
        let (open, size) = self.current()?;
        // When nobody else has appended, the last line is ours and whole.
        let is_torn = open.ended_at.take() != Some(size) && !ends_a_line(&open.file, size)?;
        let text = if is_torn { Cow::Owned([b"\n", lines].concat()) } else { Cow::Borrowed(lines) };
        open.file.write_all(&text)?;
        let is_whole = text.ends_with(b"\n");
        open.ended_at = u64::try_from(text.len()).ok().filter(|_| is_whole).map(|length| size + length);
        if policy == FsyncPolicy::Always { open.file.sync_data() } else { Ok(()) }
    }

    /// Waits until all that was appended is on disk, unless the policy is `Never`.
    ///
    /// # Errors
    /// What `fdatasync` says.
    pub fn sync(&mut self) -> io::Result<()> {
        match (&self.open, self.policy) {
            (Some(open), FsyncPolicy::Always | FsyncPolicy::Batch) => open.file.sync_data(),
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// The file that has the name now, and its size.
    fn current(&mut self) -> io::Result<(&mut Open, u64)> {
        let there = identity::of_path(&self.path)?;
        let is_it = |open: &Open| {
            there.as_ref().is_some_and(|there| (there.device, there.inode) == (open.device, open.inode))
        };
        if let (Some(open), Some(there)) = (self.open.take().filter(is_it), there) {
            return Ok((self.open.insert(open), there.size_bytes));
        }
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = only_file(options.open(&self.path)?)?;
        if there.is_none() {
            self.policy.sync_directory(atomic::split(&self.path)?.0)?;
        }
        let FileIdentity { device, inode, size_bytes, .. } = identity::of_file(&file)?;
        Ok((self.open.insert(Open { file, device, inode, ended_at: None }), size_bytes))
    }
}

/// Refuses what is no file: a pipe would keep its reader waiting for ever. Opened without waiting, it does not.
fn only_file(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

fn ends_a_line(file: &File, size: u64) -> io::Result<bool> {
    let mut last = [b'\n'];
    if size > 0 {
        file.read_at(&mut last, size - 1)?;
    }
    Ok(last == *b"\n")
}

/// Hands over the whole lines among the last `limit_bytes` of a file, oldest first, without their newlines, and holds no more
/// than one of them; a missing file has none. What is not UTF-8 is replaced; a line that is unfinished, empty, or begins before,
/// is left out.
///
/// # Errors
/// What the file system says.
pub fn tail(path: &Path, limit_bytes: u64, mut line: impl FnMut(&str)) -> io::Result<()> {
    let mut file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => only_file(file)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let from = file.metadata()?.len().saturating_sub(limit_bytes);
    let mut begins_a_line = from == 0 || ends_a_line(&file, from)?;
    file.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::with_capacity(64 * 1024, file.take(limit_bytes));
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        let is_whole = std::mem::replace(&mut begins_a_line, true);
        if let Some(text) = bytes.strip_suffix(b"\n").filter(|text| is_whole && !text.is_empty()) {
            line(&String::from_utf8_lossy(text));
        }
        bytes.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn lines(path: &Path, limit_bytes: u64) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        tail(path, limit_bytes, |line| lines.push(line.to_owned()))?;
        Ok(lines)
    }

    #[test]
    fn a_torn_line_is_closed_off_and_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = LineFile::new(&path, FsyncPolicy::Always);
        log.append(["one"]).unwrap();
        fs::write(&path, "one\ntw").unwrap();
        assert_eq!(lines(&path, 100).unwrap(), ["one"]);
        log.append(["three", "four"]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntw\nthree\nfour\n");
        let mut other = LineFile::new(&path, FsyncPolicy::Never);
        other.append(["five"]).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"si").unwrap();
        log.append(["seven"]).unwrap();
        assert_eq!(lines(&path, 100).unwrap(), ["one", "tw", "three", "four", "five", "si", "seven"]);
    }

    #[test]
    fn a_text_without_its_last_newline_is_closed_off_by_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = LineFile::new(&path, FsyncPolicy::Never);
        log.append_whole(b"one\ntw").unwrap();
        log.append_whole(b"three\n").unwrap();
        assert_eq!(lines(&path, 100).unwrap(), ["one", "tw", "three"]);
    }

    #[test]
    fn the_tail_starts_at_a_whole_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "first\nsecond\nthird\n").unwrap();
        assert_eq!(lines(&path, 9).unwrap(), ["third"]);
        assert_eq!(lines(&path, 6).unwrap(), ["third"]);
        assert_eq!(lines(&path, 5).unwrap(), [""; 0]);
        assert_eq!(lines(&directory.path().join("none"), 6).unwrap(), [""; 0]);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "another program renames as it likes")]
    fn a_file_that_has_gone_or_was_replaced_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = LineFile::new(&path, FsyncPolicy::Batch);
        log.append(["one"]).unwrap();
        fs::rename(&path, directory.path().join("log.1")).unwrap();
        log.append(["two"]).unwrap();
        fs::write(directory.path().join("new"), "other\n").unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        log.append(["three"]).unwrap();
        log.sync().unwrap();
        assert_eq!(lines(&path, 100).unwrap(), ["other", "three"]);
        assert_eq!(lines(&directory.path().join("log.1"), 100).unwrap(), ["one"]);
    }

    #[test]
    fn writers_in_many_threads_do_not_mix() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let mut log = LineFile::new(path, FsyncPolicy::Never);
                    for n in 0..200 {
                        log.append([format!("{writer} {n} {}", "x".repeat(200)).as_str()]).unwrap();
                    }
                });
            }
        });
        let all = lines(&path, u64::MAX).unwrap();
        assert_eq!(all.len(), 1600);
        assert!(all.iter().all(|line| line.len() > 200 && line.ends_with(&"x".repeat(200))));
    }
}
