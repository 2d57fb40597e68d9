//! Whose turn it is. The lease has a number that every change of hands raises, and the state folder remembers the newest that
//! was taken with it: a folder that missed one knows neither the newest roots nor which join tokens were used.

use std::time::Duration;

use tokio_postgres::{Client, GenericClient, Transaction};

use super::{super::store::StoreError, Postgres, link::Link};
use crate::{
    config::Postgresql,
    hex,
    state::{StateError, StateFolder, unusable},
};

/// The right to write, until somebody else has it.
pub(super) struct Lease {
    /// The fencing token.
    number: i64,
    life: Duration,
}

/// A wait for the registry.
pub(crate) struct Claim {
    database: Postgresql,
    /// Names this process to whoever waits for it.
    holder: String,
}

/// What became of a try.
pub(crate) enum Claimed {
    /// It is ours.
    Now(Box<Postgres>),
    /// Another control plane has it.
    By(String),
}

/// What came of a transaction on the lease.
enum Taken {
    Now(Lease),
    By(String),
    /// By what the folder knows.
    Refused(StateError),
}

/// The lease as it was found.
struct Found {
    registry: String,
    number: i64,
    holder: String,
    is_free: bool,
}

impl Claim {
    /// Tries nothing yet. `address` is where this control plane would serve.
    pub(crate) fn new(database: Postgresql, address: std::net::SocketAddr) -> Result<Self, StateError> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| unreachable(&database, &error))?;
        let holder = format!("{address} process {} {}", std::process::id(), hex::encode(&random));
        Ok(Self { database, holder })
    }

    /// How long to wait between two tries.
    pub(crate) fn pause(&self) -> Duration {
        (self.database.lease / 3).min(PAUSE)
    }

    /// Takes the registry if nobody has it. Must not be called on a runtime's own thread.
    pub(crate) fn take(&self, folder: &StateFolder) -> Result<Claimed, StateError> {
        let away = |error: StoreError| unreachable(&self.database, &error);
        let mut link = Link::open(&self.database).map_err(away)?;
        let taken = link.change(async |client: &mut Client| {
            make(client).await?;
            // One at a time, also for the file in a folder that several share.
            let transaction = client.transaction().await?;
            let found = find(&transaction).await?;
            let number = found.number.saturating_add(1);
            match mark(folder, &found, number) {
                Ok(()) if found.is_free => {}
                Ok(()) => return Ok(Taken::By(found.holder)),
                Err(refused) => return Ok(Taken::Refused(refused)),
            }
            let text = "UPDATE sidegate.lease SET number = $1, holder = $2,
                ends_at = clock_timestamp() + make_interval(secs => $3)";
            let life = self.database.lease;
            transaction.execute(text, &[&number, &self.holder, &life.as_secs_f64()]).await?;
            transaction.commit().await?;
            Ok(Taken::Now(Lease { number, life }))
        });
        match taken.map_err(away)? {
            Taken::Now(lease) => {
                Ok(Claimed::Now(Box::new(Postgres { link, lease: Some(lease), in_doubt: false })))
            }
            Taken::By(holder) => Ok(Claimed::By(holder)),
            Taken::Refused(refused) => Err(refused),
        }
    }
}

/// Refuses a folder that may not be used, and otherwise notes that the registry is about to be taken with it: before it is, so
/// that a crash in between leaves a folder that knows of one number too many, which admits it still.
fn mark(folder: &StateFolder, found: &Found, number: i64) -> Result<(), StateError> {
    Mark::read(folder)?.admits(found, folder)?;
    if found.is_free { Mark::write(folder, &found.registry, number) } else { Ok(()) }
}

impl Lease {
    /// Holds it for the length of the transaction and renews it; refuses if it has another number.
    pub(super) async fn check(&self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        let text = "UPDATE sidegate.lease SET ends_at = clock_timestamp() + make_interval(secs => $2)
            WHERE number = $1";
        match transaction.execute(text, &[&self.number, &self.life.as_secs_f64()]).await? {
            1 => Ok(()),
            _ => Err(StoreError::TakenOver),
        }
    }

    /// Nobody need wait for it to end.
    pub(super) async fn release(&self, client: &Client) -> Result<(), StoreError> {
        let text = "UPDATE sidegate.lease SET ends_at = clock_timestamp() WHERE number = $1";
        client.execute(text, &[&self.number]).await?;
        Ok(())
    }

    pub(super) fn life(&self) -> Duration {
        self.life
    }
}

/// What the state folder knows of the registry that it was used with.
enum Mark {
    /// It has never been used with one.
    None,
    /// The registry's name, and the newest number that was taken.
    Of(String, i64),
}

impl Mark {
    fn read(folder: &StateFolder) -> Result<Self, StateError> {
        let Some(text) = folder.read_secret(MARK)? else { return Ok(Self::None) };
        let parts = text.trim_end().split_once(' ');
        let mark =
            parts.and_then(|(registry, number)| Some(Self::Of(registry.to_owned(), number.parse().ok()?)));
        mark.ok_or_else(|| unusable(&folder.join(MARK), "is not the name of a registry and a number"))
    }

    fn write(folder: &StateFolder, registry: &str, number: i64) -> Result<(), StateError> {
        folder.replace_secret(MARK, &format!("{registry} {number}\n"))
    }

    /// Refuses a folder that missed something, and a registry that did.
    fn admits(&self, found: &Found, folder: &StateFolder) -> Result<(), StateError> {
        let path = folder.join(MARK);
        match self {
            Self::None if found.number == 0 => Ok(()),
            Self::None => Err(StateError::FolderBehind {
                path,
                reason: format!("is not there, and the registry has changed hands {} times", found.number),
            }),
            Self::Of(registry, _) if *registry != found.registry => Err(StateError::RegistryBroken {
                path,
                reason: format!("names registry {registry}, and the database holds {}", found.registry),
            }),
            Self::Of(_, number) if *number < found.number => Err(StateError::FolderBehind {
                path,
                reason: format!("knows of change of hands {number}, and the registry of {}", found.number),
            }),
            Self::Of(_, number) if *number > found.number.saturating_add(1) => {
                Err(StateError::RegistryBroken {
                    path,
                    reason: format!(
                        "knows of change of hands {number}, and the registry of {}: it is an older copy",
                        found.number
                    ),
                })
            }
            Self::Of(..) => Ok(()),
        }
    }
}

/// Whether there is a registry in the database.
pub(super) async fn is_made(client: &Client) -> Result<bool, StoreError> {
    let row = client.query_one("SELECT to_regclass('sidegate.lease') IS NOT NULL", &[]).await?;
    Ok(row.try_get(0)?)
}

/// Refuses a registry of another version.
pub(super) async fn check_form(client: &impl GenericClient) -> Result<(), StoreError> {
    let row = client.query_one("SELECT form FROM sidegate.lease", &[]).await?;
    match row.try_get::<_, i32>(0)? {
        FORM => Ok(()),
        other => Err(StoreError::Postgres(format!(
            "has a registry of the form {other}, and this program knows form {FORM}"
        ))),
    }
}

/// Makes the registry if there is none; of several that come at once, one does.
async fn make(client: &mut Client) -> Result<(), StoreError> {
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let is_made = transaction.query_one("SELECT to_regclass('sidegate.lease') IS NOT NULL", &[]).await?;
    if !is_made.try_get::<_, bool>(0)? {
        transaction.batch_execute(SCHEMA).await?;
    }
    check_form(&transaction).await?;
    Ok(transaction.commit().await?)
}

/// Nobody else takes the lease until the transaction has ended.
async fn find(transaction: &Transaction<'_>) -> Result<Found, StoreError> {
    let text =
        "SELECT registry::text, number, holder, ends_at <= clock_timestamp() FROM sidegate.lease FOR UPDATE";
    let row = transaction.query_one(text, &[]).await?;
    Ok(Found {
        registry: row.try_get(0)?,
        number: row.try_get(1)?,
        holder: row.try_get(2)?,
        is_free: row.try_get(3)?,
    })
}

fn unreachable(database: &Postgresql, error: &dyn std::fmt::Display) -> StateError {
    StateError::RegistryUnreachable { server: database.to_string(), reason: error.to_string() }
}

/// One that ended in order is not waited for any longer.
const PAUSE: Duration = Duration::from_secs(2);
/// In the state folder, 0600: `registry number`.
const MARK: &str = "registry.lease";
/// "sidegate" in ASCII.
const LOCK: i64 = 0x7369_6465_6761_7465;
const FORM: i32 = 1;
const SCHEMA: &str = "
CREATE SCHEMA IF NOT EXISTS sidegate;
CREATE TABLE sidegate.record (
    sequence bigint PRIMARY KEY,
    at_ms bigint NOT NULL,
    ends bigint NOT NULL,
    serial text,
    identity text,
    body text NOT NULL,
    hash bytea NOT NULL
);
CREATE UNIQUE INDEX record_serial ON sidegate.record (serial) WHERE serial IS NOT NULL;
CREATE INDEX record_identity ON sidegate.record (identity, sequence);
CREATE INDEX record_ends ON sidegate.record (ends);
CREATE TABLE sidegate.checkpoint (
    sequence bigint PRIMARY KEY,
    hash bytea NOT NULL,
    pruned boolean NOT NULL,
    signature bytea NOT NULL
);
CREATE TABLE sidegate.lease (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    form integer NOT NULL,
    registry uuid NOT NULL,
    number bigint NOT NULL,
    holder text NOT NULL,
    ends_at timestamptz NOT NULL
);
INSERT INTO sidegate.lease (form, registry, number, holder, ends_at)
VALUES (1, gen_random_uuid(), 0, '', clock_timestamp());
";
