//! The registry in a PostgreSQL that several control planes share. One of them has the lease: whatever it writes is in one
//! transaction with the check that the lease's number is still its own, so one that lost it writes nothing.

mod lease;
mod link;
mod tls;

use std::time::Duration;

use tokio_postgres::{Client, Transaction};

use self::{lease::Lease, link::Link};
use super::{
    chain::{ChainError, Checkpoint, Kind, Row},
    store::{Head, Store, StoreError},
};
use crate::{
    config::Postgresql,
    database::{signed, unsigned},
};

pub(crate) use lease::{Claim, Claimed};

/// An open database.
pub(crate) struct Postgres {
    link: Link,
    /// `None`: opened to be read.
    lease: Option<Lease>,
    /// A write failed in a way that leaves open whether it was done.
    in_doubt: bool,
}

impl Postgres {
    /// Opens what is there, to look at it; `None`: there is no registry yet. All that is read is of one moment.
    pub(super) fn open_to_read(database: &Postgresql) -> Result<Option<Self>, StoreError> {
        let mut link = Link::open(database)?;
        let is_there = link.change(async |client| {
            if !lease::is_made(client).await? {
                return Ok(false);
            }
            client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            lease::check_form(client).await.map(|()| true)
        })?;
        Ok(is_there.then_some(Self { link, lease: None, in_doubt: false }))
    }

    /// In one transaction with the check of the lease: `work` is done while no other control plane can take it.
    fn write<T>(
        &mut self,
        work: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let lease = self.lease.as_ref().ok_or(StoreError::TakenOver)?;
        let done = self.link.change(async |client: &mut Client| {
            let transaction = client.transaction().await?;
            lease.check(&transaction).await?;
            let value = work(&transaction).await?;
            transaction.commit().await?;
            Ok(value)
        });
        match &done {
            Err(StoreError::TakenOver) => self.lease = None,
            Err(StoreError::Postgres(_)) => self.in_doubt = true,
            _ => {}
        }
        done
    }

    fn select(
        &self,
        matching: &str,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let text = format!("SELECT {COLUMNS} FROM sidegate.record WHERE {matching}");
        self.link.look(async |client| client.query(&text, values).await?.iter().map(read).collect())
    }
}

impl std::fmt::Display for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.link.database().fmt(f)
    }
}

impl Store for Postgres {
    fn append(&mut self, head: Head, rows: &[Row]) -> Result<(), StoreError> {
        self.write(async |transaction| {
            let found = transaction
                .query_opt("SELECT sequence, hash FROM sidegate.record ORDER BY sequence DESC LIMIT 1", &[])
                .await?;
            if found.map(|row| self::head(&row)).transpose()?.is_some_and(|found| found != head) {
                return Err(StoreError::Foreign);
            }
            insert(transaction, rows).await
        })
    }

    fn unnoticed(&mut self, last: u64) -> Result<Vec<Row>, StoreError> {
        if !self.in_doubt {
            return Ok(Vec::new());
        }
        let text = format!("SELECT {COLUMNS} FROM sidegate.record WHERE sequence > $1 ORDER BY sequence");
        let rows = self.write(async |transaction| {
            transaction.query(&text, &[&signed(last)]).await?.iter().map(read).collect()
        })?;
        self.in_doubt = false;
        Ok(rows)
    }

    fn seal(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.write(async |transaction| insert_checkpoint(transaction, checkpoint).await)
    }

    fn prune(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let last = signed(checkpoint.sequence);
        self.write(async |transaction| {
            insert_checkpoint(transaction, checkpoint).await?;
            transaction.execute("DELETE FROM sidegate.record WHERE sequence <= $1", &[&last]).await?;
            transaction.execute("DELETE FROM sidegate.checkpoint WHERE sequence < $1", &[&last]).await?;
            Ok(())
        })
    }

    fn lease(&self) -> Option<Duration> {
        self.lease.as_ref().map(Lease::life)
    }

    fn keep(&mut self) -> Result<(), StoreError> {
        // The check is what says so.
        self.write(async |_| Ok(()))
    }

    fn release(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        if let Err(error) = self.link.change(async |client: &mut Client| lease.release(client).await) {
            tracing::warn!(%error, "the registry could not be handed over; another control plane waits for the lease to end");
        }
    }

    fn ended_before(&self, moment: u64) -> Result<Option<Head>, StoreError> {
        let text = "SELECT sequence, hash FROM sidegate.record
            WHERE sequence < coalesce((SELECT min(sequence) FROM sidegate.record WHERE ends >= $1), 9223372036854775807)
            ORDER BY sequence DESC LIMIT 1";
        self.link.look(async |client| {
            client.query_opt(text, &[&signed(moment)]).await?.map(|row| head(&row)).transpose()
        })
    }

    fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        let text = "SELECT sequence, hash, pruned, signature FROM sidegate.checkpoint ORDER BY sequence";
        self.link.look(async |client| {
            let rows = client.query(text, &[]).await?;
            rows.iter()
                .map(|row| {
                    let (sequence, hash) = head(row)?;
                    let kind = if row.try_get(2)? { Kind::Pruned } else { Kind::Kept };
                    Ok(Checkpoint { sequence, hash, kind, signature: row.try_get(3)? })
                })
                .collect()
        })
    }

    fn first(&self) -> Result<Option<u64>, StoreError> {
        self.link.look(async |client| {
            let row = client.query_one("SELECT min(sequence) FROM sidegate.record", &[]).await?;
            Ok(row.try_get::<_, Option<i64>>(0)?.map(unsigned))
        })
    }

    fn each(&self, take: &mut dyn FnMut(Row) -> Result<(), ChainError>) -> Result<(), ChainError> {
        let mut last = -1;
        loop {
            let page = self.select("sequence > $1 ORDER BY sequence LIMIT $2", &[&last, &PAGE])?;
            let Some(end) = page.last() else { return Ok(()) };
            last = signed(end.sequence);
            for row in page {
                take(row)?;
            }
        }
    }

    fn issued(&self, identity: Option<&str>, at: Option<u64>, limit: u32) -> Result<Vec<Row>, StoreError> {
        self.select(
            "serial IS NOT NULL AND ($1::text IS NULL OR identity = $1)
             AND ($2::bigint IS NULL OR (at_ms / 1000 <= $2 AND ends >= $2)) ORDER BY sequence DESC LIMIT $3",
            &[&identity, &at.map(signed), &i64::from(limit)],
        )
    }

    fn alive(&self, since: u64) -> Result<Vec<Row>, StoreError> {
        self.select("serial IS NOT NULL AND ends >= $1 ORDER BY sequence", &[&signed(since)])
    }

    fn refused(&self, identity: Option<&str>, limit: u32) -> Result<Vec<Row>, StoreError> {
        self.select(
            "serial IS NULL AND body::json ->> 'event' = 'refused' AND ($1::text IS NULL OR identity = $1)
             ORDER BY sequence DESC LIMIT $2",
            &[&identity, &i64::from(limit)],
        )
    }

    fn by_serial(&self, serial: &str) -> Result<Option<Row>, StoreError> {
        self.select("serial = $1", &[&serial]).map(|mut rows| rows.pop())
    }
}

async fn insert(transaction: &Transaction<'_>, rows: &[Row]) -> Result<(), StoreError> {
    let each = |number: fn(&Row) -> u64| rows.iter().map(|row| signed(number(row))).collect::<Vec<_>>();
    let serials: Vec<_> = rows.iter().map(|row| row.serial.as_deref()).collect();
    let identities: Vec<_> = rows.iter().map(|row| row.identity.as_deref()).collect();
    let bodies: Vec<_> = rows.iter().map(|row| row.body.as_str()).collect();
    let hashes: Vec<_> = rows.iter().map(|row| row.hash.as_slice()).collect();
    transaction
        .execute(
            "INSERT INTO sidegate.record (sequence, at_ms, ends, serial, identity, body, hash)
             SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::bytea[])",
            &[
                &each(|row| row.sequence),
                &each(|row| row.at_ms),
                &each(|row| row.ends),
                &serials,
                &identities,
                &bodies,
                &hashes,
            ],
        )
        .await?;
    Ok(())
}

async fn insert_checkpoint(transaction: &Transaction<'_>, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    transaction
        .execute(
            "INSERT INTO sidegate.checkpoint (sequence, hash, pruned, signature) VALUES ($1, $2, $3, $4)
             ON CONFLICT (sequence) DO UPDATE SET hash = $2, pruned = $3, signature = $4",
            &[
                &signed(checkpoint.sequence),
                &checkpoint.hash.as_slice(),
                &(checkpoint.kind == Kind::Pruned),
                &checkpoint.signature,
            ],
        )
        .await?;
    Ok(())
}

fn read(row: &tokio_postgres::Row) -> Result<Row, StoreError> {
    Ok(Row {
        sequence: unsigned(row.try_get(0)?),
        at_ms: unsigned(row.try_get(1)?),
        ends: unsigned(row.try_get(2)?),
        serial: row.try_get(3)?,
        identity: row.try_get(4)?,
        body: row.try_get(5)?,
        hash: hash(row.try_get(6)?)?,
    })
}

fn head(row: &tokio_postgres::Row) -> Result<Head, StoreError> {
    Ok((unsigned(row.try_get(0)?), hash(row.try_get(1)?)?))
}

fn hash(bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Postgres(format!("a hash has {} bytes", bytes.len())))
}

const COLUMNS: &str = "sequence, at_ms, ends, serial, identity, body, hash";
/// Records that are read at once: about 3 MiB.
const PAGE: i64 = 5_000;
