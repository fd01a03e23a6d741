//! Owns how the file is opened, and how one of an earlier release is brought into this one's form.
//!
//! Promises that a migration which was cut short goes on where it stopped.

use crate::{redact::Redact, store::migrations};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};
use std::{path::Path, time::Duration};

/// Longest wait for another process that is writing.
const BUSY: Duration = Duration::from_secs(30);
/// Rows of the earlier form that are moved in one transaction.
const MOVED_TOGETHER: i64 = 50_000;

/// WAL: look-ups go on while rows are written. With `synchronous = NORMAL` the file is synced when the log is copied into it and not at each
/// commit: a power failure can cost the newest transactions, and what they held is scored again; it can't harm the file, as `OFF` could.
/// A page that many transactions change is written into the file once for all that the log holds of it: so the log may grow to 64 MiB.
/// The cache holds the inner pages of tens of millions of keys.
const WRITER: &str = "\
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA cache_size = -24576;
PRAGMA wal_autocheckpoint = 16384;
PRAGMA journal_size_limit = 67108864;
PRAGMA temp_store = MEMORY;";

/// A look-up asks for its keys in order: of the leaves it needs each once.
const READER: &str = "\
PRAGMA cache_size = -8192;
PRAGMA query_only = ON;";

/// Where sqlx's own migrator noted what it had done, which earlier releases used.
const NOTES: &str = "\
CREATE TABLE IF NOT EXISTS _sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL,
    checksum BLOB NOT NULL,
    execution_time BIGINT NOT NULL
)";

/// Why a file can't be opened to write.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(
        "a newer release of Kiln has written it, or has begun to: use that one, or another file"
    )]
    Newer,
    #[error("{}", .0.redacted())]
    Sqlite(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Opens the file to write, making it where it isn't there, and migrates it; `moved` is told of rows that are moved, and of all.
pub(super) fn open(path: &Path, moved: &mut dyn FnMut(u64, u64)) -> Result<Connection, OpenError> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.execute_batch(WRITER)?;
    migrate(&mut connection)?;
    move_scores(&mut connection, moved)?;
    Ok(connection)
}

/// Opens the file to look rows up.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.execute_batch(READER)?;
    Ok(connection)
}

/// Runs the migrations that the file hasn't had, each in a transaction of its own.
fn migrate(connection: &mut Connection) -> Result<(), OpenError> {
    connection.execute_batch(NOTES)?;
    let newest = migrations::SQLITE.iter().map(|one| one.version).max();
    let unknown =
        "SELECT EXISTS (SELECT 1 FROM _sqlx_migrations WHERE version > ?1 OR NOT success)";
    let newest = newest.unwrap_or_default();
    if connection.query_row(unknown, [newest], |row| row.get(0))? {
        return Err(OpenError::Newer);
    }
    for migration in migrations::SQLITE.iter() {
        let transaction = begin(connection)?;
        let had: bool = transaction.query_row(
            "SELECT EXISTS (SELECT 1 FROM _sqlx_migrations WHERE version = ?1)",
            [migration.version],
            |row| row.get(0),
        )?;
        if !had {
            transaction.execute_batch(migration.sql.as_str())?;
            transaction.execute(
                "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (?1, ?2, true, ?3, 0)",
                params![migration.version, migration.description, &*migration.checksum],
            )?;
        }
        transaction.commit()?;
    }
    Ok(())
}

/// A transaction that writes.
pub(super) fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

const NAME_MODELS: &str = "\
INSERT OR IGNORE INTO models (model, version) SELECT DISTINCT model, version FROM scores_before WHERE rowid > ?1 AND rowid <= ?2";
const NAME_NAMESPACES: &str = "\
INSERT OR IGNORE INTO namespaces (namespace) SELECT DISTINCT namespace FROM scores_before WHERE rowid > ?1 AND rowid <= ?2";
const MOVE_OUTPUTS: &str = "\
INSERT OR IGNORE INTO outputs (input, model, outputs)
SELECT substr(s.input_sha256, 1, 16), m.id, s.outputs
FROM scores_before s JOIN models m ON m.model = s.model AND m.version = s.version
WHERE s.rowid > ?1 AND s.rowid <= ?2 ORDER BY 1, 2";
/// A row keeps its number: what has been moved is known by the highest one.
const MOVE_INPUTS: &str = "\
INSERT INTO inputs (id, input_sha256, model, namespace, scored_at, score, key, label, text, text_pair, features)
SELECT s.rowid, s.input_sha256, m.id, n.id, CAST(round(unixepoch(s.scored_at, 'subsec') * 1000) AS integer), s.score, s.key, s.label,
       s.text, s.text_pair, s.features
FROM scores_before s
JOIN models m ON m.model = s.model AND m.version = s.version
JOIN namespaces n ON n.namespace = s.namespace
WHERE s.rowid > ?1 AND s.rowid <= ?2 ORDER BY s.rowid";

/// Moves the scores of an earlier release, some in each transaction, and drops their table. Nothing else is written before that is done.
fn move_scores(
    connection: &mut Connection,
    moved: &mut dyn FnMut(u64, u64),
) -> rusqlite::Result<()> {
    loop {
        let transaction = begin(connection)?;
        // Looked at anew each time: another process may be moving the same rows.
        let is_there = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'scores_before')";
        if !transaction.query_row(is_there, [], |row| row.get::<_, bool>(0))? {
            return Ok(());
        }
        let number = |statement: &str| {
            let number = transaction.query_row(statement, [], |row| row.get(0));
            number.map(Option::<i64>::unwrap_or_default)
        };
        let last = number("SELECT max(rowid) FROM scores_before")?;
        let after = number("SELECT max(id) FROM inputs")?;
        if after >= last {
            transaction.execute_batch("DROP TABLE scores_before")?;
            return transaction.commit();
        }
        let until = "SELECT max(rowid) FROM (SELECT rowid FROM scores_before WHERE rowid > ?1 ORDER BY rowid LIMIT ?2)";
        let until: Option<i64> =
            transaction.query_row(until, [after, MOVED_TOGETHER], |row| row.get(0))?;
        let until = until.unwrap_or(last);
        for statement in [NAME_MODELS, NAME_NAMESPACES, MOVE_OUTPUTS, MOVE_INPUTS] {
            transaction.execute(statement, [after, until])?;
        }
        transaction.commit()?;
        moved(until.unsigned_abs(), last.unsigned_abs());
    }
}
