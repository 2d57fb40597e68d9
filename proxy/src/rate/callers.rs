//! A bucket for each caller, by its verified identity, and one for all that have none. There is place for so many. When it
//! is all taken, the buckets go that are full, which loses nothing; if none is, a new caller is refused. To let it pass would
//! make a limit that ends where many callers begin, and to put out another's bucket would fill that one up again.

use std::sync::{Mutex, PoisonError};

use hashbrown::HashMap;
use sidegate_identity::SpiffeId;

use super::{
    NoToken,
    bucket::{Bucket, Pace},
};

/// The buckets of one limit's callers.
#[derive(Debug)]
pub(super) struct Callers {
    most: usize,
    /// Of those without an identity: addresses are cheaper than identities.
    nobody: Bucket,
    /// Held for a look-up and a few steps; at worst for a look at each bucket, once in [`BETWEEN_SWEEPS`].
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    buckets: HashMap<SpiffeId, Bucket>,
    /// When full buckets were looked for last.
    swept: Option<u64>,
}

impl Callers {
    /// None yet, and `most` at most.
    pub(super) fn new(most: usize) -> Self {
        Self { most, nobody: Bucket::default(), table: Mutex::default() }
    }

    /// Takes a token of `caller`'s.
    pub(super) fn take(&self, caller: Option<&SpiffeId>, pace: Pace, now: u64) -> Result<(), NoToken> {
        let Some(caller) = caller else {
            return self.nobody.take(pace, now).map_err(NoToken::Until);
        };
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = table.buckets.get(caller) {
            return bucket.take(pace, now).map_err(NoToken::Until);
        }
        if table.buckets.len() >= self.most {
            table.sweep(now);
        }
        if table.buckets.len() >= self.most {
            return Err(NoToken::NoPlace);
        }
        let bucket = Bucket::default();
        let taken = bucket.take(pace, now).map_err(NoToken::Until);
        table.buckets.insert(caller.clone(), bucket);
        taken
    }

    /// Puts a token of `caller`'s back that was taken for nothing.
    pub(super) fn give_back(&self, caller: Option<&SpiffeId>, pace: Pace) {
        let Some(caller) = caller else { return self.nobody.give_back(pace) };
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = table.buckets.get(caller) {
            bucket.give_back(pace);
        }
    }
}

impl Table {
    fn sweep(&mut self, now: u64) {
        if self.swept.is_some_and(|swept| now.saturating_sub(swept) < BETWEEN_SWEEPS) {
            return;
        }
        self.swept = Some(now);
        self.buckets.retain(|_, bucket| !bucket.is_full(now));
    }
}

/// 10 ms, in nanoseconds.
const BETWEEN_SWEEPS: u64 = 10_000_000;
