//! Edge: the file of executor tokens that other programs share.
//!
//! An array of `{"executorId","token","lastSeenAt"}`, two-space indented, mode 0600. Others write it too, so it is read again
//! before every change, and what we do not know in it stays. A broken file is refused by name and left alone: an empty
//! store in its place would lock every executor out.

use crate::disk::atomic;
use crate::domain::id::ExecutorId;
use crate::domain::secret::Token;
use crate::domain::time::Timestamp;
use crate::protocol::field::Fields;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, HashSet};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Why the token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be read.
    #[error("read the executor tokens in {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("understand the executor tokens in {}: {problem}; mend the file or move it away", path.display())]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It cannot be written.
    #[error("write the executor tokens to {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No randomness for a new token.
    #[error("make a token: {problem}")]
    Random {
        /// What the system said.
        problem: String,
    },
}

#[derive(Debug, Clone)]
struct Entry {
    executor_id: String,
    token: Token,
    last_seen_at: Option<Timestamp>,
    other: Vec<(String, Box<RawValue>)>,
}

/// What somebody wants of the file.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// For whom.
    pub executor_id: ExecutorId,
    /// Make a new token even if there is one.
    pub rotate: bool,
}

/// A token, and whether an older one ended with it.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The token that counts now.
    pub token: Token,
    /// There was another one before.
    pub rotated: bool,
}

/// The tokens of all executors.
#[derive(Debug)]
pub struct Identities {
    path: Option<PathBuf>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    tokens: HashMap<ExecutorId, Token>,
    /// Their hashes: whoever looks one up learns nothing of a token from the time it takes.
    hashes: HashSet<[u8; 32]>,
}

impl Known {
    fn put(&mut self, id: ExecutorId, token: &Token) {
        self.hashes.insert(hash(token.reveal()));
        if let Some(old) = self.tokens.insert(id, token.clone()).filter(|old| old != token) {
            self.hashes.remove(&hash(old.reveal()));
        }
    }
}

impl Identities {
    /// Opens the file, which need not exist yet; without a path the tokens live in memory.
    ///
    /// # Errors
    /// [`IdentityError`] when it is there and cannot be used.
    pub fn open(path: Option<PathBuf>) -> Result<Self, IdentityError> {
        let entries = path.as_deref().map(read).transpose()?.unwrap_or_default();
        let mut known = Known::default();
        for entry in entries {
            if let Ok(id) = ExecutorId::new(entry.executor_id) {
                known.put(id, &entry.token);
            }
        }
        Ok(Self { path, known: Mutex::new(known) })
    }

    /// Returns the token of an executor.
    pub fn token(&self, id: &ExecutorId) -> Option<Token> {
        self.known().tokens.get(id).cloned()
    }

    /// Says whether this is the token of some executor.
    pub fn is_known(&self, token: &Token) -> bool {
        self.known().hashes.contains(&hash(token.reveal()))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the token of each asked executor, making those that do not exist, with one write of the file. Blocks.
    ///
    /// # Errors
    /// [`IdentityError`]; nothing has changed then.
    pub fn issue(&self, requests: &[TokenRequest], now: Timestamp) -> Result<Vec<Issued>, IdentityError> {
        let mut entries = match &self.path {
            Some(path) => read(path)?,
            None => self.in_memory(),
        };
        let mut places: HashMap<String, usize> =
            entries.iter().enumerate().map(|(place, entry)| (entry.executor_id.clone(), place)).collect();
        let mut issued = Vec::with_capacity(requests.len());
        for request in requests {
            let id = request.executor_id.as_str();
            let place = *places.entry(id.to_owned()).or_insert(entries.len());
            if let Some(entry) = entries.get_mut(place) {
                entry.last_seen_at = Some(now);
                if request.rotate {
                    entry.token = new_token()?;
                }
                issued.push(Issued { token: entry.token.clone(), rotated: request.rotate });
            } else {
                let token = new_token()?;
                issued.push(Issued { token: token.clone(), rotated: false });
                let last_seen_at = Some(now);
                entries.push(Entry { executor_id: id.to_owned(), token, last_seen_at, other: Vec::new() });
            }
        }
        if let Some(path) = &self.path {
            write(path, &entries)?;
        }
        let mut known = self.known();
        for (request, issued) in requests.iter().zip(&issued) {
            known.put(request.executor_id.clone(), &issued.token);
        }
        Ok(issued)
    }

    fn in_memory(&self) -> Vec<Entry> {
        let entry = |(id, token): (&ExecutorId, &Token)| Entry {
            executor_id: id.to_string(),
            token: token.clone(),
            last_seen_at: None,
            other: Vec::new(),
        };
        self.known().tokens.iter().map(entry).collect()
    }
}

/// Returns the SHA-256 of a token, the form in which it is kept and compared.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Makes a token: 32 random bytes, base64url without padding.
///
/// # Errors
/// [`IdentityError::Random`] when the system has no randomness.
pub fn new_token() -> Result<Token, IdentityError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| IdentityError::Random { problem: error.to_string() })?;
    Ok(Token::new(URL_SAFE_NO_PAD.encode(bytes)))
}

fn read(path: &Path) -> Result<Vec<Entry>, IdentityError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(IdentityError::Read { path: path.to_owned(), source }),
    };
    let broken = |problem: String| IdentityError::Broken { path: path.to_owned(), problem };
    let items: Vec<&RawValue> = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
    let mut entries = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let entry = Fields::parse(item.get(), "").and_then(|fields| {
            Ok(Entry {
                executor_id: fields.required("executorId")?,
                token: Token::new(fields.required::<String>("token")?),
                last_seen_at: fields.lenient("lastSeenAt"),
                other: fields.others(&["executorId", "token", "lastSeenAt"]),
            })
        });
        entries.push(entry.map_err(|error| broken(format!("entry {index}: {error}")))?);
    }
    Ok(entries)
}

fn write(path: &Path, entries: &[Entry]) -> Result<(), IdentityError> {
    let failed = |source: io::Error| IdentityError::Write { path: path.to_owned(), source };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).map_err(failed)?;
    // A temporary file has mode 0600 from its first moment.
    let mut file = tempfile::Builder::new()
        .prefix(".executor-identities.")
        .suffix(".tmp")
        .tempfile_in(directory)
        .map_err(failed)?;
    file.write_all(render(entries).as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    let temporary = file.into_temp_path();
    atomic::rename(&temporary, path).map_err(failed)?;
    temporary.keep().map_err(|error| failed(error.error))?;
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

fn render(entries: &[Entry]) -> String {
    let objects = entries.iter().map(|entry| {
        let mut members = vec![
            format!("    \"executorId\": {}", serde_json::Value::from(entry.executor_id.as_str())),
            format!("    \"token\": {}", serde_json::Value::from(entry.token.reveal())),
        ];
        members.extend(entry.last_seen_at.map(|at| format!("    \"lastSeenAt\": \"{at}\"")));
        let other = entry.other.iter();
        members.extend(
            other.map(|(key, raw)| format!("    {}: {}", serde_json::Value::from(key.as_str()), raw.get())),
        );
        format!("  {{\n{}\n  }}", members.join(",\n"))
    });
    let objects: Vec<String> = objects.collect();
    if objects.is_empty() { "[]\n".to_owned() } else { format!("[\n{}\n]\n", objects.join(",\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn id(number: u8) -> ExecutorId {
        ExecutorId::new(format!("00000000-0000-4000-8000-0000000000{number:02x}")).unwrap()
    }

    fn one(number: u8, rotate: bool) -> Vec<TokenRequest> {
        vec![TokenRequest { executor_id: id(number), rotate }]
    }

    #[test]
    fn a_token_survives_a_restart_and_ends_only_when_rotated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/executor-identities.json");
        let now = Timestamp::from_millis(0);
        let first = Identities::open(Some(path.clone())).unwrap().issue(&one(1, false), now).unwrap();
        let again = Identities::open(Some(path.clone())).unwrap();
        assert_eq!(again.token(&id(1)).as_ref(), Some(&first[0].token));
        assert_eq!(again.issue(&one(1, false), now).unwrap()[0].token, first[0].token);
        let rotated = again.issue(&one(1, true), now).unwrap();
        assert!(rotated[0].rotated);
        assert_ne!(rotated[0].token, first[0].token);
        assert_eq!(first[0].token.reveal().len(), 43);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_others_wrote_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.json");
        let theirs = r#"[{"executorId":"not-a-uuid","token":"t","lastSeenAt":"whenever","n":1.10}]"#;
        std::fs::write(&path, theirs).unwrap();
        let identities = Identities::open(Some(path.clone())).unwrap();
        identities.issue(&one(1, false), Timestamp::from_millis(0)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"n\": 1.10"), "{text}");
        assert!(
            text.starts_with("[\n  {\n    \"executorId\": \"not-a-uuid\",\n    \"token\": \"t\""),
            "{text}"
        );
        assert!(text.contains("\"lastSeenAt\": \"1970-01-01T00:00:00.000Z\""), "{text}");
    }

    #[test]
    fn a_broken_file_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.json");
        for broken in ["{", "{}", r#"[{"executorId":"x"}]"#, ""] {
            std::fs::write(&path, broken).unwrap();
            let error = Identities::open(Some(path.clone())).unwrap_err();
            assert!(error.to_string().contains("ids.json"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), broken);
        }
    }

    #[test]
    fn many_requests_are_answered_with_one_write() {
        let identities = Identities::open(None).unwrap();
        let requests: Vec<TokenRequest> = (1..=3).chain(1..=1).flat_map(|n| one(n, false)).collect();
        let issued = identities.issue(&requests, Timestamp::from_millis(0)).unwrap();
        assert_eq!(issued[0].token, issued[3].token);
        assert_ne!(issued[0].token, issued[1].token);
    }
}
