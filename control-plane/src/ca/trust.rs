//! Which roots are trusted and which one signs, as one value: what is distributed, what callers are verified with, and the
//! public copies for sidecars that start.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use sidegate_identity::{BundleError, TrustBundle, TrustBundles, TrustDomain};
use sidegate_proto::v1::Resource;

use super::root::Root;
use crate::{
    resource,
    state::{StateError, StateFolder, unusable},
};

/// The roots that are in force at one moment.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    pub(crate) bundles: Arc<TrustBundles>,
    /// The mesh's own bundle as it is distributed. Its version is the same for the same roots.
    pub(crate) resource: Arc<Resource>,
    /// The fingerprint of the root that signs.
    pub(crate) signing: String,
    /// Grows with each step of a rotation: of two states of the bundle the later one has the greater number.
    pub(crate) sequence: u64,
    /// A root may be known to others: certificates are renewed at once.
    pub(crate) is_urgent: bool,
    pem: String,
}

impl Trust {
    pub(super) fn of(
        trust_domain: &TrustDomain,
        signing: &Root,
        also: Option<&Root>,
        (is_urgent, sequence): (bool, u64),
    ) -> Result<Self, BundleError> {
        let mut roots: Vec<_> = [Some(signing), also].into_iter().flatten().collect();
        // One order for one set, whichever of them signs: a change of that alone is nothing to distribute.
        roots.sort_by(|a, b| a.fingerprint().cmp(b.fingerprint()));
        let certificates = roots.iter().map(|root| root.certificate().clone());
        let bundle = TrustBundle::from_der(trust_domain.clone(), certificates)?;
        Ok(Self {
            resource: Arc::new(resource::bundle(&bundle)),
            bundles: Arc::new(TrustBundles::from_iter([bundle])),
            signing: signing.fingerprint().to_owned(),
            is_urgent,
            sequence,
            pem: roots.iter().map(|root| root.public_pem()).collect(),
        })
    }

    /// Writes `root.pem`, and the copy, if one is wanted, whole and in one step each.
    pub(super) fn publish(&self, state: &StateFolder, copy: Option<&Path>) -> Result<(), StateError> {
        replace(&state.join(PUBLIC_FILE), &self.pem)?;
        copy.map_or(Ok(()), |copy| replace(copy, &self.pem))
    }
}

fn replace(path: &Path, text: &str) -> Result<(), StateError> {
    let aside = path.with_extension("partial");
    let written = fs::write(&aside, text)
        .and_then(|()| fs::set_permissions(&aside, fs::Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(&aside, path));
    written.map_err(|error| unusable(path, format!("cannot be written: {error}")))
}

/// The roots' certificates, for the sidecars' bootstrap.
pub(crate) const PUBLIC_FILE: &str = "root.pem";
