//! A process of this host as the proof: the kernel said whose it is when it connected to the control plane's socket, and
//! `mesh.yaml` says of which one service that user's processes are. Nobody is entitled to more than that: not root, nor the
//! control plane's own user.

use std::time::Instant;

use super::{Attested, Counted, Refusal};
use crate::{
    config::{Config, LocalUser},
    rate::{Buckets, Rate},
    server::LocalProcess,
};

#[derive(Debug)]
pub(super) struct PeerCredentials {
    /// By user.
    uses: Buckets<u32>,
}

impl PeerCredentials {
    pub(super) fn new(rate: Rate) -> Self {
        Self { uses: Buckets::new(rate) }
    }

    pub(super) fn attest(
        &self,
        LocalProcess { uid, gid, .. }: LocalProcess,
        config: &Config,
        now: Instant,
    ) -> Result<Attested, Refusal> {
        // The configuration lists no process twice.
        let is_meant = |users: &[LocalUser]| users.iter().any(|user| user.covers(uid, gid));
        let mut services = config.services.iter();
        let service = services.find(|service| is_meant(&service.local_users)).ok_or(Refusal::UnknownUser)?;
        if !self.uses.take(uid, now) {
            return Err(Refusal::UserRate);
        }
        Ok(Attested {
            identity: service.identity.clone(),
            attestor: "unix",
            evidence: format!("uid {uid}, gid {gid}"),
            counted: Counted::No,
        })
    }
}
