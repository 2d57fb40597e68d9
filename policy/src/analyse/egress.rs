//! What is to be said against rules of egress: they are over, or mean every address there is.

use std::sync::Arc;

use super::{Finding, Lint, Surroundings};
use crate::{
    Document, PolicySet, Sourced,
    model::{EgressDestination, EgressPolicy, EgressRule},
};

pub(super) fn findings(set: &PolicySet, known: &Surroundings<'_>) -> Vec<Finding> {
    let policies = set.documents().filter_map(|document| match document {
        Document::Egress(sourced) => Some(sourced),
        Document::Authorization(_) | Document::Plaintext(_) => None,
    });
    let rules = policies.flat_map(|sourced| sourced.rules().map(move |(rule, at)| (sourced, rule, at)));
    rules.flat_map(|(sourced, rule, at)| of_rule(sourced, rule, at, known)).collect()
}

fn of_rule(
    sourced: &Sourced<EgressPolicy>,
    rule: &EgressRule,
    at: &Arc<str>,
    known: &Surroundings<'_>,
) -> impl Iterator<Item = Finding> {
    let finding = |lint: Lint, why: String, fix: &str| Finding {
        lint,
        severity: lint.severity(),
        policy: Arc::clone(sourced.name()),
        rule: Some(rule.name.shared()),
        source: Arc::clone(at),
        related: None,
        why,
        fix: fix.to_owned(),
    };
    let over = rule.expires.filter(|day| day.has_begun(known.now));
    let over = over.map(|day| {
        finding(
            Lint::ExpiredRule,
            format!("it lets nothing out since {day}"),
            "delete it, or give it a new day",
        )
    });
    let anywhere = rule.to.iter().any(means_every_address).then(|| {
        let why = "it lets out to every public address that somebody chooses".to_owned();
        finding(Lint::EgressAnywhere, why, "name hosts or server names, or the blocks that are meant")
    });
    over.into_iter().chain(anywhere)
}

fn means_every_address(to: &EgressDestination) -> bool {
    let is_all =
        |text: &str| to.ip_blocks.iter().flat_map(|blocks| blocks.iter()).any(|it| it.to_string() == text);
    to.hosts.is_none() && to.sni.is_none() && (is_all("0.0.0.0/0") || is_all("::/0"))
}
