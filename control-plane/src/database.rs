//! SQLite as the state folder uses it: opened without following links, its pages checked, its form known. A file that is
//! damaged, or of another version, is refused whole.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

/// Opens for writing; an empty file gets the `schema`. A transaction is on disk when its commit returns: write-ahead log,
/// synced at each commit.
pub(crate) fn open(path: &Path, known: i64, schema: &str) -> rusqlite::Result<Connection> {
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    check_pages(&connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", JOURNAL_BYTES)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    give_form(&transaction, known, schema)?;
    transaction.commit()?;
    Ok(connection)
}

/// Opens what is there, to look at it: one moment for all that is read from now on, whatever is written meanwhile.
pub(crate) fn open_to_read(path: &Path, known: i64) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    check_pages(&connection)?;
    match version(&connection)? {
        found if found == known => {}
        other => return Err(unknown_version(other, known)),
    }
    connection.execute_batch("BEGIN")?;
    Ok(connection)
}

/// SQLite's integers have a sign; no clock or count of ours reaches it.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A negative number is nothing that we wrote; 0 is a moment or a count that admits nothing.
pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn give_form(transaction: &Transaction<'_>, known: i64, schema: &str) -> rusqlite::Result<()> {
    match version(transaction)? {
        0 => {
            transaction.execute_batch(schema)?;
            transaction.pragma_update(None, "user_version", known)
        }
        found if found == known => Ok(()),
        other => Err(unknown_version(other, known)),
    }
}

fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// A page that was damaged is found here, before anything rests on it.
fn check_pages(connection: &Connection) -> rusqlite::Result<()> {
    let answer: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if answer == "ok" {
        return Ok(());
    }
    Err(corrupt(answer))
}

fn corrupt(reason: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), Some(reason))
}

/// What was to be changed is not as the caller knew it.
pub(crate) fn conflict(reason: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY_SNAPSHOT),
        Some(reason.to_owned()),
    )
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn unknown_version(version: i64, known: i64) -> rusqlite::Error {
    corrupt(format!("has the form {version}, and this program knows form {known}"))
}

/// A reader holds no lock that a writer of the write-ahead log waits for; this is for the moment of opening, and for another
/// writer.
const BUSY: Duration = Duration::from_secs(5);
/// What the write-ahead log is cut back to.
const JOURNAL_BYTES: i64 = 8 << 20;
