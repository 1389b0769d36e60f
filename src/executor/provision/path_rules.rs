//! Pure: names of worktrees and rules for relative paths that come from outside.

use crate::executor::provision::options::OptionError;
use sha2::{Digest as _, Sha256};
use std::path::{Component, Path, PathBuf};

/// How many characters of a session id go into a name.
const READABLE: usize = 32;

/// Returns the SHA-256 of a session id.
pub fn digest(session_id: &str) -> [u8; 32] {
    Sha256::digest(session_id.as_bytes()).into()
}

/// Returns a name that is safe as a path segment and a branch, readable, and different for different sessions.
///
/// Everything outside `[A-Za-z0-9_-]` is folded to `-`, runs of `-` are folded, 32 characters are kept (`session` when
/// none is left), and the first 8 hexadecimal digits of the id's SHA-256 follow.
pub fn scoped_name(session_id: &str) -> String {
    let mut readable = String::with_capacity(READABLE);
    for character in session_id.chars() {
        let folded = if character.is_ascii_alphanumeric() || character == '_' { character } else { '-' };
        if folded == '-' && readable.ends_with('-') {
            continue;
        }
        readable.push(folded);
        if readable.len() == READABLE {
            break;
        }
    }
    let readable = readable.trim_matches('-');
    let readable = if readable.is_empty() { "session" } else { readable };
    let [a, b, c, d, ..] = digest(session_id);
    format!("{readable}-{a:02x}{b:02x}{c:02x}{d:02x}")
}

/// Reads a relative path that must stay inside its root: `\` is `/`, blank segments and `.` are dropped.
///
/// # Errors
/// An absolute path, a drive letter, `..`, or nothing left.
pub fn inside(key: &'static str, text: &str) -> Result<PathBuf, OptionError> {
    let slashed = text.replace('\\', "/");
    let refuse = |problem: &str| Err(OptionError::new(key, problem, &format!("{text:?}")));
    if slashed.starts_with('/') {
        return refuse("must be relative");
    }
    let mut bytes = slashed.bytes();
    if bytes.next().is_some_and(|b| b.is_ascii_alphabetic()) && bytes.next() == Some(b':') {
        return refuse("must have no drive letter");
    }
    if slashed.contains('\0') {
        return refuse("must hold no NUL");
    }
    let mut path = PathBuf::new();
    for segment in slashed.split('/').map(str::trim) {
        match segment {
            "" | "." => {}
            ".." => return refuse("must not contain .."),
            other => path.push(other),
        }
    }
    if path.as_os_str().is_empty() { refuse("must name something") } else { Ok(path) }
}

/// Resolves `.` and `..` by text alone.
pub fn normalized(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => out.push(component),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_readable_and_end_in_the_digest() {
        assert_eq!(scoped_name("m-1"), format!("m-1-{}", hex("m-1")));
        assert_eq!(scoped_name("a/b  c..d"), format!("a-b-c-d-{}", hex("a/b  c..d")));
        assert_eq!(scoped_name("äöü"), format!("session-{}", hex("äöü")));
        assert_eq!(scoped_name(""), "session-e3b0c442");
        assert_eq!(scoped_name(&"x".repeat(99)).len(), 32 + 9);
    }

    fn hex(session: &str) -> String {
        let [a, b, c, d, ..] = digest(session);
        format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for bad in ["", " ", ".", "./", "/etc", "\\etc", "a/../b", "..", "a\\..\\b", "C:\\x", "c:x", "a\0b"] {
            assert!(inside("targetPath", bad).is_err(), "{bad:?}");
        }
        for (good, path) in [("a\\b", "a/b"), ("./a//b/", "a/b"), ("a/./b", "a/b"), ("..a/b..", "..a/b..")] {
            assert_eq!(inside("targetPath", good).unwrap(), Path::new(path));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn every_name_is_one_safe_segment(session in ".{0,80}") {
            let name = scoped_name(&session);
            prop_assert!(name.len() <= 41);
            prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert!(!name.starts_with('-') && !name.contains("--"));
            prop_assert_eq!(&name, &scoped_name(&session));
        }

        #[test]
        fn every_accepted_path_stays_inside(text in "[a-c./\\\\: ]{0,24}") {
            if let Ok(path) = inside("targetPath", &text) {
                let only_names = path.components().all(|c| matches!(c, Component::Normal(_)));
                prop_assert!(only_names, "{path:?}");
                prop_assert_eq!(normalized(&Path::new("/root").join(&path)), Path::new("/root").join(&path));
            }
        }
    }
}
