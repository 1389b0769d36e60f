//! Edge: files of lines that several processes append to.
//!
//! A line, or several that belong together, goes out in one `write` in append mode, so lines of different writers do
//! not mix. A line that a killed writer left unfinished is closed off by whoever comes next; readers skip it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::atomic;
use super::fsync::FsyncPolicy;
use super::identity;

/// A file that lines are appended to. It is opened when first needed, and again when another one has its name.
#[derive(Debug)]
pub struct LineFile {
    path: PathBuf,
    policy: FsyncPolicy,
    file: Option<File>,
}

impl LineFile {
    /// Names a file; opens nothing yet.
    pub fn new(path: impl Into<PathBuf>, policy: FsyncPolicy) -> Self {
        Self { path: path.into(), policy, file: None }
    }

    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends lines in one write; each gets its newline here. Under `Always` they are on disk afterwards, under
    /// `Batch` after the next [`LineFile::sync`].
    ///
    /// # Errors
    /// What the file system says. Part of the text may be in the file then; the next append closes it off.
    pub fn append<'l>(&mut self, lines: impl IntoIterator<Item = &'l str>) -> io::Result<()> {
        let mut text = String::new();
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        if text.is_empty() {
            return Ok(());
        }
        let policy = self.policy;
        let file = self.current()?;
        if !ends_a_line(file)? {
            text.insert(0, '\n');
        }
        file.write_all(text.as_bytes())?;
        if policy == FsyncPolicy::Always { file.sync_data() } else { Ok(()) }
    }

    /// Waits until all that was appended is on disk, unless the policy is `Never`.
    ///
    /// # Errors
    /// What `fdatasync` says.
    pub fn sync(&mut self) -> io::Result<()> {
        match (&self.file, self.policy) {
            (Some(file), FsyncPolicy::Always | FsyncPolicy::Batch) => file.sync_data(),
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// Returns the size in bytes; zero when there is no file.
    ///
    /// # Errors
    /// What `stat` says.
    pub fn size_bytes(&self) -> io::Result<u64> {
        Ok(identity::of_path(&self.path)?.map_or(0, |identity| identity.size_bytes))
    }

    /// Moves the file to `name` beside it; the next append starts a new one. Refused when that name is taken.
    ///
    /// # Errors
    /// What `link` and `unlink` say.
    pub fn rotate(&mut self, name: &str) -> io::Result<PathBuf> {
        self.sync()?;
        let (directory, _) = atomic::split(&self.path)?;
        let target = directory.join(name);
        atomic::rename_new(&self.path, &target)?;
        self.file = None;
        self.policy.sync_directory(directory)?;
        Ok(target)
    }

    fn current(&mut self) -> io::Result<&mut File> {
        let there = identity::of_path(&self.path)?;
        let ours = self.file.as_ref().map(identity::of_file).transpose()?;
        let place = |identity: &crate::domain::file::FileIdentity| (identity.device, identity.inode);
        if ours.is_none() || ours.as_ref().map(place) != there.as_ref().map(place) {
            self.file = None;
        }
        match &mut self.file {
            Some(file) => Ok(file),
            slot => {
                let mut options = OpenOptions::new();
                options.read(true).append(true).create(true).custom_flags(libc::O_NOFOLLOW);
                let file = options.open(&self.path)?;
                if there.is_none() {
                    self.policy.sync_directory(atomic::split(&self.path)?.0)?;
                }
                Ok(slot.insert(file))
            }
        }
    }
}

fn ends_a_line(file: &File) -> io::Result<bool> {
    let size = file.metadata()?.len();
    let mut last = [b'\n'];
    if size > 0 {
        file.read_at(&mut last, size - 1)?;
    }
    Ok(last == *b"\n")
}

/// The end of a line file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tail {
    /// Whole lines, oldest first, without their newlines; empty ones left out. What is not UTF-8 is replaced.
    pub lines: Vec<String>,
    /// Where the first of them starts, in bytes.
    pub starts_at: u64,
    /// Where reading ended: what is appended from here on is new.
    pub ends_at: u64,
    /// The file's last line was without a newline, and is not among `lines`.
    pub is_torn: bool,
}

/// Reads the whole lines among the last `limit_bytes` of a file; a missing file has none.
///
/// # Errors
/// What the file system says.
pub fn tail(path: &Path, limit_bytes: u64) -> io::Result<Tail> {
    let size = identity::of_path(path)?.map_or(0, |identity| identity.size_bytes);
    lines_from(path, size.saturating_sub(limit_bytes), limit_bytes)
}

/// Reads the whole lines from an offset on, at most `limit_bytes` of them; a missing file has none.
///
/// When `from` is inside a line, that line is left out.
///
/// # Errors
/// What the file system says.
pub fn lines_from(path: &Path, from: u64, limit_bytes: u64) -> io::Result<Tail> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Tail::default()),
        Err(error) => return Err(error),
    };
    let mut before = [b'\n'];
    if from > 0 {
        file.read_at(&mut before, from - 1)?;
    }
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(limit_bytes).read_to_end(&mut bytes)?;
    let length = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let end = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |newline| newline + 1);
    let is_torn = end < bytes.len();
    bytes.truncate(end);
    let start = match bytes.iter().position(|&b| b == b'\n') {
        Some(newline) if before != *b"\n" => newline + 1,
        Some(_) | None => 0,
    };
    let lines = bytes[start..].split(|&b| b == b'\n').filter(|line| !line.is_empty());
    let lines = lines.map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    Ok(Tail { lines, starts_at: from + length(start), ends_at: from + length(end), is_torn })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_torn_line_is_closed_off_and_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = LineFile::new(&path, FsyncPolicy::Always);
        log.append(["one"]).unwrap();
        fs::write(&path, "one\ntw").unwrap();
        let torn = tail(&path, 100).unwrap();
        assert_eq!((torn.lines.as_slice(), torn.is_torn, torn.ends_at), (&["one".to_owned()][..], true, 4));
        log.append(["three", "four"]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntw\nthree\nfour\n");
        assert_eq!(lines_from(&path, torn.ends_at, 100).unwrap().lines, ["tw", "three", "four"]);
    }

    #[test]
    fn the_tail_starts_at_a_whole_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "first\nsecond\nthird\n").unwrap();
        let found = tail(&path, 9).unwrap();
        assert_eq!((found.lines, found.starts_at), (vec!["third".to_owned()], 13));
        assert_eq!(tail(&path, 6).unwrap().lines, ["third"]);
        assert_eq!(tail(&directory.path().join("none"), 6).unwrap(), Tail::default());
    }

    #[test]
    fn after_a_rotation_lines_go_to_the_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (mut ours, mut theirs) =
            (LineFile::new(&path, FsyncPolicy::Batch), LineFile::new(&path, FsyncPolicy::Batch));
        ours.append(["one"]).unwrap();
        theirs.append(["two"]).unwrap();
        let old = ours.rotate("log.1").unwrap();
        theirs.append(["three"]).unwrap();
        ours.append(["four"]).unwrap();
        assert_eq!(fs::read_to_string(old).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\nfour\n");
        assert_eq!(ours.size_bytes().unwrap(), 11);
        ours.rotate("log.1").unwrap_err();
    }
}
