//! Policies compared with the services that are there.

use std::{collections::BTreeSet, sync::Arc};

use sidegate_identity::{SpiffeId, TrustDomain};

use super::{Entry, Finding, Lint, Surroundings};
use crate::{Document, PolicySet, Workload, model::Peer};

/// Policies that select no service.
pub(super) fn selecting_nothing(set: &PolicySet, known: &Surroundings<'_>) -> Vec<Finding> {
    let Some(services) = known.services else {
        return Vec::new();
    };
    let workloads = services.iter().map(|service| Workload {
        namespace: service.namespace,
        labels: service.labels,
        trust_domain: known.trust_domain.map_or("", TrustDomain::as_str),
        root_namespace: known.root_namespace,
    });
    let selecting: BTreeSet<&Arc<str>> = workloads
        .flat_map(|workload| set.documents_selecting(&workload).map(Document::name).collect::<Vec<_>>())
        .collect();
    let finding = |policy: &Document| Finding {
        lint: Lint::SelectsNothing,
        severity: Lint::SelectsNothing.severity(),
        policy: Arc::clone(policy.name()),
        rule: None,
        source: Arc::clone(policy.source()),
        related: None,
        why: match policy.selector() {
            Some(labels) => {
                let labels: Vec<String> =
                    labels.iter().map(|(key, value)| format!("{key}: {value}")).collect();
                format!("no service in its reach has the labels {{{}}}", labels.join(", "))
            }
            None => format!("no service is in namespace {}", policy.metadata().namespace),
        },
        fix: "correct the namespace or the labels, or delete the policy".to_owned(),
    };
    set.documents().filter(|policy| !selecting.contains(policy.name())).map(finding).collect()
}

/// Who is there, of the own trust domain.
pub(super) struct Residents<'a> {
    domain: &'a TrustDomain,
    identities: BTreeSet<&'a SpiffeId>,
    accounts: BTreeSet<(&'a str, &'a str)>,
    namespaces: BTreeSet<&'a str>,
}

impl<'a> Residents<'a> {
    /// `None` where that is not known.
    pub(super) fn of(known: &Surroundings<'a>) -> Option<Self> {
        let (services, domain) = (known.services?, known.trust_domain?);
        let identities = services.iter().map(|service| service.identity);
        Some(Self {
            domain,
            accounts: identities
                .clone()
                .filter_map(|id| Some((id.namespace()?, id.service_account()?)))
                .collect(),
            namespaces: identities.clone().filter_map(SpiffeId::namespace).collect(),
            identities: identities.collect(),
        })
    }

    /// What the source names and nobody is. Of other domains nothing is known.
    fn strangers(&self, peer: &Peer) -> Vec<String> {
        let principals = peer.principals.iter().flat_map(|list| list.iter());
        let mut strangers: Vec<String> = principals
            .filter(|id| id.trust_domain() == self.domain.as_str() && !self.identities.contains(id))
            .map(ToString::to_string)
            .collect();
        if peer.trust_domains.as_ref().is_some_and(|list| list.iter().any(|it| it != self.domain)) {
            return strangers;
        }
        let accounts = peer.service_accounts.iter().flat_map(|list| list.iter());
        let is_account =
            |it: &&crate::ServiceAccount| self.accounts.contains(&(it.namespace.as_str(), it.name.as_str()));
        let accounts = accounts.filter(|it| !is_account(it));
        strangers.extend(accounts.map(|account| format!("service account {account}")));
        let namespaces = peer.namespaces.iter().flat_map(|list| list.iter());
        let namespaces = namespaces.filter(|name| !self.namespaces.contains(name.as_str()));
        strangers.extend(namespaces.map(|name| format!("in namespace {name}")));
        strangers
    }
}

/// Accounts, namespaces and identities of the own trust domain that no service has.
pub(super) fn unknown_principal(entry: &Entry<'_>, residents: &Residents<'_>) -> Option<Finding> {
    let peers = entry.rule.from.as_ref()?;
    let mut unknown: Vec<String> = peers.iter().flat_map(|peer| residents.strangers(peer)).collect();
    unknown.sort();
    unknown.dedup();
    if unknown.is_empty() {
        return None;
    }
    let why = format!("no service of the mesh is {}", unknown.join(", "));
    Some(entry.finding(
        Lint::UnknownPrincipal,
        why,
        "correct the name, or delete it until there is such a service",
    ))
}
