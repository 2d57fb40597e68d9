//! Policies compared with the services that are there.

use std::{collections::BTreeSet, sync::Arc};

use sidegate_identity::TrustDomain;

use super::{Entry, Finding, Lint, Service, Surroundings};
use crate::{PolicySet, Workload, model::Peer};

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
        .flat_map(|workload| set.selecting(&workload).map(crate::Sourced::name).collect::<Vec<_>>())
        .collect();
    let finding = |sourced: &crate::Sourced| Finding {
        lint: Lint::SelectsNothing,
        severity: Lint::SelectsNothing.severity(),
        policy: Arc::clone(sourced.name()),
        rule: None,
        source: Arc::clone(sourced.source()),
        related: None,
        why: match &sourced.policy().spec.selector {
            Some(labels) => {
                let labels: Vec<String> =
                    labels.iter().map(|(key, value)| format!("{key}: {value}")).collect();
                format!("no service in its reach has the labels {{{}}}", labels.join(", "))
            }
            None => format!("no service is in namespace {}", sourced.policy().metadata.namespace),
        },
        fix: "correct the namespace or the labels, or delete the policy".to_owned(),
    };
    set.iter().filter(|sourced| !selecting.contains(sourced.name())).map(finding).collect()
}

/// Accounts, namespaces and identities of the own trust domain that no service has. Of other domains nothing is known.
pub(super) fn unknown_principal(entry: &Entry<'_>, known: &Surroundings<'_>) -> Option<Finding> {
    let (services, domain) = (known.services?, known.trust_domain?);
    let peers = entry.rule.from.as_ref()?;
    let mut unknown: Vec<String> = peers.iter().flat_map(|peer| strangers(peer, services, domain)).collect();
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

fn strangers(peer: &Peer, services: &[Service<'_>], domain: &TrustDomain) -> Vec<String> {
    let is_there = |holds: &dyn Fn(&Service<'_>) -> bool| services.iter().any(holds);
    let principals = peer.principals.iter().flat_map(|list| list.iter());
    let mut strangers: Vec<String> = principals
        .filter(|id| id.trust_domain() == domain.as_str() && !is_there(&|it| it.identity == *id))
        .map(ToString::to_string)
        .collect();
    if peer.trust_domains.as_ref().is_some_and(|list| list.iter().any(|it| it != domain)) {
        return strangers;
    }
    let accounts = peer.service_accounts.iter().flat_map(|list| list.iter());
    let is_account = |account: &crate::ServiceAccount, it: &Service<'_>| {
        it.identity.namespace() == Some(account.namespace.as_str())
            && it.identity.service_account() == Some(account.name.as_str())
    };
    strangers.extend(
        accounts
            .filter(|account| !is_there(&|it| is_account(account, it)))
            .map(|account| format!("service account {account}")),
    );
    let namespaces = peer.namespaces.iter().flat_map(|list| list.iter());
    strangers.extend(
        namespaces
            .filter(|name| !is_there(&|it| it.identity.namespace() == Some(name.as_str())))
            .map(|name| format!("in namespace {name}")),
    );
    strangers
}
