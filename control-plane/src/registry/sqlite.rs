//! The registry in one SQLite file. A transaction is on disk when it returns: write-ahead log, synced at each commit. What a
//! crash leaves unfinished is not there at the next start.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{
    chain::{ChainError, Checkpoint, Kind, Row},
    store::{Head, Store, StoreError},
};
use crate::database::{self, signed, unsigned};

/// An open database.
pub(super) struct Sqlite(Connection);

impl Sqlite {
    /// Opens for writing; an empty file becomes a registry.
    pub(super) fn open(path: &Path) -> rusqlite::Result<Self> {
        database::open(path, VERSION, SCHEMA).map(Self)
    }

    /// Opens what is there, to look at it.
    pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Self> {
        database::open_to_read(path, VERSION).map(Self)
    }

    fn select(&self, matching: &str, values: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<Vec<Row>> {
        let mut select = self.0.prepare(&format!(
            "SELECT {COLUMNS} FROM record WHERE {matching} ORDER BY sequence DESC LIMIT ?3"
        ))?;
        let rows = select.query_map(values, read)?;
        rows.collect()
    }
}

impl Store for Sqlite {
    fn append(&mut self, head: Head, rows: &[Row]) -> Result<(), StoreError> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found = tail(&transaction)?;
        if found.is_some_and(|found| found != head) {
            return Err(StoreError::Foreign);
        }
        {
            let mut insert = transaction.prepare(
                "INSERT INTO record (sequence, at_ms, ends, serial, identity, body, hash)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for row in rows {
                insert.execute(params![
                    signed(row.sequence),
                    signed(row.at_ms),
                    signed(row.ends),
                    row.serial,
                    row.identity,
                    row.body,
                    row.hash
                ])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn seal(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        Ok(insert_checkpoint(&self.0, checkpoint)?)
    }

    fn ended_before(&self, moment: u64) -> Result<Option<Head>, StoreError> {
        Ok(self.0
            .query_row(
                "SELECT sequence, hash FROM record
                 WHERE sequence < coalesce((SELECT min(sequence) FROM record WHERE ends >= ?1), 9223372036854775807)
                 ORDER BY sequence DESC LIMIT 1",
                [signed(moment)],
                |row| Ok((unsigned(row.get(0)?), row.get(1)?)),
            )
            .optional()?)
    }

    fn prune(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        insert_checkpoint(&transaction, checkpoint)?;
        transaction.execute("DELETE FROM record WHERE sequence <= ?1", [signed(checkpoint.sequence)])?;
        transaction.execute("DELETE FROM checkpoint WHERE sequence < ?1", [signed(checkpoint.sequence)])?;
        Ok(transaction.commit()?)
    }

    fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        let mut select =
            self.0.prepare("SELECT sequence, hash, pruned, signature FROM checkpoint ORDER BY sequence")?;
        let rows = select.query_map([], |row| {
            let kind = if row.get(2)? { Kind::Pruned } else { Kind::Kept };
            Ok(Checkpoint {
                sequence: unsigned(row.get(0)?),
                hash: row.get(1)?,
                kind,
                signature: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn first(&self) -> Result<Option<u64>, StoreError> {
        let first: Option<i64> =
            self.0.query_row("SELECT min(sequence) FROM record", [], |row| row.get(0))?;
        Ok(first.map(unsigned))
    }

    fn each(&self, take: &mut dyn FnMut(Row) -> Result<(), ChainError>) -> Result<(), ChainError> {
        let mut select = self
            .0
            .prepare(&format!("SELECT {COLUMNS} FROM record ORDER BY sequence"))
            .map_err(StoreError::from)?;
        let mut rows = select.query([]).map_err(StoreError::from)?;
        while let Some(row) = rows.next().map_err(StoreError::from)? {
            take(read(row).map_err(StoreError::from)?)?;
        }
        Ok(())
    }

    fn issued(&self, identity: Option<&str>, at: Option<u64>, limit: u32) -> Result<Vec<Row>, StoreError> {
        Ok(self.select(
            "serial IS NOT NULL AND (?1 IS NULL OR identity = ?1)
             AND (?2 IS NULL OR (at_ms / 1000 <= ?2 AND ends >= ?2))",
            params![identity, at.map(signed), limit],
        )?)
    }

    fn alive(&self, since: u64) -> Result<Vec<Row>, StoreError> {
        let mut select = self.0.prepare(&format!(
            "SELECT {COLUMNS} FROM record WHERE serial IS NOT NULL AND ends >= ?1 ORDER BY sequence"
        ))?;
        let rows = select.query_map([signed(since)], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn refused(&self, identity: Option<&str>, limit: u32) -> Result<Vec<Row>, StoreError> {
        Ok(self.select(
            "serial IS NULL AND json_extract(body, '$.event') = 'refused'
             AND (?1 IS NULL OR identity = ?1) AND ?2 IS NULL",
            params![identity, None::<i64>, limit],
        )?)
    }

    fn by_serial(&self, serial: &str) -> Result<Option<Row>, StoreError> {
        Ok(self
            .0
            .query_row(&format!("SELECT {COLUMNS} FROM record WHERE serial = ?1"), [serial], read)
            .optional()?)
    }

    fn unnoticed(&mut self, _last: u64) -> Result<Vec<Row>, StoreError> {
        // A commit of SQLite says itself how it ended.
        Ok(Vec::new())
    }

    fn lease(&self) -> Option<Duration> {
        None
    }

    fn keep(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn release(&mut self) {}
}

fn tail(connection: &Connection) -> rusqlite::Result<Option<(u64, [u8; 32])>> {
    connection
        .query_row("SELECT sequence, hash FROM record ORDER BY sequence DESC LIMIT 1", [], |row| {
            Ok((unsigned(row.get(0)?), row.get(1)?))
        })
        .optional()
}

fn insert_checkpoint(connection: &Connection, checkpoint: &Checkpoint) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT OR REPLACE INTO checkpoint (sequence, hash, pruned, signature) VALUES (?1, ?2, ?3, ?4)",
        params![
            signed(checkpoint.sequence),
            checkpoint.hash,
            checkpoint.kind == Kind::Pruned,
            checkpoint.signature
        ],
    )?;
    Ok(())
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        sequence: unsigned(row.get(0)?),
        at_ms: unsigned(row.get(1)?),
        ends: unsigned(row.get(2)?),
        serial: row.get(3)?,
        identity: row.get(4)?,
        body: row.get(5)?,
        hash: row.get(6)?,
    })
}

const COLUMNS: &str = "sequence, at_ms, ends, serial, identity, body, hash";
const VERSION: i64 = 1;
const SCHEMA: &str = "
CREATE TABLE record (
    sequence INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    ends INTEGER NOT NULL,
    serial TEXT,
    identity TEXT,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX record_serial ON record (serial) WHERE serial IS NOT NULL;
CREATE INDEX record_identity ON record (identity, sequence);
CREATE INDEX record_ends ON record (ends);
CREATE TABLE checkpoint (
    sequence INTEGER PRIMARY KEY,
    hash BLOB NOT NULL,
    pruned INTEGER NOT NULL,
    signature BLOB NOT NULL
) STRICT;
";
