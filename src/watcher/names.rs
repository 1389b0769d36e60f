//! Pure: which path under the watch dir means what.
//!
//! It runs for every event of the operating system, log lines of other programs included, so it only cuts slices.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// The folder of all sessions, under the watch dir.
pub const SESSIONS: &str = "sessions";
/// The name of a drop folder.
pub const INBOX: &str = "inbox";
/// The file that holds one session.
pub const SESSION_FILE: &str = "session.json";

/// What lies at a path. A session's name is not checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// The watch dir or `sessions/` itself.
    Root,
    /// `sessions/<name>`.
    SessionDirectory(&'a str),
    /// `sessions/<name>/session.json`.
    SessionFile(&'a str),
    /// A drop folder itself; none means the one beside `sessions/`.
    InboxDirectory(Option<&'a str>),
    /// A file in a drop folder that is not to be ignored.
    InboxFile(Option<&'a str>),
    /// Anything else: journals, locks, temporary files.
    Irrelevant,
}

/// Says what `path` is, seen from `root`.
pub fn classify<'a>(root: &Path, path: &'a Path) -> Place<'a> {
    let Some(below) = path.as_os_str().as_bytes().strip_prefix(root.as_os_str().as_bytes()) else {
        return Place::Irrelevant;
    };
    if below.is_empty() {
        return Place::Root;
    }
    let Some(below) = below.strip_prefix(b"/") else { return Place::Irrelevant };
    match cut(below) {
        (b"sessions", None) => Place::Root,
        (b"inbox", None) => Place::InboxDirectory(None),
        (b"inbox", Some(name)) if is_drop(name) => Place::InboxFile(None),
        (b"sessions", Some(rest)) => in_sessions(rest),
        _ => Place::Irrelevant,
    }
}

fn in_sessions(rest: &[u8]) -> Place<'_> {
    let (name, inside) = cut(rest);
    let known = match inside {
        None | Some(b"session.json" | b"inbox") => true,
        Some(inside) => inside.strip_prefix(b"inbox/").is_some_and(is_drop),
    };
    if !known {
        return Place::Irrelevant;
    }
    let Ok(name) = std::str::from_utf8(name) else { return Place::Irrelevant };
    match inside {
        None => Place::SessionDirectory(name),
        Some(b"session.json") => Place::SessionFile(name),
        Some(b"inbox") => Place::InboxDirectory(Some(name)),
        Some(_) => Place::InboxFile(Some(name)),
    }
}

/// Says whether a file of this name in a drop folder counts: `*.json`, and no dot in front.
pub fn is_drop_file(name: &OsStr) -> bool {
    is_drop(name.as_bytes())
}

fn is_drop(name: &[u8]) -> bool {
    name.ends_with(b".json") && !name.starts_with(b".") && !name.contains(&b'/')
}

fn cut(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|&b| b == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..)),
        None => (path, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Place<'_> {
        classify(Path::new("/w/mc"), Path::new(path))
    }

    #[test]
    fn only_the_names_of_the_contract_are_relevant() {
        assert_eq!(place("/w/mc"), Place::Root);
        assert_eq!(place("/w/mc/sessions"), Place::Root);
        assert_eq!(place("/w/mc/sessions/s1"), Place::SessionDirectory("s1"));
        assert_eq!(place("/w/mc/sessions/s1/session.json"), Place::SessionFile("s1"));
        assert_eq!(place("/w/mc/sessions/s1/inbox"), Place::InboxDirectory(Some("s1")));
        assert_eq!(place("/w/mc/sessions/s1/inbox/a.json"), Place::InboxFile(Some("s1")));
        assert_eq!(place("/w/mc/inbox"), Place::InboxDirectory(None));
        assert_eq!(place("/w/mc/inbox/a.json"), Place::InboxFile(None));
    }

    #[test]
    fn journals_locks_and_temporary_files_are_not() {
        for path in [
            "/w/mc/sessions/s1/log.jsonl",
            "/w/mc/sessions/s1/session.json.lock",
            "/w/mc/sessions/s1/.session.json.a1.tmp",
            "/w/mc/sessions/s1/inbox/.a.json",
            "/w/mc/sessions/s1/inbox/a.json.tmp",
            "/w/mc/sessions/s1/inbox/a.json~",
            "/w/mc/sessions/s1/inbox/accepted",
            "/w/mc/sessions/s1/inbox/accepted/a.json",
            "/w/mc/inbox/a.part",
            "/w/mc/other",
            "/w/mcx/sessions/s1",
            "/elsewhere",
        ] {
            assert_eq!(place(path), Place::Irrelevant, "{path}");
        }
    }
}
