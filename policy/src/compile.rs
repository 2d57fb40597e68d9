//! Receives the policies that select one workload; hands on the form that judges its requests. Callers that a rule
//! names exactly are found by hash, so that a request pays for its own caller's rules and for those bound to nobody.
//!
//! Everything about an exact identity is decided here: what is left for the request is its address and its operation.

use std::sync::Arc;

use hashbrown::HashMap;
use sidegate_identity::{SpiffeId, TrustDomain};

use crate::{
    Sourced,
    model::{Action, Mode, Peer, Rule},
    values::{IpBlock, Name},
};

/// The policies of one workload, compiled. The default is no policy: everything is denied.
#[derive(Debug, Default)]
pub struct Policies {
    pub(crate) enforced: Stages,
    /// What would be in force if the shadow policies were enforced too; absent without shadow policies.
    pub(crate) trial: Option<Stages>,
    pub(crate) trust_domain: Box<str>,
}

/// The stages of a judgement, in their order.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    /// Whether any policy selects the workload.
    pub(crate) selected: bool,
    pub(crate) deny: RuleIndex,
    /// One per Require policy: each must be met by itself.
    pub(crate) require: Vec<Requirement>,
    pub(crate) allow: RuleIndex,
}

#[derive(Debug)]
pub(crate) struct Requirement {
    pub(crate) policy: Arc<str>,
    pub(crate) source: Arc<str>,
    pub(crate) rules: RuleIndex,
}

/// Rules of one stage, found by who calls.
#[derive(Debug, Default)]
pub(crate) struct RuleIndex {
    /// In the order of policy names, then of positions.
    pub(crate) rules: Vec<Arc<CompiledRule>>,
    /// By exact identity.
    exact: HashMap<SpiffeId, Vec<Candidate>>,
    /// Bound to no exact identity.
    open: Vec<Candidate>,
}

/// A rule that a caller may match. Both lists of an index are in the order of rules.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) rule: Arc<CompiledRule>,
    pub(crate) peer: PeerTest,
}

/// What is still to be asked of a peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerTest {
    pub(crate) trust_domains: Option<Arc<[TrustDomain]>>,
    pub(crate) namespaces: Option<Arc<[Name]>>,
    pub(crate) ip_blocks: Option<Arc<[IpBlock]>>,
}

/// A rule with the names under which it is reported.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    /// Its place in the index.
    pub(crate) order: usize,
    pub(crate) policy: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) source: Arc<str>,
    pub(crate) rule: Rule,
}

impl Policies {
    /// Compiles policies that all select the workload, given in the order of their names.
    pub(crate) fn compile<'p>(selected: impl Iterator<Item = &'p Sourced>, trust_domain: &str) -> Self {
        // A text that is no trust domain has no identities, so nothing local matches.
        let local = TrustDomain::parse(trust_domain).ok();
        let selected: Vec<&Sourced> = selected.collect();
        let is_enforced = |sourced: &&Sourced| sourced.policy().spec.mode == Mode::Enforce;
        let enforced = Stages::of(selected.iter().copied().filter(is_enforced), local.as_ref());
        let shadowed = !selected.iter().all(is_enforced);
        let trial = shadowed.then(|| Stages::of(selected.iter().copied(), local.as_ref()));
        Self {
            enforced,
            trial,
            trust_domain: trust_domain.into(),
        }
    }
}

impl Stages {
    fn of<'p>(policies: impl Iterator<Item = &'p Sourced>, local: Option<&TrustDomain>) -> Self {
        let mut stages = Self::default();
        for sourced in policies {
            stages.add(sourced, local);
        }
        stages
    }

    fn add(&mut self, sourced: &Sourced, local: Option<&TrustDomain>) {
        self.selected = true;
        match sourced.policy().spec.action {
            Action::Allow => self.allow.add(sourced, local),
            Action::Deny => self.deny.add(sourced, local),
            Action::Require => {
                let mut rules = RuleIndex::default();
                rules.add(sourced, local);
                let (policy, source) = (Arc::clone(sourced.name()), Arc::clone(sourced.source()));
                self.require.push(Requirement {
                    policy,
                    source,
                    rules,
                });
            }
        }
    }
}

impl RuleIndex {
    /// The rules that the caller may match, in their order.
    pub(crate) fn candidates(&self, caller: &SpiffeId) -> impl Iterator<Item = &Candidate> {
        Merged {
            exact: self.exact.get(caller).map_or(&[], Vec::as_slice),
            open: &self.open,
        }
    }

    fn add(&mut self, sourced: &Sourced, local: Option<&TrustDomain>) {
        for (rule, source) in sourced.rules() {
            let mut rule = rule.clone();
            if sourced.policy().spec.action == Action::Deny {
                // An end date only ever takes access away: what a Deny forbids stays forbidden until it is removed.
                rule.expires = None;
            }
            self.push(
                Arc::new(CompiledRule {
                    order: self.rules.len(),
                    policy: Arc::clone(sourced.name()),
                    name: rule.name.shared(),
                    source: Arc::clone(source),
                    rule,
                }),
                local,
            );
        }
    }

    fn push(&mut self, rule: Arc<CompiledRule>, local: Option<&TrustDomain>) {
        let candidate = |peer: PeerTest| Candidate {
            rule: Arc::clone(&rule),
            peer,
        };
        match &rule.rule.from {
            None => self.open.push(candidate(PeerTest::default())),
            Some(peers) => {
                for peer in peers.iter() {
                    let test = PeerTest::of(peer, local);
                    match exact_ids(peer, local) {
                        None => self.open.push(candidate(test)),
                        Some(ids) => {
                            for id in ids.into_iter().filter(|id| test.takes_identity(id)) {
                                self.exact
                                    .entry(id)
                                    .or_default()
                                    .push(candidate(test.without_identity()));
                            }
                        }
                    }
                }
            }
        }
        self.rules.push(rule);
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
        let namespaces = peer.namespaces.as_deref().map(Into::into);
        Self {
            trust_domains,
            namespaces,
            ip_blocks: peer.ip_blocks.as_deref().map(Into::into),
        }
    }

    pub(crate) fn takes_identity(&self, id: &SpiffeId) -> bool {
        let in_domain =
            |domains: &Arc<[TrustDomain]>| domains.iter().any(|domain| domain.as_str() == id.trust_domain());
        let in_namespace =
            |names: &Arc<[Name]>| names.iter().any(|name| id.namespace() == Some(name.as_str()));
        self.trust_domains.as_ref().is_none_or(in_domain) && self.namespaces.as_ref().is_none_or(in_namespace)
    }

    fn without_identity(&self) -> Self {
        Self {
            ip_blocks: self.ip_blocks.clone(),
            ..Self::default()
        }
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
        (Some(principals), Some(accounts)) => Some(
            accounts
                .into_iter()
                .filter(|id| principals.contains(id))
                .collect(),
        ),
    }
}

fn account_ids(peer: &Peer, local: Option<&TrustDomain>) -> Vec<SpiffeId> {
    let domains = peer
        .trust_domains
        .as_deref()
        .unwrap_or(local.map_or(&[], std::slice::from_ref));
    let accounts = peer.service_accounts.as_deref().unwrap_or_default();
    let ids = domains.iter().flat_map(|domain| {
        accounts
            .iter()
            .map(|account| SpiffeId::for_workload(domain, account.namespace.as_str(), account.name.as_str()))
    });
    // What is no valid ID is nobody's identity: there is nobody whom the rule could name.
    ids.filter_map(Result::ok).collect()
}

/// Two ordered lists as one.
struct Merged<'c> {
    exact: &'c [Candidate],
    open: &'c [Candidate],
}

impl<'c> Iterator for Merged<'c> {
    type Item = &'c Candidate;

    fn next(&mut self) -> Option<&'c Candidate> {
        let from_exact = match (self.exact.first(), self.open.first()) {
            (Some(exact), Some(open)) => exact.rule.order <= open.rule.order,
            (exact, _) => exact.is_some(),
        };
        let list = if from_exact {
            &mut self.exact
        } else {
            &mut self.open
        };
        let (first, rest) = list.split_first()?;
        *list = rest;
        Some(first)
    }
}
