//! Pure: what an agent's output says, in a few words, however much of it there is.
//!
//! Bytes of a terminal or a pipe come in; lines without escape sequences come out, and two counts: of bytes, and of
//! *meaningful* output. A spinner that redraws its line, a clock that counts on, and a screen that is painted again are
//! not meaningful: a line counts only when it says something that none of the last lines said, digits aside.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Longest line that is kept, in bytes; what comes after is dropped. Progress lines of agents are far shorter.
const LONGEST_LINE: usize = 64 * 1024;

/// How many different lines are remembered to tell a redrawn screen from a new one.
const MEMORY: usize = 128;

/// Of what comes between two looks only the end is read: nobody reads a flood, and it must not cost more than its copying.
const READ_OF_A_FLOOD: usize = 32 * 1024;

/// Longest line in a summary, in characters.
const SUMMARY: usize = 400;

/// What was last said.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Digest {
    /// Bytes in all.
    pub bytes: u64,
    /// Grows with every line that says something new.
    pub meaningful: u64,
    /// The last complete line that is not blank.
    pub last_line: String,
    /// What stands after the last line break: where a prompt would be.
    pub open_line: String,
    /// The last progress that the agent reported as JSON.
    pub progress: Progress,
}

/// Progress as an agent reports it: one JSON object a line.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// What it is at.
    pub phase: Option<String>,
    /// Which round.
    pub iteration: Option<u64>,
    /// Tokens so far.
    pub tokens_used: Option<u64>,
    /// One line for people.
    pub summary: Option<String>,
    /// How far, 0 to 100.
    pub pct_complete: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    Started,
    Control,
    Text,
    TextEnding,
}

/// Reads output as it comes.
#[derive(Debug)]
pub struct Reader {
    digest: Digest,
    unread: Vec<u8>,
    line: Vec<u8>,
    escape: Escape,
    returned: bool,
    seen: VecDeque<u64>,
    reads_json: bool,
}

impl Reader {
    /// Makes a reader; `reads_json` when lines that are JSON objects report progress.
    pub fn new(reads_json: bool) -> Self {
        Self {
            digest: Digest::default(),
            unread: Vec::new(),
            line: Vec::new(),
            escape: Escape::None,
            returned: false,
            seen: VecDeque::with_capacity(MEMORY),
            reads_json,
        }
    }

    /// Takes the next bytes.
    pub fn read(&mut self, chunk: &[u8]) {
        self.digest.bytes = self.digest.bytes.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if self.reads_json {
            self.take(chunk);
            return;
        }
        self.unread.extend_from_slice(chunk);
        if self.unread.len() > 2 * READ_OF_A_FLOOD {
            self.unread.drain(..self.unread.len() - READ_OF_A_FLOOD);
            self.line.clear();
            self.escape = Escape::None;
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.byte(byte);
        }
    }

    /// Returns what the output said so far.
    pub fn digest(&mut self) -> Digest {
        let unread = std::mem::take(&mut self.unread);
        self.take(&unread);
        let open = text(&self.line);
        if !open.is_empty() {
            self.note(&open);
        }
        self.digest.open_line = open;
        self.digest.clone()
    }

    fn byte(&mut self, byte: u8) {
        // A sequence that was never finished, as in bytes that are no text, ends with its line.
        if matches!(byte, b'\n' | 0x18 | 0x1a) {
            self.escape = Escape::None;
        }
        match (self.escape, byte) {
            (Escape::None, 0x1b) => self.escape = Escape::Started,
            (Escape::None, b'\n') => {
                self.returned = false;
                self.end_line();
            }
            (Escape::None, b'\r') => self.returned = true,
            (Escape::None, 0x08) => {
                self.line.pop();
            }
            (Escape::None, 0..=0x1f | 0x7f) if byte != b'\t' => {}
            (Escape::None, _) => {
                if std::mem::take(&mut self.returned) {
                    self.line.clear();
                }
                if self.line.len() < LONGEST_LINE {
                    self.line.push(byte);
                }
            }
            (Escape::Started, b'[') => self.escape = Escape::Control,
            (Escape::Started, b']' | b'P' | b'X' | b'^' | b'_') => self.escape = Escape::Text,
            (Escape::Started, 0x20..=0x2f) => {}
            (Escape::Control, 0x40..=0x7e) => {
                // Erasing or moving over the line: what follows is drawn anew.
                if matches!(byte, b'K' | b'J' | b'G' | b'H') {
                    self.returned = true;
                }
                self.escape = Escape::None;
            }
            (Escape::Text | Escape::TextEnding, 0x07)
            | (Escape::TextEnding, b'\\')
            | (Escape::Started, _) => {
                self.escape = Escape::None;
            }
            (Escape::Text, 0x1b) => self.escape = Escape::TextEnding,
            (Escape::TextEnding, _) => self.escape = Escape::Text,
            (Escape::Control | Escape::Text, _) => {}
        }
    }

    fn end_line(&mut self) {
        let line = text(&self.line);
        self.line.clear();
        if line.is_empty() {
            return;
        }
        if self.reads_json
            && line.starts_with('{')
            && let Ok(Value::Object(report)) = serde_json::from_str(&line)
        {
            self.digest.meaningful += 1;
            self.report(&Value::Object(report));
            return;
        }
        self.note(&line);
        self.digest.last_line = line.chars().take(SUMMARY).collect();
    }

    fn note(&mut self, line: &str) {
        let mut hasher = DefaultHasher::new();
        let mut letters = 0_u32;
        for character in line.chars().filter(|c| c.is_alphabetic()) {
            character.hash(&mut hasher);
            letters += 1;
        }
        let hash = hasher.finish();
        if letters == 0 || self.seen.contains(&hash) {
            return;
        }
        if self.seen.len() == MEMORY {
            self.seen.pop_front();
        }
        self.seen.push_back(hash);
        self.digest.meaningful += 1;
    }

    fn report(&mut self, report: &Value) {
        let progress = &mut self.digest.progress;
        let word =
            |key: &str| report.get(key).and_then(Value::as_str).map(|t| t.chars().take(SUMMARY).collect());
        let number = |key: &str| report.get(key).and_then(Value::as_u64);
        progress.phase = word("phase").or(progress.phase.take());
        progress.summary = word("summary").or(progress.summary.take());
        progress.iteration = number("iteration").or(progress.iteration);
        progress.pct_complete = report
            .get("pct_complete")
            .and_then(Value::as_f64)
            .filter(|pct| (0.0..=100.0).contains(pct))
            .or(progress.pct_complete);
        let usage = report.get("usage").map(|usage| {
            ["input_tokens", "output_tokens"].iter().filter_map(|key| usage.get(key)?.as_u64()).sum::<u64>()
        });
        // Reports of single turns are smaller than the total: it never shrinks.
        let tokens = number("tokens_used").or(number("tokens_total")).or(usage);
        progress.tokens_used = progress.tokens_used.max(tokens);
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim().to_owned()
}

/// Removes escape sequences and other control characters, but line breaks and tabs.
pub fn strip(bytes: &[u8]) -> String {
    let mut reader = Reader::new(false);
    let mut plain = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        let before = reader.escape;
        reader.byte(byte);
        let is_text = before == Escape::None && reader.escape == Escape::None;
        if is_text && (byte >= 0x20 && byte != 0x7f || matches!(byte, b'\n' | b'\t')) {
            plain.push(byte);
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(chunks: &[&[u8]]) -> Digest {
        let mut reader = Reader::new(false);
        for chunk in chunks {
            reader.read(chunk);
        }
        reader.digest()
    }

    #[test]
    fn lines_are_read_without_their_colours() {
        let seen = digest(&[
            b"\x1b[1;32mok\x1b[0m first\r\n",
            b"\x1b]0;title\x07second \xff\n",
            b"Continue? [y/N] ",
        ]);
        assert_eq!(seen.last_line, "second \u{fffd}");
        assert_eq!(seen.open_line, "Continue? [y/N]");
        assert_eq!(seen.meaningful, 3);
        assert_eq!(strip(b"\x1b[31mred\x1b[0m\r\nplain\x07"), "red\nplain");
    }

    #[test]
    fn a_spinner_and_a_counting_clock_are_not_meaningful() {
        let mut reader = Reader::new(false);
        reader.read(b"Thinking hard\n");
        let before = reader.digest().meaningful;
        for second in 0..500 {
            let frame = ["|", "/", "-", "\\", "\u{280b}"][second % 5];
            reader.read(format!("\r\x1b[K{frame} Thinking hard {second}s (esc)").as_bytes());
            reader.digest();
        }
        assert_eq!(
            reader.digest().meaningful,
            before + 1,
            "the first frame says something, the others do not"
        );
        reader.read(b"\r\x1b[KEdited src/main.rs\n");
        assert_eq!(reader.digest().meaningful, before + 2);
    }

    #[test]
    fn progress_is_read_from_json_lines() {
        let mut reader = Reader::new(true);
        reader.read(
            br#"{"phase":"test","iteration":2,"tokens_used":50,"summary":"running","pct_complete":40}"#,
        );
        reader.read(b"\n{\"usage\":{\"input_tokens\":100,\"output_tokens\":20}}\n{\"pct_complete\":400}\nplain\n{broken\n");
        let seen = reader.digest();
        assert_eq!(seen.progress.phase.as_deref(), Some("test"));
        assert_eq!((seen.progress.iteration, seen.progress.tokens_used), (Some(2), Some(120)));
        assert_eq!(seen.progress.pct_complete, Some(40.0));
        assert_eq!(seen.last_line, "{broken");
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut reader = Reader::new(true);
        for _ in 0..1000 {
            reader.read(&[b'x'; 4096]);
        }
        assert!(reader.digest().open_line.len() <= LONGEST_LINE);
        assert_eq!(reader.digest().bytes, 4_096_000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn chunk_borders_do_not_matter(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let (left, right) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(digest(&[&bytes]), digest(&[left, right]));
        }
    }
}
