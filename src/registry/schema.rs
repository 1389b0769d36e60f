//! Pure: the tables of the store, one step per version.
//!
//! A step is never changed once it has been released: a store of an older version is brought up by the steps it lacks, in one
//! transaction. A store of a newer version is refused.

/// The version that this program writes, and with it the number of steps.
pub const VERSION: u32 = 4;

/// Marks the file as ours: "AIRG".
pub const APPLICATION_ID: i32 = 0x4149_5247;

/// The steps; step n leads from version n to n + 1.
///
/// Missions are numbered in the order of their first dispatch, and their rows are found by that number: an identifier, often
/// random, costs one index entry when a mission begins and nothing when it moves. The key of the present attempt is in the
/// mission's row; `keys` holds the others, and those that are not the mission's id.
pub const STEPS: [&str; 4] = [
    "
CREATE TABLE executors (
    executor_id     TEXT PRIMARY KEY,
    registration    TEXT NOT NULL,
    token_sha256    BLOB NOT NULL,
    place           INTEGER NOT NULL,
    registered_at   INTEGER NOT NULL,
    last_event_at   INTEGER,
    disconnected_at INTEGER,
    is_remote       INTEGER NOT NULL,
    is_draining     INTEGER NOT NULL
) STRICT;

CREATE TABLE missions (
    number            INTEGER PRIMARY KEY,
    mission_id        TEXT NOT NULL UNIQUE,
    session           TEXT NOT NULL,
    executor_id       TEXT NOT NULL,
    state             TEXT NOT NULL,
    state_since       INTEGER NOT NULL,
    state_ts          INTEGER,
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL,
    completed_at      INTEGER,
    is_accepted       INTEGER NOT NULL,
    is_resent         INTEGER NOT NULL,
    estimated_start   TEXT,
    pty_session_ref   TEXT,
    exit_code         INTEGER,
    error             TEXT,
    question          TEXT,
    expired_question  TEXT,
    pending           TEXT,
    key               TEXT NOT NULL,
    fingerprint       BLOB NOT NULL,
    long_running      INTEGER NOT NULL,
    body              TEXT NOT NULL
) STRICT;
CREATE INDEX missions_live ON missions (number) WHERE completed_at IS NULL;
CREATE INDEX missions_ended ON missions (completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX missions_by_session ON missions (session, number);

CREATE TABLE keys (
    key             TEXT PRIMARY KEY,
    mission_id      TEXT NOT NULL,
    fingerprint     BLOB NOT NULL,
    executor_id     TEXT,
    estimated_start TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_by_mission ON keys (mission_id);

CREATE TABLE events (
    seq         INTEGER PRIMARY KEY,
    executor_id TEXT NOT NULL,
    mission_id  TEXT,
    kind        TEXT NOT NULL,
    ts          INTEGER NOT NULL,
    raw         TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_mission ON events (mission_id, seq) WHERE mission_id IS NOT NULL;
",
    "
CREATE TABLE webhooks (
    url     TEXT PRIMARY KEY,
    reached INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
",
    "
CREATE TABLE notices (
    seq      INTEGER PRIMARY KEY,
    url      TEXT NOT NULL,
    kind     TEXT NOT NULL,
    raw      TEXT NOT NULL,
    since    INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    due      INTEGER NOT NULL
) STRICT;
CREATE INDEX notices_due ON notices (due);
CREATE INDEX events_of_executors ON events (ts) WHERE mission_id IS NULL;
",
    "
ALTER TABLE missions ADD COLUMN events_after INTEGER NOT NULL DEFAULT 0;
",
];
