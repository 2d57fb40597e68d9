//! The chain: each record's hash covers the one before it, its number, its moment and its text. Checking follows it from the
//! oldest record that is kept, and every signed checkpoint must lie on it.

use sha2::{Digest, Sha256};

use super::{
    Event,
    seal::Seal,
    store::{Head, Store, StoreError},
};

/// A record as it is stored. The columns that queries use repeat the text, and are checked against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) sequence: u64,
    /// When it was recorded, in milliseconds since the Unix epoch.
    pub(super) at_ms: u64,
    /// Unix seconds; after that it only waits for its retention to end.
    pub(super) ends: u64,
    pub(super) serial: Option<String>,
    pub(super) identity: Option<String>,
    /// The event as JSON.
    pub(super) body: String,
    pub(super) hash: [u8; 32],
}

/// A signature over the chain up to a record.
#[derive(Clone, Debug)]
pub(super) struct Checkpoint {
    pub(super) sequence: u64,
    pub(super) hash: [u8; 32],
    pub(super) kind: Kind,
    pub(super) signature: Vec<u8>,
}

/// What a checkpoint says besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: the records are there.
    Kept,
    /// The records up to it were removed, as their retention was over.
    Pruned,
}

/// Where the chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    last: u64,
    head: [u8; 32],
    /// The newest record that a checkpoint covers.
    sealed: u64,
}

/// The registry does not hold together. What is on disk was left as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChainError {
    #[error("record {sequence} {reason}")]
    Record { sequence: u64, reason: &'static str },
    #[error("the checkpoint at record {sequence} {reason}")]
    Checkpoint { sequence: u64, reason: &'static str },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Chain {
    /// Follows every record and every checkpoint of the store.
    pub(super) fn check(store: &dyn Store, seal: &Seal) -> Result<Self, ChainError> {
        let checkpoints = store.checkpoints()?;
        for checkpoint in &checkpoints {
            let sequence = checkpoint.sequence;
            if !seal.verifies(checkpoint) {
                return Err(ChainError::Checkpoint {
                    sequence,
                    reason: "has a signature that does not verify",
                });
            }
        }
        let mut chain = Self::base(&checkpoints);
        let mut waiting = checkpoints.iter().filter(|checkpoint| checkpoint.kind == Kind::Kept).peekable();
        store.each(&mut |row| {
            chain.follow(&row)?;
            if let Some(checkpoint) = waiting.next_if(|checkpoint| checkpoint.sequence == row.sequence) {
                if checkpoint.hash != row.hash {
                    let sequence = row.sequence;
                    return Err(ChainError::Checkpoint { sequence, reason: "is not of this record" });
                }
                chain.sealed = row.sequence;
            }
            Ok(())
        })?;
        match waiting.next() {
            None => Ok(chain),
            // Records were cut off at the end, or an older copy was put in place.
            Some(Checkpoint { sequence, .. }) => {
                Err(ChainError::Checkpoint { sequence: *sequence, reason: "covers records that are gone" })
            }
        }
    }

    /// The chain before the oldest record that is kept: the start, or the checkpoint that its pruning left.
    fn base(checkpoints: &[Checkpoint]) -> Self {
        let pruned = checkpoints.iter().find(|checkpoint| checkpoint.kind == Kind::Pruned);
        pruned.map_or(Self { last: 0, head: [0; 32], sealed: 0 }, |checkpoint| Self {
            last: checkpoint.sequence,
            head: checkpoint.hash,
            sealed: checkpoint.sequence,
        })
    }

    /// Takes the record that follows, if it does.
    pub(super) fn follow(&mut self, row: &Row) -> Result<(), ChainError> {
        let refuse = |reason| ChainError::Record { sequence: row.sequence, reason };
        if row.sequence != self.last + 1 {
            return Err(refuse("does not follow the one before it"));
        }
        let event: Event = serde_json::from_str(&row.body).map_err(|_| refuse("is not understood"))?;
        let expected = self.next(row.at_ms, &event, row.body.clone());
        if expected.hash != row.hash {
            return Err(refuse("was changed, or the one before it was"));
        }
        if expected != *row {
            return Err(refuse("is indexed as something that it is not"));
        }
        self.advance(row);
        Ok(())
    }

    /// The record that follows.
    pub(super) fn next(&self, at_ms: u64, event: &Event, body: String) -> Row {
        let sequence = self.last + 1;
        let mut digest = Sha256::new();
        digest.update(self.head);
        digest.update(sequence.to_be_bytes());
        digest.update(at_ms.to_be_bytes());
        digest.update(&body);
        Row {
            sequence,
            at_ms,
            ends: event.ends(at_ms),
            serial: event.serial().map(str::to_owned),
            identity: event.identity().map(str::to_owned),
            body,
            hash: digest.finalize().into(),
        }
    }

    /// The chain with one record more.
    pub(super) fn advance(&mut self, row: &Row) {
        self.last = row.sequence;
        self.head = row.hash;
    }

    /// A checkpoint covers everything.
    pub(super) fn seal(&mut self) {
        self.sealed = self.last;
    }

    /// The last record.
    pub(super) fn tail(&self) -> Head {
        (self.last, self.head)
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn head(&self) -> [u8; 32] {
        self.head
    }

    /// How many records no checkpoint covers.
    pub(super) fn unsealed(&self) -> u64 {
        self.last.saturating_sub(self.sealed)
    }
}
