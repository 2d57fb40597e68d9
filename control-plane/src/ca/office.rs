//! What changes together: which root signs, how far the rotation is, and which certificates are alive. Whoever chooses the
//! root for a certificate puts it on the roll under the same lock, so no step of a rotation overlooks one.

use std::{sync::Arc, time::Duration};

use sha2::{Digest, Sha256};
use sidegate_identity::TrustDomain;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    root::{Expired, Root},
    trust::{self, Trust},
};
use crate::{
    clock, hex,
    registry::{Event, Registry, Rotated},
    rotation::{
        machine::{self, State},
        roll::Roll,
        store::{self, Store},
    },
    server::Peer,
    state::{StateError, StateFolder, unusable},
};

/// The rotation with its roots.
pub(super) struct Office {
    pub(super) state: State,
    pub(super) signing: Arc<Root>,
    pub(super) other: Option<Arc<Root>>,
    pub(super) roll: Roll,
    pub(super) store: Store,
}

impl Office {
    /// Takes up where the last process stopped. Makes a root only in a folder that has never had any.
    pub(super) fn open(
        folder: &StateFolder,
        trust_domain: &TrustDomain,
        root_life: Duration,
    ) -> Result<Self, StateError> {
        let is_used = Registry::exists(folder) || folder.join(trust::PUBLIC_FILE).exists();
        let is_kept = folder.join(store::FILE).exists();
        let mut store = Store::open(folder)?;
        let broken = |error: rusqlite::Error| unusable(&folder.join(store::FILE), error.to_string());
        let state = match store.state().map_err(broken)? {
            Some(state) => state,
            None if is_used && !is_kept && has_rotated(folder)? => {
                let reason = "is missing although this folder has rotated its root; restore it from a backup";
                return Err(unusable(&folder.join(store::FILE), reason));
            }
            None => {
                let root = first_root(folder, trust_domain, root_life, is_used)?;
                let file = if root.is_offline() { FIRST_INTERMEDIATE } else { FIRST_FILE };
                let name =
                    machine::Root { fingerprint: root.fingerprint().to_owned(), file: file.to_owned() };
                let state = State::steady(name);
                let step = step(&state, "the first root");
                store.commit(None, &state, &step, clock::now_ms()).map_err(broken)?;
                state
            }
        };
        forget_unused(folder, &state)?;
        let signing = expected(folder, trust_domain, &state.signing, Expired::Refused)?;
        let other = match &state.phase {
            // Its key may be deleted already.
            machine::Phase::Steady | machine::Phase::Destroy { .. } => None,
            _ => {
                state.other().map(|root| expected(folder, trust_domain, root, Expired::Loaded)).transpose()?
            }
        };
        Ok(Self { state, signing, other, roll: Roll::default(), store })
    }

    /// Whether the caller's certificate is on the roll, with its identity and its key.
    pub(super) fn has_on_record(&self, peer: &Peer) -> bool {
        let (Some(svid), Some(leaf)) = (&peer.svid, peer.chain.first()) else { return false };
        let Ok((_, leaf)) = X509Certificate::from_der(leaf) else { return false };
        let key = hex::encode(&Sha256::digest(leaf.public_key().raw));
        let standing = self.roll.get(&hex::encode(svid.serial()));
        standing.is_some_and(|standing| standing.key == key && standing.identity == svid.id().as_str())
    }

    /// What is in force by the state.
    pub(super) fn trust(&self, trust_domain: &TrustDomain) -> Result<Trust, StateError> {
        let also = self.state.also_trusted().and(self.other.as_deref());
        let sequence =
            self.store.last_step().map_err(|error| unusable(store::FILE.as_ref(), error.to_string()))?;
        Trust::of(trust_domain, &self.signing, also, (self.state.urgent, sequence))
            .map_err(|error| unusable(trust::PUBLIC_FILE.as_ref(), error.to_string()))
    }

    /// Goes to the next state: on disk first.
    pub(super) fn enter(
        &mut self,
        state: State,
        other: Option<Arc<Root>>,
        reason: &str,
    ) -> rusqlite::Result<()> {
        let at_ms = state.since_ms.max(clock::now_ms());
        self.store.commit(Some(&self.state), &state, &step(&state, reason), at_ms)?;
        let signs = |root: &Arc<Root>| root.fingerprint() == state.signing.fingerprint;
        if let Some(other) = other.filter(|other| !signs(other)) {
            self.other = Some(other);
        } else if !signs(&self.signing)
            && let Some(next) = self.other.take()
        {
            self.other = Some(std::mem::replace(&mut self.signing, next));
        }
        if state.other().is_none() {
            self.other = None;
        }
        self.state = state;
        Ok(())
    }

    /// Another intermediate signs from now on, under the root that is trusted already: on disk first.
    pub(super) fn replace_signing(
        &mut self,
        state: State,
        signing: Arc<Root>,
        reason: &str,
    ) -> rusqlite::Result<()> {
        self.enter(state, None, reason)?;
        self.signing = signing;
        Ok(())
    }

    /// Puts the steps into the registry that are not there yet.
    pub(super) fn record(&self, registry: &Registry) -> Result<(), String> {
        for (sequence, step) in self.store.unrecorded().map_err(|error| error.to_string())? {
            registry.record(Event::Rotated(step)).map_err(|error| error.to_string())?;
            self.store.recorded(sequence).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

fn step(state: &State, reason: &str) -> Rotated {
    Rotated {
        rotation: state.number,
        phase: state.phase.name().to_owned(),
        signing: state.signing.fingerprint.clone(),
        other: state.other().map(|root| root.fingerprint.clone()),
        urgent: state.urgent,
        reason: reason.to_owned(),
    }
}

/// The root of a folder without a rotation.
fn first_root(
    folder: &StateFolder,
    trust_domain: &TrustDomain,
    life: Duration,
    is_used: bool,
) -> Result<Root, StateError> {
    if let Some(root) = Root::load(folder, FIRST_FILE, trust_domain, Expired::Refused)? {
        return Ok(root);
    }
    if let Some(root) = Root::load(folder, FIRST_INTERMEDIATE, trust_domain, Expired::Refused)? {
        return Ok(root);
    }
    if is_used {
        return Err(gone(folder, FIRST_FILE));
    }
    Root::create(folder, FIRST_FILE, trust_domain, life)
}

/// The root that the state names, and no other.
fn expected(
    folder: &StateFolder,
    trust_domain: &TrustDomain,
    named: &machine::Root,
    expired: Expired,
) -> Result<Arc<Root>, StateError> {
    let root =
        Root::load(folder, &named.file, trust_domain, expired)?.ok_or_else(|| gone(folder, &named.file))?;
    if root.fingerprint() != named.fingerprint {
        let reason = format!("is not the root {} that {} names", named.fingerprint, store::FILE);
        return Err(unusable(&folder.join(&named.file), reason));
    }
    Ok(Arc::new(root))
}

fn gone(folder: &StateFolder, file: &str) -> StateError {
    let reason = "is missing although this folder has issued before; no new root is made over an old one";
    unusable(&folder.join(file), reason)
}

/// Whether a file is there that only a rotation makes.
fn has_rotated(folder: &StateFolder) -> Result<bool, StateError> {
    Ok(folder.names()?.iter().any(|name| is_root_file(name)))
}

/// The file of a root that a rotation makes: by its fingerprint's beginning would be known too late, so by chance.
pub(super) fn root_file(random: [u8; 8]) -> String {
    format!("{ROOT_PREFIX}{}{ROOT_SUFFIX}", hex::encode(&random))
}

fn is_root_file(name: &str) -> bool {
    (name.starts_with(ROOT_PREFIX) || name.starts_with(INTERMEDIATE_PREFIX)) && name.ends_with(ROOT_SUFFIX)
}

/// The file of an intermediate that takes the place of another signer.
pub(super) fn intermediate_file(random: [u8; 8]) -> String {
    format!("{INTERMEDIATE_PREFIX}{}{ROOT_SUFFIX}", hex::encode(&random))
}

/// Whether it is such a name, and leads nowhere else.
pub(super) fn is_intermediate_file(name: &str) -> bool {
    let hex = name.strip_prefix(INTERMEDIATE_PREFIX).and_then(|name| name.strip_suffix(ROOT_SUFFIX));
    hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Keys of intermediates that were replaced, or never came into use: a crash left them.
fn forget_unused(folder: &StateFolder, state: &State) -> Result<(), StateError> {
    let used = [Some(&state.signing), state.other()];
    let is_used = |name: &String| used.into_iter().flatten().any(|root| root.file == *name);
    let is_ours = |name: &String| name == FIRST_INTERMEDIATE || is_intermediate_file(name);
    for name in folder.names()?.iter().filter(|name| is_ours(name) && !is_used(name)) {
        folder.remove(name)?;
    }
    Ok(())
}

/// The first root's key and certificate: 0600.
pub(crate) const FIRST_FILE: &str = "root.key";
/// The same of a mesh that begins under an offline root.
pub(crate) const FIRST_INTERMEDIATE: &str = "intermediate.key";
const INTERMEDIATE_PREFIX: &str = "intermediate-";
const ROOT_PREFIX: &str = "root-";
const ROOT_SUFFIX: &str = ".key";
