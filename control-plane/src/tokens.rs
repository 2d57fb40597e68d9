//! Join tokens: with one a workload proves, once or a number of times, that it is one identity. A token is shown when it is
//! made and kept as its SHA-256 alone; it ends, is counted, can be replaced and taken back. One SQLite file in the state
//! folder, written by the operator's command and by the control plane, beside each other or one without the other.

mod store;

use std::{
    fmt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, TransactionBehavior};
use serde::Serialize;
use sha2::{Digest, Sha256};
use sidegate_codes::Code;
use sidegate_identity::SpiffeId;
use zeroize::Zeroizing;

use self::store::Row;
use crate::{
    clock,
    config::Config,
    database, hex,
    state::{StateError, StateFolder},
};

/// The open store.
pub struct Tokens {
    /// Held while the disk syncs, so only on threads that may wait.
    store: Mutex<Connection>,
    path: PathBuf,
}

/// A token in the clear: for the file it is delivered in and for nothing else.
pub struct Secret(Zeroizing<String>);

/// What a new token is good for.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The one identity that it proves.
    pub identity: SpiffeId,
    /// How long it can be used.
    pub life: Duration,
    /// How often; `None`: as often as is wanted.
    pub uses: Option<u32>,
}

/// A token as it is listed: everything but what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Its name: the first digits of its digest. The registry names it so too, as evidence.
    pub id: String,
    /// The one identity that it proves.
    pub identity: String,
    /// Whether it can be used.
    pub state: State,
    /// RFC 3339.
    pub created: String,
    /// RFC 3339.
    pub ends: String,
    /// How often it was used.
    pub used: u32,
    /// How often it may be used in all; `None`: as often as is wanted.
    pub uses: Option<u32>,
    /// When it was last used, RFC 3339.
    pub last_used: Option<String>,
    /// The addresses it was used from, the first one first.
    pub sources: Vec<String>,
    /// The token that takes its place.
    pub successor: Option<String>,
}

/// Whether a token can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It can.
    Valid,
    /// Its time is over.
    Expired,
    /// It was used as often as it may be.
    UsedUp,
    /// It was taken back, or its successor has a successor.
    Revoked,
}

/// A token that was found and can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Usable {
    pub(crate) id: String,
    pub(crate) identity: SpiffeId,
}

/// What a digest stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Unknown,
    /// A token that was good once.
    Ended(State, SpiffeId),
    Usable(Usable),
}

/// What became of a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Counted, from an address that is known of this token, or the first.
    Known,
    /// Counted, from an address that it was not used from before.
    NewSource,
    /// Not counted: it ended since it was found.
    Ended(State),
}

/// Nothing was done to the tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file: damaged, of another version, or the disk takes no writes.
    #[error("{}: {reason} ({code})", path.display(), code = Code::StateUnusable)]
    Store {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system gives no random numbers.
    #[error("the operating system gives no random numbers: {0}")]
    Random(String),
    /// No token has this name.
    #[error("there is no token {0}")]
    Unknown(String),
    /// It has ended, so there is nothing to replace or to take back.
    #[error("token {id} {state}")]
    Ended {
        /// Its name.
        id: String,
        /// How.
        state: State,
    },
    /// Replacing it again would leave three that are valid.
    #[error("token {id} is being replaced by {successor} already")]
    Replaced {
        /// Its name.
        id: String,
        /// The token that takes its place.
        successor: String,
    },
}

/// Why a transaction was not made.
enum Fault {
    Store(rusqlite::Error),
    Refused(TokensError),
}

impl Tokens {
    /// Opens the tokens of the mesh with this configuration, to change them; makes the state folder where there is none
    /// yet, so that tokens can be made before the control plane has ever run.
    pub fn open(config: &Config) -> Result<Self, TokensError> {
        Self::open_in(&StateFolder::open_beside(&config.state)?)
    }

    /// Every token of the mesh with this configuration, the newest first; none where none was ever made.
    pub fn list(config: &Config, now_ms: u64) -> Result<Vec<Token>, TokensError> {
        if config.state.join(FILE).exists() { Self::open(config)?.all(now_ms) } else { Ok(Vec::new()) }
    }

    /// The tokens in this folder.
    pub(crate) fn open_in(state: &StateFolder) -> Result<Self, TokensError> {
        let path = state.join(FILE);
        // Made by us, so that it is private from the first moment and no link is followed.
        drop(state.open_journal(FILE)?);
        match database::open(&path, store::VERSION, store::SCHEMA) {
            Ok(store) => Ok(Self { store: Mutex::new(store), path }),
            Err(error) => Err(TokensError::Store { path, reason: error.to_string() }),
        }
    }

    /// Adds a token. What ended long ago is forgotten.
    pub fn add(&self, secret: &Secret, terms: &Terms, now_ms: u64) -> Result<Token, TokensError> {
        let row = new_row(secret, (terms.identity.to_string(), millis(terms.life), terms.uses), now_ms);
        self.write(|transaction| {
            store::forget(transaction, now_ms.saturating_sub(millis(KEPT)))?;
            Ok(store::insert(transaction, &row)?)
        })?;
        Ok(listed(row, Vec::new(), now_ms))
    }

    /// Adds a token that takes the place of another, which stays valid for `overlap` at most. Whatever that one took the
    /// place of ends now: two are valid at a time.
    pub fn rotate(
        &self,
        id: &str,
        secret: &Secret,
        overlap: Duration,
        now_ms: u64,
    ) -> Result<Token, TokensError> {
        self.write(|transaction| {
            let old = valid(transaction, id, now_ms)?;
            if let Some(successor) = old.successor {
                return Err(TokensError::Replaced { id: id.to_owned(), successor }.into());
            }
            let row = new_row(secret, (old.identity, old.life_ms, old.uses), now_ms);
            let ends_ms = old.ends_ms.min(now_ms.saturating_add(millis(overlap)));
            store::insert(transaction, &row)?;
            store::replace(transaction, id, &row.id, ends_ms)?;
            store::revoke_replaced_by(transaction, id, now_ms)?;
            Ok(listed(row, Vec::new(), now_ms))
        })
    }

    /// Takes a token back. Certificates that were issued for it stay valid.
    pub fn revoke(&self, id: &str, now_ms: u64) -> Result<Token, TokensError> {
        self.write(|transaction| {
            let row = valid(transaction, id, now_ms)?;
            store::revoke(transaction, id, now_ms)?;
            let sources = store::sources(transaction, id)?;
            Ok(listed(Row { revoked_ms: Some(now_ms), ..row }, sources, now_ms))
        })
    }

    fn all(&self, now_ms: u64) -> Result<Vec<Token>, TokensError> {
        self.read(|connection| {
            let rows = store::all(connection)?;
            rows.into_iter()
                .map(|row| {
                    let sources = store::sources(connection, &row.id)?;
                    Ok(listed(row, sources, now_ms))
                })
                .collect()
        })
    }

    /// What this digest stands for now. A lookup by digest tells at most how many of its digits are somebody's, and nobody
    /// chooses the digest of a token with 256 random bits.
    pub(crate) fn find(&self, digest: &[u8; 32], now_ms: u64) -> Result<Found, TokensError> {
        let Some(row) = self.read(|connection| store::by_digest(connection, digest))? else {
            return Ok(Found::Unknown);
        };
        let identity = self.identity(&row)?;
        Ok(match row.state(now_ms) {
            State::Valid => Found::Usable(Usable { id: row.id, identity }),
            ended => Found::Ended(ended, identity),
        })
    }

    /// Counts a use, on disk when this returns. Looks again in the same transaction: of two that come at once with a token
    /// for one use, one has it.
    pub(crate) fn take(&self, id: &str, source: &str, now_ms: u64) -> Result<Taken, TokensError> {
        self.write(|transaction| {
            let state = store::by_id(transaction, id)?.map_or(State::Revoked, |row| row.state(now_ms));
            if state != State::Valid {
                return Ok(Taken::Ended(state));
            }
            let known = store::sources(transaction, id)?;
            store::count_use(transaction, id, now_ms)?;
            if known.iter().any(|known| known == source) {
                return Ok(Taken::Known);
            }
            if known.len() < MAX_SOURCES {
                store::add_source(transaction, id, source, now_ms)?;
            }
            Ok(if known.is_empty() { Taken::Known } else { Taken::NewSource })
        })
    }

    /// Gives a use back of which nothing came.
    pub(crate) fn give_back(&self, id: &str) -> Result<(), TokensError> {
        self.write(|transaction| Ok(store::uncount_use(transaction, id)?))
    }

    fn identity(&self, row: &Row) -> Result<SpiffeId, TokensError> {
        SpiffeId::parse(&row.identity).map_err(|error| TokensError::Store {
            path: self.path.clone(),
            reason: format!("token {}: {:?} {error}", row.id, row.identity),
        })
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, TokensError> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        work(&store).map_err(|error| self.failed(&error))
    }

    /// All of `work` on disk, or nothing of it.
    fn write<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, TokensError> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let worked = store.transaction_with_behavior(TransactionBehavior::Immediate).map_err(Fault::from);
        let worked = worked.and_then(|transaction| {
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        });
        worked.map_err(|fault| match fault {
            Fault::Store(error) => self.failed(&error),
            Fault::Refused(refusal) => refusal,
        })
    }

    fn failed(&self, error: &rusqlite::Error) -> TokensError {
        TokensError::Store { path: self.path.clone(), reason: error.to_string() }
    }
}

impl Secret {
    /// 256 random bits. The prefix is for those who look for secrets in places where none should be.
    pub fn generate() -> Result<Self, TokensError> {
        let mut random = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *random).map_err(|error| TokensError::Random(error.to_string()))?;
        Ok(Self(Zeroizing::new(format!("{PREFIX}{}", *Zeroizing::new(hex::encode(&*random))))))
    }

    /// What goes into the file.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TokensError {
    /// The code that explains it, where it is not only of what was typed.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::State(error) => Some(error.code()),
            Self::Store { .. } | Self::Random(_) => Some(Code::StateUnusable),
            Self::Unknown(_) | Self::Ended { .. } | Self::Replaced { .. } => None,
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error)
    }
}

impl From<TokensError> for Fault {
    fn from(refusal: TokensError) -> Self {
        Self::Refused(refusal)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "is valid",
            Self::Expired => "has expired",
            Self::UsedUp => "is used up",
            Self::Revoked => "was revoked",
        })
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("path", &self.path).finish_non_exhaustive()
    }
}

/// SHA-256 of what a caller presents.
pub(crate) fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// What a token is called: it can be written anywhere.
pub(crate) fn name(digest: &[u8; 32]) -> String {
    hex::encode(digest).chars().take(16).collect()
}

fn valid(connection: &Connection, id: &str, now_ms: u64) -> Result<Row, Fault> {
    let row = store::by_id(connection, id)?.ok_or_else(|| TokensError::Unknown(id.to_owned()))?;
    match row.state(now_ms) {
        State::Valid => Ok(row),
        state => Err(TokensError::Ended { id: id.to_owned(), state }.into()),
    }
}

fn new_row(secret: &Secret, (identity, life_ms, uses): (String, u64, Option<u32>), now_ms: u64) -> Row {
    let digest = digest(secret.as_str());
    Row {
        id: name(&digest),
        digest,
        identity,
        created_ms: now_ms,
        life_ms,
        ends_ms: now_ms.saturating_add(life_ms),
        uses,
        used: 0,
        last_used_ms: None,
        revoked_ms: None,
        successor: None,
    }
}

fn listed(row: Row, sources: Vec<String>, now_ms: u64) -> Token {
    Token {
        state: row.state(now_ms),
        id: row.id,
        identity: row.identity,
        created: clock::rfc3339(row.created_ms),
        ends: clock::rfc3339(row.ends_ms),
        used: row.used,
        uses: row.uses,
        last_used: row.last_used_ms.map(clock::rfc3339),
        sources,
        successor: row.successor,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The database in the state folder.
const FILE: &str = "tokens.db";
/// How every token begins.
pub const PREFIX: &str = "sidegate-join-";
/// How long a token is listed after its end.
const KEPT: Duration = Duration::from_hours(24 * 30);
/// Addresses remembered of one token; each beyond is a new one every time.
const MAX_SOURCES: usize = 256;

#[cfg(test)]
mod tests;
