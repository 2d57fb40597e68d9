//! Policies that load together or not at all, and the part of them that concerns one workload.

use std::collections::BTreeMap;

use sidegate_codes::Code;

use crate::{Policies, PolicyError, Sourced, limits};

/// Policies that were checked as a whole: names are unique, limits hold. In the order of their names, so that the
/// order of files and documents never decides anything.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    policies: Vec<Sourced>,
}

/// The workload whose inbound traffic is judged, as selectors see it.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its own trust domain: the one that `serviceAccounts` and `namespaces` mean where no `trustDomains` are given.
    pub trust_domain: &'a str,
    /// The namespace whose policies hold for the whole mesh, if there is one.
    pub root_namespace: Option<&'a str>,
}

impl PolicySet {
    /// Checks the policies as a whole; every error is reported, not only the first.
    pub fn new(mut policies: Vec<Sourced>) -> Result<Self, Vec<PolicyError>> {
        // Stable: of two policies with one name, the error names the one that was read later.
        policies.sort_by(|a, b| a.name().cmp(b.name()));
        let errors: Vec<_> = duplicates(&policies).chain(over_limits(&policies)).collect();
        if errors.is_empty() {
            Ok(Self { policies })
        } else {
            Err(errors)
        }
    }

    /// Every policy, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = &Sourced> {
        self.policies.iter()
    }

    /// How many policies there are.
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// Whether there are none. Such a set denies everything.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// The policies that select the workload, in the order of names.
    pub fn selecting(&self, workload: &Workload<'_>) -> impl Iterator<Item = &Sourced> {
        self.policies
            .iter()
            .filter(move |sourced| selects(sourced, workload))
    }

    /// What the set means for one workload, ready to judge its requests.
    pub fn compile(&self, workload: &Workload<'_>) -> Policies {
        Policies::compile(self.selecting(workload), workload.trust_domain)
    }
}

/// A policy selects by its labels within its own namespace, or everywhere if it is in the root namespace.
fn selects(sourced: &Sourced, workload: &Workload<'_>) -> bool {
    let policy = sourced.policy();
    let namespace = policy.metadata.namespace.as_str();
    let in_scope = namespace == workload.namespace || workload.root_namespace == Some(namespace);
    let has_label = |(key, value): (&String, &String)| workload.labels.get(key) == Some(value);
    in_scope && policy.spec.selector.iter().flatten().all(has_label)
}

fn duplicates(policies: &[Sourced]) -> impl Iterator<Item = PolicyError> {
    policies
        .iter()
        .zip(policies.iter().skip(1))
        .filter(|(a, b)| a.name() == b.name())
        .map(|(a, b)| {
            let message = format!("the policy {} is also written at {}", b.name(), a.source());
            b.error(Code::PolicyDuplicate, "metadata.name", message)
        })
}

fn over_limits(policies: &[Sourced]) -> Option<PolicyError> {
    let over = |what: &str, seen: usize, max: usize| {
        let last = policies.last().filter(|_| seen > max)?;
        let message = format!("{seen} {what} in all files; at most {max} are allowed");
        Some(last.error(Code::PolicyTooLarge, "spec.rules", message))
    };
    over("policies", policies.len(), limits::POLICIES).or_else(|| {
        over(
            "rules",
            policies.iter().map(|p| p.policy().spec.rules.len()).sum(),
            limits::RULES,
        )
    })
}
