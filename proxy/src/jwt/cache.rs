//! Tokens that one worker has verified, by their SHA-256, so that a caller that sends one with each request pays for its
//! signature once. An entry is good for the very keys and audiences that it was checked with, and until the token ends.

use std::{cell::RefCell, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use hashbrown::HashMap;

use super::{Verified, keys::KeySet};

/// Verified tokens.
#[derive(Debug, Default)]
pub(crate) struct Cache(RefCell<HashMap<[u8; 32], Entry>>);

#[derive(Debug)]
struct Entry {
    verified: Arc<Verified>,
    keys: Arc<KeySet>,
    audiences: Vec<String>,
}

impl Cache {
    pub(super) fn find(
        &self,
        token: &[u8],
        keys: &Arc<KeySet>,
        audiences: &[String],
        now: u64,
    ) -> Option<Arc<Verified>> {
        let entries = self.0.borrow();
        let entry = entries.get(&hash(token)?)?;
        let is_good = Arc::ptr_eq(&entry.keys, keys)
            && entry.audiences == audiences
            && entry.verified.claims(now).is_some();
        is_good.then(|| Arc::clone(&entry.verified))
    }

    pub(super) fn keep(
        &self,
        token: &[u8],
        keys: &Arc<KeySet>,
        audiences: &[String],
        verified: Arc<Verified>,
        now: u64,
    ) {
        let Some(hash) = hash(token) else { return };
        let mut entries = self.0.borrow_mut();
        if entries.len() >= MOST_ENTRIES {
            entries.retain(|_, entry| entry.verified.claims(now).is_some());
        }
        if entries.len() >= MOST_ENTRIES {
            // Whoever has as many good tokens makes others pay for a signature again, and no more.
            entries.clear();
        }
        entries.insert(hash, Entry { verified, keys: Arc::clone(keys), audiences: audiences.to_vec() });
    }
}

fn hash(token: &[u8]) -> Option<[u8; 32]> {
    digest(&SHA256, token).as_ref().try_into().ok()
}

const MOST_ENTRIES: usize = 1024;
