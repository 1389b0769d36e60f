//! Pure: when a file that could not be taken in is tried again, and when it is given up.
//!
//! A file that does not parse is most likely still being written. It is left alone until it has not changed for
//! [`PATIENCE`], and then rejected. Trouble that is not the file's (a session that cannot be written) is no reason to
//! reject anything: it is tried again, less and less often.

use crate::domain::file::FileIdentity;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How long a file must have been unchanged before it is rejected.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The longest pause between two attempts.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What stood in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The file is wrong for good.
    Final,
    /// The file may be unfinished.
    Unfinished,
    /// Something else is wrong.
    Elsewhere,
}

/// What to do with the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Try it again after this long.
    Again(Duration),
    /// Move it to `rejected/`.
    Reject,
}

/// What is known of files that are still in their drop folders.
#[derive(Debug)]
pub struct Machine<K> {
    files: HashMap<K, Watched>,
}

#[derive(Debug)]
struct Watched {
    identity: FileIdentity,
    unchanged_since: Instant,
    failures: u32,
    /// What was last said of it.
    told: Option<String>,
}

impl<K> Default for Machine<K> {
    fn default() -> Self {
        Self { files: HashMap::new() }
    }
}

impl<K: Hash + Eq> Machine<K> {
    /// A file could not be taken in.
    pub fn on_obstacle(
        &mut self,
        key: K,
        identity: FileIdentity,
        obstacle: Obstacle,
        now: Instant,
    ) -> Decision {
        let anew = || Watched { identity, unchanged_since: now, failures: 0, told: None };
        let watched = self.files.entry(key).or_insert_with(anew);
        if watched.identity != identity {
            *watched = anew();
        }
        watched.failures = watched.failures.saturating_add(1);
        match obstacle {
            Obstacle::Final => Decision::Reject,
            Obstacle::Unfinished => {
                let left = PATIENCE.saturating_sub(now.duration_since(watched.unchanged_since));
                if left.is_zero() { Decision::Reject } else { Decision::Again(left.min(PATIENCE / 4)) }
            }
            Obstacle::Elsewhere => {
                let doubled = Duration::from_secs(1).saturating_mul(1 << (watched.failures - 1).min(5));
                Decision::Again(doubled.min(LONGEST_PAUSE))
            }
        }
    }

    /// Says whether `cause` is another one than what was last said of this file, as it is.
    pub fn is_news(&mut self, key: &K, cause: &str) -> bool {
        self.files.get_mut(key).is_some_and(|watched| {
            let is_news = watched.told.as_deref() != Some(cause);
            watched.told = is_news.then(|| cause.to_owned()).or(watched.told.take());
            is_news
        })
    }

    /// A file has left its drop folder.
    pub fn on_gone(&mut self, key: &K) {
        self.files.remove(key);
    }

    /// Only these files are still in their drop folders.
    pub fn keep(&mut self, is_there: impl Fn(&K) -> bool) {
        self.files.retain(|key, _| is_there(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(size_bytes: u64) -> FileIdentity {
        FileIdentity { device: 1, inode: 1, size_bytes, modified_ns: 0, changed_ns: 0 }
    }

    #[test]
    fn an_unfinished_file_is_rejected_two_seconds_after_its_last_change() {
        let mut machine = Machine::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let again = Decision::Again(PATIENCE / 4);
        assert_eq!(machine.on_obstacle("f", identity(1), Obstacle::Unfinished, at(0)), again);
        assert_eq!(machine.on_obstacle("f", identity(2), Obstacle::Unfinished, at(1900)), again);
        assert_eq!(machine.on_obstacle("f", identity(2), Obstacle::Unfinished, at(3000)), again);
        let last = machine.on_obstacle("f", identity(2), Obstacle::Unfinished, at(3899));
        assert_eq!(last, Decision::Again(Duration::from_millis(1)));
        assert_eq!(machine.on_obstacle("f", identity(2), Obstacle::Unfinished, at(3900)), Decision::Reject);
    }

    #[test]
    fn trouble_elsewhere_never_rejects_and_is_tried_again_less_and_less_often() {
        let mut machine = Machine::default();
        let start = Instant::now();
        let pauses: Vec<u64> = (0..8)
            .map(|_| match machine.on_obstacle("f", identity(1), Obstacle::Elsewhere, start) {
                Decision::Again(pause) => pause.as_secs(),
                Decision::Reject => 0,
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert!(
            machine.is_news(&"f", "torn")
                && !machine.is_news(&"f", "torn")
                && machine.is_news(&"f", "locked")
        );
        machine.keep(|key| *key == "f");
        assert!(!machine.is_news(&"f", "locked"));
        machine.on_gone(&"f");
        let decision = machine.on_obstacle("f", identity(1), Obstacle::Elsewhere, start);
        assert_eq!(decision, Decision::Again(Duration::from_secs(1)));
    }
}
