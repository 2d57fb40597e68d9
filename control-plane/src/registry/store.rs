//! What a registry asks of where its records are: SQLite in the state folder, or PostgreSQL. What is written is on disk when a
//! call returns, or was not written as far as anybody may rely on it.

use std::time::Duration;

use super::chain::{ChainError, Checkpoint, Row};

/// The number and the hash of a record.
pub(super) type Head = (u64, [u8; 32]);

/// An open database.
pub(super) trait Store: Send {
    /// Everything in one transaction, or nothing. `head` is where the writer believes the chain to end: whoever else wrote has
    /// broken it.
    fn append(&mut self, head: Head, rows: &[Row]) -> Result<(), StoreError>;

    /// Records after `last` that this writer wrote without learning that they are on disk.
    fn unnoticed(&mut self, last: u64) -> Result<Vec<Row>, StoreError>;

    /// Adds a checkpoint.
    fn seal(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError>;

    /// Forgets the records up to a checkpoint, and older checkpoints with them.
    fn prune(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError>;

    /// How long the writer's place is kept after its last word; `None`: nobody waits for it.
    fn lease(&self) -> Option<Duration>;

    /// Says that the writer is there.
    fn keep(&mut self) -> Result<(), StoreError>;

    /// The writer has ended.
    fn release(&mut self);

    /// The last of the oldest records that all ended before this moment.
    fn ended_before(&self, moment: u64) -> Result<Option<Head>, StoreError>;

    /// In their order.
    fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError>;

    /// The number of the oldest record that is kept.
    fn first(&self) -> Result<Option<u64>, StoreError>;

    /// Hands over every record in its order, one at a time.
    fn each(&self, take: &mut dyn FnMut(Row) -> Result<(), ChainError>) -> Result<(), ChainError>;

    /// Certificates, the newest first: of this identity, and valid at this moment, if these are given. Not valid then is
    /// also what was recorded later.
    fn issued(&self, identity: Option<&str>, at: Option<u64>, limit: u32) -> Result<Vec<Row>, StoreError>;

    /// Certificates that end at this moment or later, in their order.
    fn alive(&self, since: u64) -> Result<Vec<Row>, StoreError>;

    /// Refusals, the newest first.
    fn refused(&self, identity: Option<&str>, limit: u32) -> Result<Vec<Row>, StoreError>;

    /// The certificate of this serial number.
    fn by_serial(&self, serial: &str) -> Result<Option<Row>, StoreError>;
}

/// Nothing was done, as far as is known.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("another program has written to the registry")]
    Foreign,
    #[error("another control plane has taken the registry over")]
    TakenOver,
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("{0}")]
    Postgres(String),
}
