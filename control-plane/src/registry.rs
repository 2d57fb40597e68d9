//! The registry: every certificate on disk before it is signed, and who was refused one. Records are chained by hashes, and
//! checkpoints over the chain are signed; what does not fit together is refused whole, and then nothing is issued.
//!
//! `Registry` is the one writer, [`Archive`] reads for the operator, also while the control plane is down.

mod archive;
mod chain;
mod import;
mod postgres;
mod seal;
mod sqlite;
mod store;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sidegate_codes::Code;

use tokio_util::sync::CancellationToken;

use self::{
    chain::{Chain, ChainError},
    seal::Seal,
    sqlite::Sqlite,
    store::{Store, StoreError},
    writer::Writer,
};
use crate::{
    clock,
    rotation::machine::MARGIN,
    state::{StateError, StateFolder, unusable},
};

pub use archive::{Archive, ArchiveError, Listed, Query, Verified};
pub use import::import;
pub(crate) use postgres::{Claim, Claimed, Postgres};

/// What is on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum Event {
    /// A certificate was issued, or was about to be when the process ended.
    Issued(Issuance),
    /// Somebody was refused a certificate.
    Refused(Refused),
    /// The rotation of the root took a step.
    Rotated(Rotated),
}

/// What is known of a certificate at the moment of its issuance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Issuance {
    /// Hex.
    pub serial: String,
    /// SPIFFE ID.
    pub identity: String,
    /// SHA-256 of the subject public key info, hex.
    pub key: String,
    /// How the caller was attested: "join-token", "svid" or "self".
    pub attestor: String,
    /// What shows it without giving it away: the first digits of the token's digest, or the presented serial.
    pub evidence: String,
    /// The caller's address.
    pub caller: String,
    /// Whether the join token was never used from that address before, though from another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_source: bool,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
    /// SHA-256 of the issuing certificate, hex.
    pub issuer: String,
}

/// A request that was answered by a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// The stable code.
    pub code: String,
    /// Why, as the metric says it.
    pub reason: String,
    /// SPIFFE ID, if the caller had proven one.
    pub identity: Option<String>,
    /// The caller's address.
    pub caller: String,
}

/// A step of the root's rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotated {
    /// The rotation's number.
    pub rotation: u64,
    /// The phase that began.
    pub phase: String,
    /// The fingerprint of the root that signs from now on.
    pub signing: String,
    /// The fingerprint of the root that comes or goes.
    pub other: Option<String>,
    /// Whether waiting has an end.
    pub urgent: bool,
    /// In the operator's words, or why it happened by itself.
    pub reason: String,
}

/// Where records go.
pub(crate) enum Place {
    /// Into a file of the state folder.
    Folder,
    /// Into a database that was taken.
    Database(Box<Postgres>),
}

/// The open registry.
pub(crate) struct Registry {
    writer: Writer,
}

/// How a registry was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The last record's number; 0 if there is none.
    pub(crate) last: u64,
    /// The certificates that somebody may take for valid, in their order.
    pub(crate) alive: Vec<Issuance>,
}

/// Nothing was recorded, so nothing may be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct RecordError {
    code: Code,
    reason: String,
}

impl Registry {
    /// Opens the registry of this folder, makes one where there has never been any, and checks the whole chain. With a
    /// database it must not be called on a runtime's own thread.
    pub(crate) fn open(
        state: &StateFolder,
        place: Place,
        retention: Duration,
    ) -> Result<(Self, Opened), StateError> {
        refuse_old_form(state)?;
        let (store, path) = match place {
            Place::Folder => in_folder(state)?,
            Place::Database(database) => in_database(state, database)?,
        };
        let seal = Seal::open(state)?;
        let chain = Chain::check(&*store, &seal).map_err(|error| match error {
            ChainError::Store(StoreError::Postgres(reason)) => unreachable(&path, reason),
            error => broken(&path, error.to_string()),
        })?;
        let since = (clock::now_ms() / 1000).saturating_sub(MARGIN.as_secs());
        let alive = alive(&*store, since).map_err(|reason| broken(&path, reason))?;
        let opened = Opened { last: chain.last(), alive };
        let writer = Writer::start(store, seal, chain, retention)
            .map_err(|error| unusable(&path, error.to_string()))?;
        Ok((Self { writer }, opened))
    }

    /// Whether the state folder has a registry.
    pub(crate) fn exists(state: &StateFolder) -> bool {
        [FILE, seal::FILE, OLD_FILE].iter().any(|name| state.join(name).exists())
    }

    /// Puts the record on disk, in one transaction with whatever else waits. Only after this returns may the certificate
    /// be signed. Waits for the disk: call it on a blocking thread.
    pub(crate) fn record(&self, event: Event) -> Result<(), RecordError> {
        self.writer.record(event)
    }

    /// Whether the registry is this control plane's now, as far as can be known without asking: a database that does not answer
    /// may have given it to another.
    pub(crate) fn is_held(&self) -> bool {
        self.writer.is_held()
    }

    /// Cancelled when another control plane has taken the registry over: from then on nothing can be recorded.
    pub(crate) fn taken_over(&self) -> CancellationToken {
        self.writer.taken_over()
    }
}

impl Event {
    /// When it stops to matter, in Unix seconds; `at_ms` is when it was recorded.
    fn ends(&self, at_ms: u64) -> u64 {
        match self {
            Self::Issued(issuance) => issuance.not_after,
            Self::Refused(_) | Self::Rotated(_) => at_ms / 1000,
        }
    }

    fn serial(&self) -> Option<&str> {
        match self {
            Self::Issued(issuance) => Some(&issuance.serial),
            Self::Refused(_) | Self::Rotated(_) => None,
        }
    }

    fn identity(&self) -> Option<&str> {
        match self {
            Self::Issued(issuance) => Some(&issuance.identity),
            Self::Refused(refused) => refused.identity.as_deref(),
            Self::Rotated(_) => None,
        }
    }
}

impl RecordError {
    /// The code that explains it.
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    fn new(reason: impl std::fmt::Display) -> Self {
        Self { code: Code::RegistryUnwritable, reason: reason.to_string() }
    }
}

impl From<StoreError> for RecordError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::TakenOver => Code::RegistryTakenOver,
            StoreError::Postgres(_) => Code::RegistryUnreachable,
            StoreError::Foreign | StoreError::Sqlite(_) => Code::RegistryUnwritable,
        };
        Self { code, reason: error.to_string() }
    }
}

fn in_folder(state: &StateFolder) -> Result<(Box<dyn Store>, PathBuf), StateError> {
    let path = state.join(FILE);
    let is_new = !path.exists();
    let sealed_before = state.join(seal::FILE).exists();
    if is_new && sealed_before {
        return Err(broken(&path, "is missing although this folder has issued before"));
    }
    // Made by us, so that it is private from the first moment and no link is followed.
    drop(state.open_journal(FILE)?);
    let store = Sqlite::open(&path).map_err(|error| broken(&path, error.to_string()))?;
    Ok((Box::new(store), path))
}

/// What was issued into the folder's own registry is in no database, and must not be forgotten while it is valid.
fn in_database(
    state: &StateFolder,
    database: Box<Postgres>,
) -> Result<(Box<dyn Store>, PathBuf), StateError> {
    let path = state.join(FILE);
    if path.exists() {
        let reason = "is a registry of its own, which the database does not have: `sidegate certs import` moves it there; or \
                      remove `registry` from mesh.yaml";
        return Err(unusable(&path, reason));
    }
    let name = database.to_string();
    Ok((database, name.into()))
}

fn unreachable(server: &Path, reason: String) -> StateError {
    StateError::RegistryUnreachable { server: server.display().to_string(), reason }
}

fn alive(store: &dyn Store, since: u64) -> Result<Vec<Issuance>, String> {
    let rows = store.alive(since).map_err(|error| error.to_string())?;
    let issued = rows.iter().map(|row| match serde_json::from_str(&row.body) {
        Ok(Event::Issued(issuance)) => Ok(issuance),
        _ => Err(format!("record {} is not understood", row.sequence)),
    });
    issued.collect()
}

/// Lines of JSON had no index, no bound and no signature. They stay readable as they are.
fn refuse_old_form(state: &StateFolder) -> Result<(), StateError> {
    let path = state.join(OLD_FILE);
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(unusable(
            &path,
            format!(
                "is the registry in the form of an older version; keep it elsewhere, then start again: mv {0} {0}.kept",
                path.display()
            ),
        )),
    }
}

fn broken(path: &Path, reason: impl Into<String>) -> StateError {
    StateError::RegistryBroken { path: path.to_owned(), reason: reason.into() }
}

/// The database in the state folder.
pub(crate) const FILE: &str = "registry.db";
const OLD_FILE: &str = "issued.jsonl";

#[cfg(test)]
mod tests;
