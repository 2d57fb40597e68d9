//! Receives the sources that a rule is for; hands on the identities that they name one by one, and the test for all
//! that they describe otherwise. Everything about an exact identity is decided here: what is left for the request is
//! its address.

use std::{net::IpAddr, sync::Arc};

use sidegate_identity::{SpiffeId, TrustDomain};

use crate::{
    model::{Peer, Rule},
    values::{IpBlock, Name},
};

/// What is still to be asked of a peer. The default asks nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerTest {
    trust_domains: Option<Arc<[TrustDomain]>>,
    namespaces: Option<Arc<[Name]>>,
    ip_blocks: Option<Arc<[IpBlock]>>,
}

/// Whom a source is for.
#[derive(Debug)]
pub(super) struct Callers {
    /// `None`: everybody whom the test takes.
    pub(super) id: Option<SpiffeId>,
    /// `None`: nothing is left to ask.
    pub(super) test: Option<Arc<PeerTest>>,
}

impl Callers {
    /// Of every source of a rule.
    pub(super) fn of(rule: &Rule, local: Option<&TrustDomain>) -> Vec<Self> {
        match &rule.from {
            None => vec![Self { id: None, test: None }],
            Some(peers) => peers.iter().flat_map(|peer| Self::of_peer(peer, local)).collect(),
        }
    }

    fn of_peer(peer: &Peer, local: Option<&TrustDomain>) -> Vec<Self> {
        let test = PeerTest::of(peer, local);
        let Some(ids) = exact_ids(peer, local) else {
            return vec![Self { id: None, test: Some(Arc::new(test)) }];
        };
        let rest = test.without_identity();
        ids.into_iter()
            .filter(|id| test.takes_identity(id))
            .map(|id| Self { id: Some(id), test: rest.clone() })
            .collect()
    }
}

impl Peer {
    /// How many callers the index finds the source under, at most.
    pub(super) fn callers(&self) -> usize {
        let principals = self.principals.as_ref().map_or(0, |list| list.len());
        let accounts = self.service_accounts.as_ref().map_or(0, |list| list.len());
        let domains = self.trust_domains.as_ref().map_or(1, |list| list.len());
        principals.max(accounts.saturating_mul(domains)).max(1)
    }
}

impl PeerTest {
    fn of(peer: &Peer, local: Option<&TrustDomain>) -> Self {
        // A namespace is a name within a trust domain: without one given, the workload's own.
        let trust_domains = match (&peer.trust_domains, &peer.namespaces) {
            (Some(given), _) => Some(given.as_ref().into()),
            (None, Some(_)) => Some(local.cloned().into_iter().collect()),
            (None, None) => None,
        };
        Self {
            trust_domains,
            namespaces: peer.namespaces.as_deref().map(Into::into),
            ip_blocks: peer.ip_blocks.as_deref().map(Into::into),
        }
    }

    /// Whoever has no identity is nobody whom a test of identities takes.
    pub(crate) fn takes(&self, caller: Option<&SpiffeId>, ip: IpAddr) -> bool {
        let holds = |blocks: &Arc<[IpBlock]>| blocks.iter().any(|block| block.contains(ip));
        let is_any = self.trust_domains.is_none() && self.namespaces.is_none();
        self.ip_blocks.as_ref().is_none_or(holds)
            && caller.map_or(is_any, |caller| self.takes_identity(caller))
    }

    fn takes_identity(&self, id: &SpiffeId) -> bool {
        let in_domain =
            |domains: &Arc<[TrustDomain]>| domains.iter().any(|domain| domain.as_str() == id.trust_domain());
        let in_namespace =
            |names: &Arc<[Name]>| names.iter().any(|name| id.namespace() == Some(name.as_str()));
        self.trust_domains.as_ref().is_none_or(in_domain) && self.namespaces.as_ref().is_none_or(in_namespace)
    }

    /// What is left to ask of an identity that this test takes.
    fn without_identity(&self) -> Option<Arc<Self>> {
        let ip_blocks = self.ip_blocks.clone()?;
        Some(Arc::new(Self { ip_blocks: Some(ip_blocks), ..Self::default() }))
    }
}

/// The identities that a source names one by one; `None` if it describes them otherwise.
fn exact_ids(peer: &Peer, local: Option<&TrustDomain>) -> Option<Vec<SpiffeId>> {
    let principals = peer.principals.as_deref();
    let accounts = peer.service_accounts.is_some().then(|| account_ids(peer, local));
    match (principals, accounts) {
        (None, accounts) => accounts,
        (Some(principals), None) => Some(principals.to_vec()),
        // Both conditions must hold.
        (Some(principals), Some(accounts)) => {
            Some(accounts.into_iter().filter(|id| principals.contains(id)).collect())
        }
    }
}

fn account_ids(peer: &Peer, local: Option<&TrustDomain>) -> Vec<SpiffeId> {
    let domains = peer.trust_domains.as_deref().unwrap_or(local.map_or(&[], std::slice::from_ref));
    let accounts = peer.service_accounts.as_deref().unwrap_or_default();
    let ids = domains.iter().flat_map(|domain| {
        accounts
            .iter()
            .map(|account| SpiffeId::for_workload(domain, account.namespace.as_str(), account.name.as_str()))
    });
    // What is no valid ID is nobody's identity: there is nobody whom the rule could name.
    ids.filter_map(Result::ok).collect()
}
