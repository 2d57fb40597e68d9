//! The tables of the tokens, and the statements on them. What belongs together is one transaction of the caller's.

use rusqlite::{Connection, OptionalExtension, params};

use super::State;
use crate::database::{signed, unsigned};

/// A token as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) digest: [u8; 32],
    pub(super) identity: String,
    pub(super) created_ms: u64,
    pub(super) life_ms: u64,
    pub(super) ends_ms: u64,
    /// `None`: as often as is wanted.
    pub(super) uses: Option<u32>,
    pub(super) used: u32,
    pub(super) last_used_ms: Option<u64>,
    pub(super) revoked_ms: Option<u64>,
    pub(super) successor: Option<String>,
}

impl Row {
    pub(super) fn state(&self, now_ms: u64) -> State {
        if self.revoked_ms.is_some() {
            State::Revoked
        } else if now_ms >= self.ends_ms {
            State::Expired
        } else if self.uses.is_some_and(|uses| self.used >= uses) {
            State::UsedUp
        } else {
            State::Valid
        }
    }
}

pub(super) fn insert(connection: &Connection, row: &Row) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO token (id, digest, identity, created_ms, life_ms, ends_ms, uses, used)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)",
        params![
            row.id,
            row.digest,
            row.identity,
            signed(row.created_ms),
            signed(row.life_ms),
            signed(row.ends_ms),
            row.uses
        ],
    )?;
    Ok(())
}

/// The newest first.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<Row>> {
    let mut select =
        connection.prepare(&format!("SELECT {COLUMNS} FROM token ORDER BY created_ms DESC, id"))?;
    let rows = select.query_map([], read)?;
    rows.collect()
}

pub(super) fn by_id(connection: &Connection, id: &str) -> rusqlite::Result<Option<Row>> {
    connection.query_row(&format!("SELECT {COLUMNS} FROM token WHERE id = ?1"), [id], read).optional()
}

pub(super) fn by_digest(connection: &Connection, digest: &[u8; 32]) -> rusqlite::Result<Option<Row>> {
    connection.query_row(&format!("SELECT {COLUMNS} FROM token WHERE digest = ?1"), [digest], read).optional()
}

pub(super) fn count_use(connection: &Connection, id: &str, now_ms: u64) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE token SET used = used + 1, last_used_ms = ?2 WHERE id = ?1",
        params![id, signed(now_ms)],
    )?;
    Ok(())
}

pub(super) fn uncount_use(connection: &Connection, id: &str) -> rusqlite::Result<()> {
    connection.execute("UPDATE token SET used = max(used - 1, 0) WHERE id = ?1", [id])?;
    Ok(())
}

pub(super) fn revoke(connection: &Connection, id: &str, now_ms: u64) -> rusqlite::Result<()> {
    connection.execute("UPDATE token SET revoked_ms = ?2 WHERE id = ?1", params![id, signed(now_ms)])?;
    Ok(())
}

/// `successor` takes the place of `id`, which is valid until `ends_ms`.
pub(super) fn replace(
    connection: &Connection,
    id: &str,
    successor: &str,
    ends_ms: u64,
) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE token SET successor = ?2, ends_ms = ?3 WHERE id = ?1",
        params![id, successor, signed(ends_ms)],
    )?;
    Ok(())
}

/// Whatever has `id` as its successor ends.
pub(super) fn revoke_replaced_by(connection: &Connection, id: &str, now_ms: u64) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE token SET revoked_ms = ?2 WHERE successor = ?1 AND revoked_ms IS NULL AND ends_ms > ?2",
        params![id, signed(now_ms)],
    )?;
    Ok(())
}

/// The addresses a token was used from, in the order in which they came.
pub(super) fn sources(connection: &Connection, id: &str) -> rusqlite::Result<Vec<String>> {
    let mut select =
        connection.prepare("SELECT address FROM source WHERE token = ?1 ORDER BY first_ms, rowid")?;
    let rows = select.query_map([id], |row| row.get(0))?;
    rows.collect()
}

pub(super) fn add_source(
    connection: &Connection,
    id: &str,
    address: &str,
    now_ms: u64,
) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO source (token, address, first_ms) VALUES (?1, ?2, ?3)",
        params![id, address, signed(now_ms)],
    )?;
    Ok(())
}

/// Removes what ended before this moment.
pub(super) fn forget(connection: &Connection, moment: u64) -> rusqlite::Result<()> {
    let moment = signed(moment);
    connection.execute(
        "DELETE FROM source WHERE token IN (SELECT id FROM token WHERE min(ends_ms, coalesce(revoked_ms, ends_ms)) < ?1)",
        [moment],
    )?;
    connection
        .execute("DELETE FROM token WHERE min(ends_ms, coalesce(revoked_ms, ends_ms)) < ?1", [moment])?;
    Ok(())
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        id: row.get(0)?,
        digest: row.get(1)?,
        identity: row.get(2)?,
        created_ms: unsigned(row.get(3)?),
        life_ms: unsigned(row.get(4)?),
        ends_ms: unsigned(row.get(5)?),
        uses: row.get(6)?,
        used: row.get(7)?,
        last_used_ms: row.get::<_, Option<i64>>(8)?.map(unsigned),
        revoked_ms: row.get::<_, Option<i64>>(9)?.map(unsigned),
        successor: row.get(10)?,
    })
}

const COLUMNS: &str =
    "id, digest, identity, created_ms, life_ms, ends_ms, uses, used, last_used_ms, revoked_ms, successor";
pub(super) const VERSION: i64 = 1;
pub(super) const SCHEMA: &str = "
CREATE TABLE token (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    identity TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    life_ms INTEGER NOT NULL,
    ends_ms INTEGER NOT NULL,
    uses INTEGER,
    used INTEGER NOT NULL,
    last_used_ms INTEGER,
    revoked_ms INTEGER,
    successor TEXT
) STRICT;
CREATE INDEX token_successor ON token (successor);
CREATE TABLE source (
    token TEXT NOT NULL REFERENCES token (id),
    address TEXT NOT NULL,
    first_ms INTEGER NOT NULL,
    PRIMARY KEY (token, address)
) STRICT;
";
