//! Domain: identifiers, checked once at the border.
//!
//! A [`SessionId`] becomes a directory name, so its alphabet is narrow. The others only ever travel inside JSON or,
//! percent-encoded, inside a URL: they are opaque, but never empty and never endless.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest identifier that is accepted, in bytes. Mission Control's own ids are under 40; 256 leaves room for file stems.
pub const MAX_ID_BYTES: usize = 256;

/// Why a string is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The string was empty.
    #[error("{kind} is empty")]
    Empty {
        /// Which identifier was expected.
        kind: &'static str,
    },
    /// The string was longer than allowed.
    #[error("{kind} is {length} bytes long; at most {limit} are allowed")]
    TooLong {
        /// Which identifier was expected.
        kind: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// The string holds a character outside the identifier's alphabet.
    #[error("{kind} {value:?} is not allowed: {rule}")]
    Alphabet {
        /// Which identifier was expected.
        kind: &'static str,
        /// The refused text.
        value: String,
        /// What is allowed.
        rule: &'static str,
    },
}

fn opaque(kind: &'static str, value: &str) -> Result<Arc<str>, IdError> {
    if value.is_empty() {
        return Err(IdError::Empty { kind });
    }
    if value.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong { kind, length: value.len(), limit: MAX_ID_BYTES });
    }
    if value.chars().any(char::is_control) {
        let rule = "control characters are not";
        return Err(IdError::Alphabet { kind, value: value.to_owned(), rule });
    }
    if value == "." || value == ".." {
        let rule = "in a path it means a directory, however it is encoded";
        return Err(IdError::Alphabet { kind, value: value.to_owned(), rule });
    }
    Ok(Arc::from(value))
}

fn path_segment(kind: &'static str, value: &str) -> Result<Arc<str>, IdError> {
    const LIMIT: usize = 128;
    if value.is_empty() {
        return Err(IdError::Empty { kind });
    }
    if value.len() > LIMIT {
        return Err(IdError::TooLong { kind, length: value.len(), limit: LIMIT });
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !value.bytes().all(allowed) || value == "." || value == ".." {
        let rule = "use 1 to 128 of A-Z a-z 0-9 . _ - and neither . nor ..";
        return Err(IdError::Alphabet { kind, value: value.to_owned(), rule });
    }
    Ok(Arc::from(value))
}

fn uuid_form(kind: &'static str, value: &str) -> Result<Arc<str>, IdError> {
    let form =
        |b: (usize, u8)| if matches!(b.0, 8 | 13 | 18 | 23) { b.1 == b'-' } else { b.1.is_ascii_hexdigit() };
    if value.is_empty() {
        return Err(IdError::Empty { kind });
    }
    if value.len() != 36 || !value.bytes().enumerate().all(form) {
        let rule = "use a UUID such as 0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11";
        return Err(IdError::Alphabet { kind, value: value.chars().take(64).collect(), rule });
    }
    Ok(Arc::from(value))
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `value` and wraps it.
            ///
            /// # Errors
            /// [`IdError`] says which rule the text breaks.
            pub fn new(value: impl AsRef<str>) -> Result<Self, IdError> {
                $check($kind, value.as_ref()).map(Self)
            }

            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(value: &str) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::new(value).map_err(serde::de::Error::custom)
            }
        }
    };
}

identifier!(
    /// One session: exactly one safe path segment.
    SessionId, "session id", path_segment
);
identifier!(
    /// One mission: opaque, unique inside its session and, by convention, everywhere.
    MissionId, "mission id", opaque
);
identifier!(
    /// One executor: a UUID that the executor chose and keeps.
    ExecutorId, "executor id", uuid_form
);
identifier!(
    /// One question to a human, unique inside its mission.
    HitlId, "hitl id", opaque
);
identifier!(
    /// One delegation of a workspace to a peer.
    DelegationId, "delegation id", opaque
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_are_single_safe_path_segments() {
        for good in ["s1", "a.b_c-D9", &"x".repeat(128)] {
            assert!(SessionId::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a\\b", "ä", "a b", &"x".repeat(129), "a\0"] {
            assert!(SessionId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn executor_ids_are_uuids() {
        assert!(ExecutorId::new("0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11").is_ok());
        assert!(ExecutorId::new("0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a1").is_err());
        assert!(ExecutorId::new("unknown").is_err());
    }

    #[test]
    fn mission_ids_are_opaque_but_bounded() {
        assert!(MissionId::new("m-ä/ö 1").is_ok());
        assert!(MissionId::new("a\nb").is_err());
        assert!(MissionId::new("...").is_ok());
        for dots in [".", ".."] {
            assert!(
                MissionId::new(dots).is_err(),
                "a URL leads elsewhere with {dots}, however it is encoded"
            );
        }
        assert!(MissionId::new("x".repeat(257)).is_err());
    }
}
