//! Edge: the embedded database: missions, events, keys, executors.
//!
//! One connection writes, in transactions of whatever has gathered meanwhile, and each commit is synced before it returns. Reading
//! goes over connections of its own, which the writer never waits for. The write-ahead log is folded back by a third,
//! so that no commit pays for it.

use crate::disk::lock::{FileLock, LockError};
use crate::registry::record::{Mission, StoredEvent, Write};
use crate::registry::recovery::{Recalled, Snapshot};
use crate::registry::row;
use crate::registry::schema::{APPLICATION_ID, STEPS, VERSION};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// Reading connections that are kept open.
const READERS_KEPT: usize = 4;

/// Pages of the write-ahead log (4 KiB each) at which the writer folds it back itself, because under a steady load nobody else
/// gets to its end. 64 MiB.
const FOLD_PAGES: i64 = 16_000;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder or the file cannot be made or read.
    #[error("open the store in {}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another registry uses it.
    #[error("lock the store in {}", path.display())]
    Locked {
        /// Which folder.
        path: PathBuf,
        /// Who.
        #[source]
        source: LockError,
    },
    /// It was written by a newer program.
    #[error("use the store {}: it has version {found}, this program knows {VERSION}; it was left untouched", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It is a database, but not of ours.
    #[error("use {} as a store: it is not one of aiwg-rs; it was left untouched", path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// The database said no.
    #[error("{doing} the store {}", path.display())]
    Database {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: rusqlite::Error,
    },
}

/// The writing side. There is one.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    _lock: FileLock,
    _temporary: Option<TempDir>,
}

impl Store {
    /// Makes a store that goes away with the value, and that no power cut can be survived with.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn temporary() -> Result<Self, StoreError> {
        let failed = |source| StoreError::Io { path: std::env::temp_dir(), source };
        let folder = tempfile::Builder::new().prefix("aiwg-rs-registry-").tempdir().map_err(failed)?;
        let store = Self::open(folder.path())?;
        let relaxed = store.connection.pragma_update(None, "synchronous", "OFF");
        relaxed.map_err(|source| store.failed("configure", source))?;
        Ok(Self { _temporary: Some(folder), ..store })
    }

    /// Opens the store in `folder`, making or upgrading it.
    ///
    /// # Errors
    /// [`StoreError`]; a store of a newer version or of another program is left untouched.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Io { path: folder.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let lock = FileLock::try_acquire(&folder.join("registry.lock"))
            .map_err(|source| StoreError::Locked { path: folder.to_owned(), source })?;
        let path = folder.join("registry.sqlite3");
        // Made here and not by the database, for the mode.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StoreError::Io { path: path.clone(), source })?;
        check_header(&path)?;
        let database = |doing| {
            let path = path.clone();
            move |source| StoreError::Database { doing, path, source }
        };
        let mut connection = Connection::open(&path).map_err(database("open"))?;
        let found = version(&connection).map_err(database("read the version of"))?;
        if found > VERSION {
            return Err(StoreError::Newer { path, found });
        }
        configure(&connection).map_err(database("configure"))?;
        migrate(&mut connection, found).map_err(database("upgrade"))?;
        Ok(Self { connection, path, _lock: lock, _temporary: None })
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what a starting registry needs.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn load(&self) -> Result<Snapshot, StoreError> {
        self.read_snapshot().map_err(|source| self.failed("read", source))
    }

    fn read_snapshot(&self) -> rusqlite::Result<Snapshot> {
        let connection = &self.connection;
        let mut snapshot = Snapshot::default();
        let mut statement = connection.prepare("SELECT * FROM executors ORDER BY place")?;
        for executor in statement.query_map([], row::executor)? {
            snapshot.executors.push(executor?);
        }
        let columns = row::MISSION;
        let live = format!("SELECT {columns} FROM missions WHERE completed_at IS NULL ORDER BY number");
        for mission in connection.prepare(&live)?.query_map([], row::mission)? {
            let mission = mission?;
            let events = recent_events(connection, &mission)?;
            snapshot.live.push((mission, events));
        }
        let keys = "SELECT keys.key, keys.mission_id, keys.fingerprint, keys.executor_id, keys.estimated_start \
            FROM keys CROSS JOIN missions USING (mission_id) WHERE completed_at IS NULL";
        for key in connection.prepare(keys)?.query_map([], row::key)? {
            snapshot.keys.push(key?);
        }
        let ended = "SELECT mission_id FROM missions WHERE completed_at IS NOT NULL UNION ALL \
            SELECT keys.key FROM keys JOIN missions USING (mission_id) WHERE completed_at IS NOT NULL";
        for id in connection.prepare(ended)?.query_map([], |row| row.get(0))? {
            snapshot.ended.push(id?);
        }
        let highest = |query| connection.query_row(query, [], |row| row.get::<_, Option<u64>>(0));
        snapshot.last_seq = highest("SELECT max(seq) FROM events")?.unwrap_or(0);
        snapshot.last_number = highest("SELECT max(number) FROM missions")?.unwrap_or(0);
        Ok(snapshot)
    }

    /// Writes everything in one transaction that is on disk when this returns.
    ///
    /// # Errors
    /// [`StoreError::Database`]; nothing of it is written then.
    pub fn commit<'a>(&mut self, writes: impl Iterator<Item = &'a Write>) -> Result<(), StoreError> {
        self.write_all(writes).map_err(|source| StoreError::Database {
            doing: "write to",
            path: self.path.clone(),
            source,
        })
    }

    fn write_all<'a>(&mut self, writes: impl Iterator<Item = &'a Write>) -> rusqlite::Result<()> {
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        // A mission may be heard of thousands of times in one transaction; its row is changed once.
        let mut touched = HashMap::new();
        for write in writes {
            match write {
                Write::Executor(executor) => row::put_executor(&transaction, executor)?,
                Write::ForgetExecutor(id) => {
                    let mut statement =
                        transaction.prepare_cached("DELETE FROM executors WHERE executor_id = ?1")?;
                    statement.execute([id.as_str()])?;
                }
                Write::NewMission(mission) => {
                    touched.remove(&mission.number);
                    row::put_mission(&transaction, mission)?;
                }
                Write::Mission(mission) => {
                    touched.remove(&mission.number);
                    row::update_mission(&transaction, mission)?;
                }
                Write::Touched(number, at) => drop(touched.insert(*number, *at)),
                Write::Key(key, entry) => row::put_key(&transaction, key, entry)?,
                Write::ForgetKey(key) => {
                    transaction.prepare_cached("DELETE FROM keys WHERE key = ?1")?.execute([key])?;
                }
                Write::Webhook(url, reached) => {
                    let mut statement = transaction
                        .prepare_cached("INSERT OR REPLACE INTO webhooks (url, reached) VALUES (?1, ?2)")?;
                    statement.execute(params![url, reached])?;
                }
                Write::Notice(notice) => row::put_notice(&transaction, notice)?,
                Write::ForgetNotice(seq) => {
                    transaction.prepare_cached("DELETE FROM notices WHERE seq = ?1")?.execute([seq])?;
                }
                Write::Probe => transaction.pragma_update(None, "application_id", APPLICATION_ID)?,
                Write::Event(event) => row::put_event(&transaction, event)?,
            }
        }
        for (number, at) in touched {
            row::touch_mission(&transaction, number, at)?;
        }
        transaction.commit()
    }

    /// Forgets missions that ended before `before` (milliseconds since 1970), oldest first, at most `limit` of them, and as many
    /// events of executors from before that time. Returns the ids of the missions.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn sweep(&mut self, before: i64, limit: u32) -> Result<Vec<String>, StoreError> {
        let path = self.path.clone();
        self.sweep_rows(before, limit).map_err(|source| StoreError::Database { doing: "sweep", path, source })
    }

    fn sweep_rows(&mut self, before: i64, limit: u32) -> rusqlite::Result<Vec<String>> {
        let transaction = self.connection.transaction()?;
        let mut gone = Vec::new();
        {
            let find = "SELECT number, mission_id FROM missions WHERE completed_at < ?1 ORDER BY completed_at LIMIT ?2";
            let mut statement = transaction.prepare_cached(find)?;
            let found = statement.query_map(params![before, limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
            for mission in found {
                let (number, id): (u64, String) = mission?;
                transaction.prepare_cached("DELETE FROM missions WHERE number = ?1")?.execute([number])?;
                // The newest event stays as nobody's, for its number: numbers go on from it after a restart.
                let keep = "UPDATE events SET mission_id = NULL WHERE mission_id = ?1 AND seq = (SELECT max(seq) FROM events)";
                transaction.prepare_cached(keep)?.execute([&id])?;
                transaction.prepare_cached("DELETE FROM events WHERE mission_id = ?1")?.execute([&id])?;
                transaction.prepare_cached("DELETE FROM keys WHERE mission_id = ?1")?.execute([&id])?;
                gone.push(id);
            }
        }
        // Events that belong to no mission have no end to go with.
        let of_executors = "DELETE FROM events WHERE seq IN \
            (SELECT seq FROM events WHERE mission_id IS NULL AND ts < ?1 ORDER BY ts LIMIT ?2) \
            AND seq < (SELECT max(seq) FROM events)";
        transaction.prepare_cached(of_executors)?.execute(params![before, limit])?;
        transaction.commit()?;
        Ok(gone)
    }

    /// Returns how many bytes the store's pages in use take.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn size_bytes(&self) -> Result<u64, StoreError> {
        let number = |pragma| self.connection.query_row(pragma, [], |row| row.get::<_, u64>(0));
        let size = || -> rusqlite::Result<u64> {
            let used = number("PRAGMA page_count")?.saturating_sub(number("PRAGMA freelist_count")?);
            Ok(used * number("PRAGMA page_size")?)
        };
        size().map_err(|source| self.failed("measure", source))
    }

    fn failed(&self, doing: &'static str, source: rusqlite::Error) -> StoreError {
        StoreError::Database { doing, path: self.path.clone(), source }
    }
}

/// Folds the write-ahead log back into the file, from a connection of its own, without blocking the writer.
#[derive(Debug)]
pub struct Folder {
    connection: Connection,
}

impl Folder {
    /// Opens a connection for folding.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open(path)?;
            connection.busy_timeout(Duration::from_secs(5))?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            Ok(connection)
        };
        let failed = |source| StoreError::Database { doing: "open", path: path.to_owned(), source };
        Ok(Self { connection: open().map_err(failed)? })
    }

    /// Folds what can be folded now.
    ///
    /// # Errors
    /// What the database says; nothing is lost then.
    pub fn fold(&self) -> rusqlite::Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_row| Ok(()))
    }
}

/// The reading side. Share it; readers neither wait for the writer nor make it wait.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Reader {
    /// Makes a reader of the store in this file.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Mutex::default() }
    }

    /// Runs a query. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let failed = |source| StoreError::Database { doing: "read", path: self.path.clone(), source };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => open_reader(&self.path).map_err(failed)?,
        };
        let answer = query(&connection).map_err(failed);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < READERS_KEPT {
            idle.push(connection);
        }
        answer
    }

    /// Looks an ended mission up by its id or by one of its keys. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn recall(&self, id_or_key: &str) -> Result<Option<Recalled>, StoreError> {
        self.read(|connection| {
            let by_key = "SELECT mission_id FROM keys WHERE key = ?1";
            let owner: Option<String> =
                connection.prepare_cached(by_key)?.query_row([id_or_key], |row| row.get(0)).optional()?;
            let id = owner.as_deref().unwrap_or(id_or_key);
            let columns = row::MISSION;
            let by_id = format!("SELECT {columns} FROM missions WHERE mission_id = ?1");
            let Some(mission) =
                connection.prepare_cached(&by_id)?.query_row([id], row::mission).optional()?
            else {
                return Ok(None);
            };
            let of_mission =
                "SELECT key, mission_id, fingerprint, executor_id, estimated_start FROM keys WHERE mission_id = ?1";
            let mut statement = connection.prepare_cached(of_mission)?;
            let keys = statement.query_map([id], row::key)?.collect::<rusqlite::Result<_>>()?;
            Ok(Some(Recalled { events: recent_events(connection, &mission)?, mission, keys }))
        })
    }
}

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// The last events of a mission's present attempt, oldest first.
fn recent_events(connection: &Connection, mission: &Mission) -> rusqlite::Result<Vec<StoredEvent>> {
    let columns = row::EVENT;
    let query =
        format!("SELECT {columns} FROM events WHERE mission_id = ?1 AND seq > ?2 ORDER BY seq DESC LIMIT 50");
    let mut statement = connection.prepare_cached(&query)?;
    let of_attempt = params![mission.id.as_str(), mission.events_after];
    let mut events = statement.query_map(of_attempt, row::event)?.collect::<rusqlite::Result<Vec<_>>>()?;
    events.reverse();
    Ok(events)
}

/// Looks into the file's first bytes before the database does: opening would already change what lies beside it.
fn check_header(path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::Io { path: path.to_owned(), source };
    let mut header = Vec::with_capacity(100);
    std::fs::File::open(path).map_err(failed)?.take(100).read_to_end(&mut header).map_err(failed)?;
    if header.is_empty() {
        return Ok(());
    }
    let word = |at: usize| -> Option<u32> {
        header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes)
    };
    let is_ours = header.starts_with(b"SQLite format 3\0")
        && word(68).is_some_and(|id| i32::from_ne_bytes(id.to_ne_bytes()) == APPLICATION_ID);
    match word(60) {
        Some(found) if is_ours && found > VERSION => Err(StoreError::Newer { path: path.to_owned(), found }),
        Some(_) if is_ours => Ok(()),
        Some(_) | None => Err(StoreError::Foreign { path: path.to_owned() }),
    }
}

fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", FOLD_PAGES)?;
    connection.pragma_update(None, "cache_size", -32_768)?;
    connection.pragma_update(None, "temp_store", "MEMORY")
}

fn migrate(connection: &mut Connection, found: u32) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for (from, step) in (0_u32..).zip(STEPS) {
        if from >= found {
            transaction.execute_batch(step)?;
        }
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}
