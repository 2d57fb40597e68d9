//! Whether one rule matches whatever another matches. "Yes" is certain; "no" may only mean that it is not obvious.

use std::collections::{BTreeMap, BTreeSet};

use sidegate_identity::{SpiffeId, TrustDomain};

use super::{Surroundings, candidates::literal_prefix};
use crate::{
    Condition, Jwt,
    model::{AuthorizationPolicy, OneOf, Operation, Peer, PlaintextException, Rule},
    values::{HostPattern, IpBlock, Name, PathPattern},
};

/// Where policies hold.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    root_namespace: Option<&'a str>,
}

/// What a policy selects.
#[derive(Clone, Copy)]
pub(super) struct Reach<'p> {
    namespace: &'p Name,
    selector: Option<&'p BTreeMap<String, String>>,
}

/// A rule, prepared for many comparisons.
pub(super) struct Form<'r> {
    pub(super) peers: Option<Vec<Callers<'r>>>,
    pub(super) operations: Option<Vec<Asked<'r>>>,
    pub(super) jwt: Option<&'r Jwt>,
    when: Option<&'r Condition>,
    /// What it lets through is not known.
    has_rego: bool,
}

/// One source.
pub(super) struct Callers<'r> {
    pub(super) peer: &'r Peer,
    local: Option<&'r TrustDomain>,
    /// Everybody it can match, where that is a list: a superset if the trust domain is not known.
    pub(super) listed: Option<BTreeSet<SpiffeId>>,
}

/// One operation, with gRPC as the method and path that it stands for.
pub(super) struct Asked<'r> {
    pub(super) methods: Option<BTreeSet<&'r str>>,
    pub(super) paths: Option<Vec<PathPattern>>,
    pub(super) operation: &'r Operation,
}

impl<'a> Scope<'a> {
    pub(super) fn of(known: &Surroundings<'a>) -> Self {
        Self { root_namespace: known.root_namespace }
    }

    /// Whether `wide` selects every workload that `narrow` selects.
    pub(super) fn holds_wherever(self, wide: Reach<'_>, narrow: Reach<'_>) -> bool {
        let of_narrow = narrow.selector;
        let is_met = |(key, value): (&String, &String)| of_narrow.and_then(|it| it.get(key)) == Some(value);
        (wide.namespace == narrow.namespace || self.is_root(wide.namespace))
            && wide.selector.into_iter().flatten().all(is_met)
    }

    /// Whether a workload can be selected by both.
    pub(super) fn overlap(self, one: &AuthorizationPolicy, other: &AuthorizationPolicy) -> bool {
        let of_other = other.spec.selector.as_ref();
        let agrees = |(key, value): (&String, &String)| {
            of_other.and_then(|it| it.get(key)).is_none_or(|other| other == value)
        };
        let (own, others) = (&one.metadata.namespace, &other.metadata.namespace);
        (own == others || self.is_root(own) || self.is_root(others))
            && one.spec.selector.iter().flatten().all(agrees)
    }

    fn is_root(self, namespace: &Name) -> bool {
        self.root_namespace == Some(namespace.as_str())
    }
}

impl<'p> From<&'p AuthorizationPolicy> for Reach<'p> {
    fn from(policy: &'p AuthorizationPolicy) -> Self {
        Self { namespace: &policy.metadata.namespace, selector: policy.spec.selector.as_ref() }
    }
}

impl<'p> From<&'p PlaintextException> for Reach<'p> {
    fn from(policy: &'p PlaintextException) -> Self {
        Self { namespace: &policy.metadata.namespace, selector: policy.spec.selector.as_ref() }
    }
}

impl<'r> Form<'r> {
    pub(super) fn of(rule: &'r Rule, local: Option<&'r TrustDomain>) -> Self {
        let callers = |peer| Callers { peer, local, listed: listed(peer, local) };
        Self {
            peers: rule.from.as_ref().map(|peers| peers.iter().map(callers).collect()),
            operations: rule.to.as_ref().map(|to| to.iter().map(Asked::of).collect()),
            jwt: rule.jwt.as_ref(),
            when: rule.when.as_ref(),
            has_rego: rule.rego.is_some(),
        }
    }

    /// Everybody whom it names one by one, and `None` for those that it does not.
    pub(super) fn callers(&self) -> Vec<Option<&SpiffeId>> {
        let Some(peers) = &self.peers else { return vec![None] };
        let of_peer = |callers: &'_ Callers<'r>| callers.listed.is_none();
        let open = peers.iter().any(of_peer).then_some(None);
        peers.iter().flat_map(|callers| callers.listed.iter().flatten().map(Some)).chain(open).collect()
    }

    /// Its ports and the literal begins of its paths; `None` for any.
    pub(super) fn asked(&self) -> Vec<(Option<u16>, Option<String>)> {
        let Some(operations) = &self.operations else { return vec![(None, None)] };
        let mut asked = Vec::new();
        for operation in operations {
            let ports = operation.operation.ports.iter().flat_map(|ports| ports.iter().copied().map(Some));
            let any_port = operation.operation.ports.is_none().then_some(None);
            let paths: Vec<Option<String>> = match &operation.paths {
                None => vec![None],
                Some(paths) => paths.iter().map(|path| Some(literal_prefix(path))).collect(),
            };
            for port in ports.chain(any_port) {
                asked.extend(paths.iter().map(|path| (port, path.clone())));
            }
        }
        asked
    }

    pub(super) fn covers(&self, narrow: &Self) -> bool {
        let condition = self.when.is_none_or(|wide| narrow.when.is_some_and(|narrow| wide.asks_as(narrow)));
        let token = self.jwt.is_none_or(|wide| narrow.jwt.is_some_and(|narrow| wide.covers(narrow)));
        !self.has_rego
            && condition
            && token
            && each_within(self.operations.as_deref(), narrow.operations.as_deref(), Asked::covers)
            && each_within(self.peers.as_deref(), narrow.peers.as_deref(), Callers::covers)
    }
}

/// Whether each entry of `narrow` lies within one of `wide`. A list that is left out is everything.
fn each_within<T>(wide: Option<&[T]>, narrow: Option<&[T]>, covers: impl Fn(&T, &T) -> bool) -> bool {
    match (wide, narrow) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => {
            narrow.iter().all(|narrow| wide.iter().any(|wide| covers(wide, narrow)))
        }
    }
}

impl Callers<'_> {
    /// Whether it takes the identity, leaving addresses aside; `None` if that depends on the trust domain.
    pub(super) fn takes(&self, id: &SpiffeId) -> Option<bool> {
        takes(self.peer, id, self.local)
    }

    fn covers(&self, narrow: &Self) -> bool {
        self.takes_addresses_of(narrow) && self.takes_identities_of(narrow)
    }

    fn takes_addresses_of(&self, narrow: &Self) -> bool {
        let (wide, narrow) = (&self.peer.ip_blocks, &narrow.peer.ip_blocks);
        each_within(wide.as_deref(), narrow.as_deref(), IpBlock::covers)
    }

    fn takes_identities_of(&self, narrow: &Self) -> bool {
        if let Some(listed) = &narrow.listed {
            // A source that matches nobody lies within every other; to say so would mislead.
            return !listed.is_empty() && listed.iter().all(|id| self.takes(id) == Some(true));
        }
        self.peer.principals.is_none()
            && self.takes_accounts_of(narrow.peer)
            && self.takes_namespaces_of(narrow.peer)
            && self.takes_domains_of(narrow.peer)
    }

    fn takes_accounts_of(&self, narrow: &Peer) -> bool {
        within(self.peer.service_accounts.as_ref(), narrow.service_accounts.as_ref())
    }

    fn takes_namespaces_of(&self, narrow: &Peer) -> bool {
        let Some(namespaces) = &self.peer.namespaces else {
            return true;
        };
        let by_account = narrow.service_accounts.as_ref();
        within(Some(namespaces), narrow.namespaces.as_ref())
            || by_account.is_some_and(|list| list.iter().all(|it| namespaces.contains(&it.namespace)))
    }

    fn takes_domains_of(&self, narrow: &Peer) -> bool {
        match (&self.peer.trust_domains, &narrow.trust_domains) {
            (Some(wide), Some(narrow)) => narrow.iter().all(|it| wide.contains(it)),
            (Some(wide), None) => is_local(narrow) && self.local.is_some_and(|local| wide.contains(local)),
            (None, _) if !is_local(self.peer) => true,
            (None, Some(narrow)) => narrow.iter().all(|it| Some(it) == self.local),
            (None, None) => is_local(narrow),
        }
    }
}

fn within<T: PartialEq>(wide: Option<&OneOf<T>>, narrow: Option<&OneOf<T>>) -> bool {
    each_within(wide.map(|it| &**it), narrow.map(|it| &**it), T::eq)
}

/// Whether the conditions mean the workload's own trust domain where none is named.
fn is_local(peer: &Peer) -> bool {
    peer.service_accounts.is_some() || peer.namespaces.is_some()
}

/// Everybody whom the source can match, if it names them one by one.
fn listed(peer: &Peer, local: Option<&TrustDomain>) -> Option<BTreeSet<SpiffeId>> {
    let named: Vec<SpiffeId> = if let Some(principals) = &peer.principals {
        principals.to_vec()
    } else {
        let domains = peer.trust_domains.as_deref().or(local.map(std::slice::from_ref))?;
        let accounts = peer.service_accounts.as_ref()?;
        let pairs = domains.iter().flat_map(|domain| accounts.iter().map(move |it| (domain, it)));
        pairs
            .map(|(domain, it)| SpiffeId::for_workload(domain, it.namespace.as_str(), it.name.as_str()))
            .collect::<Result<_, _>>()
            .ok()?
    };
    let possible = |id: &SpiffeId| takes(peer, id, local) != Some(false);
    Some(named.into_iter().filter(possible).collect())
}

/// Whether the source takes the identity, leaving addresses aside; `None` if that depends on the trust domain.
fn takes(peer: &Peer, id: &SpiffeId, local: Option<&TrustDomain>) -> Option<bool> {
    let of_domain = match &peer.trust_domains {
        Some(domains) => Some(domains.iter().any(|it| it.as_str() == id.trust_domain())),
        None if is_local(peer) => local.map(|local| local.as_str() == id.trust_domain()),
        None => Some(true),
    };
    let (namespace, account) = (id.namespace(), id.service_account());
    let others = peer.principals.as_ref().is_none_or(|list| list.contains(id))
        && peer.service_accounts.as_ref().is_none_or(|list| {
            list.iter()
                .any(|it| Some(it.namespace.as_str()) == namespace && Some(it.name.as_str()) == account)
        })
        && peer.namespaces.as_ref().is_none_or(|list| list.iter().any(|it| Some(it.as_str()) == namespace));
    if others { of_domain } else { Some(false) }
}

impl<'r> Asked<'r> {
    fn of(operation: &'r Operation) -> Self {
        let methods = operation.methods.as_ref();
        let mut asked = Self {
            methods: methods.map(|list| list.iter().map(crate::Method::as_str).collect()),
            paths: operation.paths.as_deref().map(<[_]>::to_vec),
            operation,
        };
        if let Some(grpc) = &operation.grpc {
            asked.methods = Some(BTreeSet::from(["POST"]));
            asked.paths = Some(vec![PathPattern::of_grpc(&grpc.service, grpc.method.as_ref())]);
        }
        asked
    }

    /// Whether it is limited to methods that read (RFC 9110 §9.2.1).
    pub(super) fn only_reads(&self) -> bool {
        const SAFE: [&str; 4] = ["GET", "HEAD", "OPTIONS", "TRACE"];
        self.methods.as_ref().is_some_and(|methods| methods.iter().all(|method| SAFE.contains(method)))
    }

    pub(super) fn first_port(&self) -> Option<u16> {
        self.operation.ports.as_ref()?.first().copied()
    }

    fn covers(&self, narrow: &Self) -> bool {
        let methods = match (&self.methods, &narrow.methods) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(wide), Some(narrow)) => narrow.is_subset(wide),
        };
        let (hosts, of_narrow) = (&self.operation.hosts, &narrow.operation.hosts);
        let (names, names_of_narrow) = (&self.operation.sni, &narrow.operation.sni);
        methods
            && within(self.operation.ports.as_ref(), narrow.operation.ports.as_ref())
            && each_within(self.paths.as_deref(), narrow.paths.as_deref(), PathPattern::covers)
            && each_within(hosts.as_deref(), of_narrow.as_deref(), HostPattern::covers)
            && each_within(names.as_deref(), names_of_narrow.as_deref(), HostPattern::covers)
    }
}
