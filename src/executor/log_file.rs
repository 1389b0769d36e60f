//! Edge: the log of a mission: every byte as it came, but never more than allowed.
//!
//! The beginning and the end of a flood are what people look for: half of the room belongs to the beginning, and the rest
//! is two segments that take turns. A full disk loses log, not missions.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The beginning.
const HEAD: &str = "output.log";

/// Writes a log.
#[derive(Debug)]
pub struct LogWriter {
    directory: PathBuf,
    head: Option<File>,
    head_left: u64,
    segment_limit: u64,
    segment: Option<(u64, File, u64)>,
    /// Bytes that could not be written, as on a full disk.
    pub lost_bytes: u64,
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

impl LogWriter {
    /// Goes on with the log in `directory`, which may hold `limit_bytes` in all. No file is made before there is something
    /// to write.
    pub fn new(directory: &Path, limit_bytes: u64) -> Self {
        Self {
            directory: directory.to_owned(),
            head: None,
            head_left: limit_bytes / 2,
            segment_limit: (limit_bytes / 4).max(4096),
            segment: None,
            lost_bytes: 0,
        }
    }

    /// Appends. What cannot be written is counted.
    pub fn write(&mut self, bytes: &[u8]) {
        if self.head.is_none() && self.begin().is_err() {
            self.lost_bytes += length(bytes);
            return;
        }
        let fits = usize::try_from(self.head_left).unwrap_or(usize::MAX).min(bytes.len());
        let (first, rest) = bytes.split_at(fits);
        if !first.is_empty() {
            self.head_left -= length(first);
            if self.head.as_mut().is_none_or(|head| head.write_all(first).is_err()) {
                self.lost_bytes += length(first);
            }
        }
        let mut rest = rest;
        while !rest.is_empty() {
            let room = usize::try_from(self.room_in_segment()).unwrap_or(usize::MAX);
            let (part, later) = rest.split_at(rest.len().min(room));
            if self.write_segment(part).is_err() {
                self.lost_bytes += length(part);
            }
            rest = later;
        }
    }

    /// Opens the beginning, of which an earlier run may have used some.
    fn begin(&mut self) -> io::Result<()> {
        let head = create(&self.directory.join(HEAD))?;
        self.head_left = self.head_left.saturating_sub(head.metadata()?.len());
        self.head = Some(head);
        Ok(())
    }

    /// Returns how much the current segment still takes, or the next one when it takes no more.
    fn room_in_segment(&self) -> u64 {
        let used = self.segment.as_ref().map_or(0, |(_, _, size)| *size);
        if used < self.segment_limit { self.segment_limit - used } else { self.segment_limit }
    }

    fn write_segment(&mut self, bytes: &[u8]) -> io::Result<()> {
        let next = match &self.segment {
            None => Some(1),
            Some((number, _, size)) if *size >= self.segment_limit => Some(number + 1),
            Some(_) => None,
        };
        if let Some(number) = next {
            if let Some(old) = number.checked_sub(2).filter(|old| *old > 0) {
                drop(fs::remove_file(self.directory.join(segment_name(old))));
            }
            self.segment = Some((number, create(&self.directory.join(segment_name(number)))?, 0));
        }
        if let Some((_, file, size)) = &mut self.segment {
            file.write_all(bytes)?;
            *size += length(bytes);
        }
        Ok(())
    }
}

fn segment_name(number: u64) -> String {
    format!("output.{number}.log")
}

/// Appends a line of our own, such as the heading of a set-up command.
///
/// # Errors
/// What the file system says.
pub fn remark(directory: &Path, text: &str) -> io::Result<()> {
    create(&directory.join(HEAD))?.write_all(format!("[aiwg-rs] {text}\n").as_bytes())
}

/// Where a reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    segment: u64,
    offset: u64,
}

/// Reads on from `position`, at most `limit` bytes, and moves it. Nothing: there is no more yet.
///
/// # Errors
/// What the file system says; a log that was never begun is empty.
pub fn read(directory: &Path, position: &mut Position, limit: usize) -> io::Result<Vec<u8>> {
    let mut segments: Vec<u64> = fs::read_dir(directory)?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let name = name.to_str()?;
            if name == HEAD {
                return Some(0);
            }
            name.strip_prefix("output.")?.strip_suffix(".log")?.parse().ok()
        })
        .collect();
    segments.sort_unstable();
    let mut bytes = Vec::new();
    for segment in segments {
        if segment < position.segment {
            continue;
        }
        if segment > position.segment + 1 {
            bytes.extend_from_slice(
                b"\n[aiwg-rs] \xe2\x80\xa6 left out: the log is at its limit \xe2\x80\xa6\n",
            );
        }
        if segment > position.segment {
            *position = Position { segment, offset: 0 };
        }
        let name = if segment == 0 { HEAD.to_owned() } else { segment_name(segment) };
        let mut file = File::open(directory.join(name))?;
        file.seek(io::SeekFrom::Start(position.offset))?;
        let room = u64::try_from(limit.saturating_sub(bytes.len())).unwrap_or(u64::MAX);
        let before = bytes.len();
        file.take(room).read_to_end(&mut bytes)?;
        position.offset += u64::try_from(bytes.len() - before).unwrap_or(0);
        if bytes.len() >= limit {
            break;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(directory: &Path) -> Vec<u8> {
        let mut position = Position::default();
        let mut bytes = Vec::new();
        loop {
            match read(directory, &mut position, 1000).unwrap() {
                more if more.is_empty() => return bytes,
                more => bytes.extend(more),
            }
        }
    }

    #[test]
    fn a_small_log_is_complete_and_can_be_followed() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(directory.path(), 100_000);
        let mut position = Position::default();
        log.write(b"one\n");
        assert_eq!(read(directory.path(), &mut position, 100).unwrap(), b"one\n");
        assert_eq!(read(directory.path(), &mut position, 100).unwrap(), b"");
        log.write(b"\x1b[1mtwo\x1b[0m\n");
        assert_eq!(read(directory.path(), &mut position, 100).unwrap(), b"\x1b[1mtwo\x1b[0m\n");
        assert_eq!(log.lost_bytes, 0);
    }

    #[test]
    fn a_flood_keeps_its_beginning_and_its_end_within_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let limit = 64 * 1024;
        let mut log = LogWriter::new(directory.path(), limit);
        for number in 0..100_000 {
            log.write(format!("line {number}\n").as_bytes());
        }
        let used: u64 =
            directory.path().read_dir().unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(used <= limit + 4096, "{used}");
        let text = String::from_utf8(all(directory.path())).unwrap();
        assert!(text.starts_with("line 0\n") && text.ends_with("line 99999\n"));
        assert_eq!(text.matches("left out").count(), 1);
    }
}
