//! Identities that are trusted no longer although their certificates are in order: a list goes in, and [`verify`]
//! refuses whom it names. It is a part of [`TrustBundles`], so whoever verifies obeys it.
//!
//! [`verify`]: crate::verify
//! [`TrustBundles`]: crate::TrustBundles

use std::collections::BTreeMap;

use crate::{SpiffeId, VerifiedSvid, serial};

/// The identities in quarantine, each with what of it is refused. The default refuses nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quarantine(BTreeMap<SpiffeId, Refused>);

/// Which certificates of an identity are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Every one.
    All,
    /// Those issued before this moment, in milliseconds since the Unix epoch: the identity has begun a new epoch.
    IssuedBefore(u64),
}

impl Quarantine {
    /// Whether every certificate of `id` is refused, so that none should be issued.
    pub fn excludes(&self, id: &SpiffeId) -> bool {
        self.0.get(id) == Some(&Refused::All)
    }

    /// Whether this certificate is refused. One that does not say when it was issued counts by its first second: an
    /// issuer dates it back if anything, so doubt refuses.
    pub fn refuses(&self, svid: &VerifiedSvid) -> bool {
        match self.0.get(svid.id()) {
            None => false,
            Some(Refused::All) => true,
            Some(Refused::IssuedBefore(epoch)) => issued_at_ms(svid) < *epoch,
        }
    }

    /// What is refused, in the order of the identities' names.
    pub fn iter(&self) -> impl Iterator<Item = (&SpiffeId, Refused)> {
        self.0.iter().map(|(id, refused)| (id, *refused))
    }
}

fn issued_at_ms(svid: &VerifiedSvid) -> u64 {
    // Its seconds must lie in the certificate's validity to be believed; then its milliseconds are too.
    let exact = svid.issued_at().and_then(|_| serial::issued_at_ms(svid.serial()));
    exact.unwrap_or_else(|| svid.not_before().as_secs().saturating_mul(1000))
}

impl FromIterator<(SpiffeId, Refused)> for Quarantine {
    /// Of two entries for one identity the stricter one stands.
    fn from_iter<I: IntoIterator<Item = (SpiffeId, Refused)>>(entries: I) -> Self {
        let mut quarantine = Self::default();
        for (id, refused) in entries {
            let entry = quarantine.0.entry(id).or_insert(refused);
            *entry = match (*entry, refused) {
                (Refused::IssuedBefore(one), Refused::IssuedBefore(other)) => {
                    Refused::IssuedBefore(one.max(other))
                }
                _ => Refused::All,
            };
        }
        quarantine
    }
}
