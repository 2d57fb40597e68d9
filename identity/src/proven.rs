//! Paths that were validated before. A mesh sees the same few certificates in every handshake, and the signatures of a path
//! are most of what a certificate costs. Takes the digest of a whole chain and of what the peer is; hands on whether just that
//! chain led to this bundle, for as long as that must still be so. Everything else of a certificate is looked at each time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::Usage;

/// Paths that led to the authorities of one bundle, which never change. Its copies share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proven(Arc<Mutex<HashMap<Path, Period>>>);

/// SHA-256 of a chain and of its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Path([u8; 32]);

/// From the moment of the validation to the first end of a certificate that signs, both included. A clock that was set
/// back is before it.
#[derive(Clone, Copy, Debug)]
struct Period {
    from: UnixTime,
    until: UnixTime,
}

impl Path {
    /// Each certificate with its length in front, so that no two chains are one.
    pub(crate) fn of(chain: &[CertificateDer<'_>], usage: Usage) -> Option<Self> {
        let mut digest = Context::new(&SHA256);
        digest.update(&[match usage {
            Usage::Client => 0,
            Usage::Server => 1,
        }]);
        for certificate in chain {
            digest.update(&certificate.len().to_be_bytes());
            digest.update(certificate);
        }
        digest.finish().as_ref().try_into().ok().map(Self)
    }
}

impl Proven {
    /// Whether `path` was validated, and is so at `now`.
    pub(crate) fn holds(&self, path: &Path, now: UnixTime) -> bool {
        let paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        paths.get(path).is_some_and(|period| period.contains(now))
    }

    /// Remembers a path that was validated at `now` and whose signers are valid until `until`.
    pub(crate) fn remember(&self, path: Path, now: UnixTime, until: UnixTime) {
        let mut paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if paths.len() >= MOST {
            paths.retain(|_, period| period.contains(now));
        }
        // Whoever has as many living certificates has them validated anew.
        if paths.len() >= MOST {
            paths.clear();
        }
        paths.insert(path, Period { from: now, until });
    }
}

impl Period {
    fn contains(self, now: UnixTime) -> bool {
        self.from <= now && now <= self.until
    }
}

/// 48 bytes each.
const MOST: usize = 4096;
