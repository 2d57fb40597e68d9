//! The registry as the operator reads it: who had a certificate when, and whether everything still holds together. It reads
//! the files alone, beside a running control plane or without one, and writes nothing.

use std::path::{Path, PathBuf};

use serde::Serialize;
use sidegate_codes::Code;

use super::{
    Event, FILE,
    chain::{Chain, ChainError, Row},
    postgres::Postgres,
    seal::{self, Seal},
    sqlite::Sqlite,
    store::{Store, StoreError},
};
use crate::{
    clock,
    config::{Config, Postgresql, RegistryPlace},
    state::{StateError, StateFolder},
};

/// An open registry, to be read.
pub struct Archive {
    store: Box<dyn Store>,
    state: StateFolder,
    path: PathBuf,
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Of this SPIFFE ID only.
    pub identity: Option<String>,
    /// Valid at this moment, in Unix seconds.
    pub at: Option<u64>,
    /// The newest so many.
    pub limit: u32,
}

/// A record with its place in the chain.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// Its number.
    pub record: u64,
    /// When it was recorded, RFC 3339.
    pub at: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// SHA-256 over this record and the chain before it, hex.
    pub hash: String,
}

/// A chain that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// The number of the oldest record that is kept; 0 if there is none.
    pub first: u64,
    /// The number of the newest.
    pub last: u64,
    /// The newest record's hash, hex.
    pub head: String,
    /// The newest record that a signed checkpoint covers.
    pub sealed: u64,
}

/// The registry cannot be read, or does not hold together.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The state folder or the seal.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is none yet.
    #[error("{}: is not there; the control plane makes it when it first starts", .0.display())]
    Missing(PathBuf),
    /// The database cannot be asked.
    #[error("{}: {reason}", path.display())]
    Unreachable {
        /// The database.
        path: PathBuf,
        /// What it or the network said.
        reason: String,
    },
    /// The database is damaged, or the chain does not hold.
    #[error("{}: {reason}", path.display())]
    Broken {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Archive {
    /// Opens the registry of the control plane with this configuration. Must not be called on a runtime's own thread.
    pub fn open(config: &Config) -> Result<Self, ArchiveError> {
        let state = StateFolder::open_to_read(&config.state)?;
        match &config.registry {
            RegistryPlace::StateFolder => Self::in_folder(state),
            RegistryPlace::Postgresql(database) => Self::in_database(state, database),
        }
    }

    fn in_database(state: StateFolder, database: &Postgresql) -> Result<Self, ArchiveError> {
        let path = PathBuf::from(database.to_string());
        match Postgres::open_to_read(database).map_err(|error| refused(&path, &error))? {
            Some(store) => Ok(Self { store: Box::new(store), state, path }),
            None => Err(ArchiveError::Missing(path)),
        }
    }

    fn in_folder(state: StateFolder) -> Result<Self, ArchiveError> {
        let path = state.join(FILE);
        if !path.exists() {
            return Err(if state.join(seal::FILE).exists() {
                ArchiveError::Broken {
                    path,
                    reason: "is missing although this folder has issued before".to_owned(),
                }
            } else {
                ArchiveError::Missing(path)
            });
        }
        let store = Sqlite::open_to_read(&path)
            .map_err(|error| ArchiveError::Broken { path: path.clone(), reason: error.to_string() })?;
        Ok(Self { store: Box::new(store), state, path })
    }

    /// Certificates, the newest first.
    pub fn issued(&self, query: &Query) -> Result<Vec<Listed>, ArchiveError> {
        let rows = self.store.issued(query.identity.as_deref(), query.at, query.limit);
        self.listed(rows)
    }

    /// Refusals, the newest first. They have no validity, so `at` does not count.
    pub fn refused(&self, query: &Query) -> Result<Vec<Listed>, ArchiveError> {
        self.listed(self.store.refused(query.identity.as_deref(), query.limit))
    }

    /// The certificate with this serial number, in hex.
    pub fn certificate(&self, serial: &str) -> Result<Option<Listed>, ArchiveError> {
        let row = self.store.by_serial(serial).map(|row| row.into_iter().collect());
        self.listed(row).map(|mut listed| listed.pop())
    }

    /// Follows the whole chain and checks every checkpoint.
    pub fn verify(&self) -> Result<Verified, ArchiveError> {
        let broken = |reason: String| ArchiveError::Broken { path: self.path.clone(), reason };
        let seal = Seal::read(&self.state)?.ok_or_else(|| broken(format!("{} is gone", seal::FILE)))?;
        let chain = Chain::check(&*self.store, &seal).map_err(|error| match error {
            ChainError::Store(error) => refused(&self.path, &error),
            error => broken(error.to_string()),
        })?;
        let first = self.store.first().map_err(|error| refused(&self.path, &error))?;
        Ok(Verified {
            first: first.unwrap_or(0),
            last: chain.last(),
            head: crate::hex::encode(&chain.head()),
            sealed: chain.last() - chain.unsealed(),
        })
    }

    fn listed(&self, rows: Result<Vec<Row>, StoreError>) -> Result<Vec<Listed>, ArchiveError> {
        let broken = |reason: String| ArchiveError::Broken { path: self.path.clone(), reason };
        let rows = rows.map_err(|error| refused(&self.path, &error))?;
        rows.into_iter()
            .map(|row| {
                let event = serde_json::from_str(&row.body)
                    .map_err(|_| broken(format!("record {} is not understood", row.sequence)))?;
                Ok(Listed {
                    record: row.sequence,
                    at: clock::rfc3339(row.at_ms),
                    event,
                    hash: crate::hex::encode(&row.hash),
                })
            })
            .collect()
    }
}

impl ArchiveError {
    /// The code that explains it.
    pub fn code(&self) -> Code {
        match self {
            Self::State(error) => error.code(),
            Self::Missing(_) => Code::StateUnusable,
            Self::Unreachable { .. } => Code::RegistryUnreachable,
            Self::Broken { .. } => Code::RegistryBroken,
        }
    }
}

fn refused(path: &Path, error: &StoreError) -> ArchiveError {
    let (path, reason) = (path.to_owned(), error.to_string());
    match error {
        StoreError::Postgres(_) => ArchiveError::Unreachable { path, reason },
        _ => ArchiveError::Broken { path, reason },
    }
}
