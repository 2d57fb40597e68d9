//! Rules that cannot do what they say because of others: Allow rules that no guardrail lets through, and guardrails of
//! which one refuses whatever another lets through.

use std::sync::Arc;

use super::{
    Entry, Finding, Lint, Surroundings,
    cover::{Reach, Scope},
};
use crate::{Sourced, model::Action};

/// A Require policy that is in force, with those of its rules that can still satisfy it.
pub(super) struct Guardrail<'e, 's> {
    sourced: &'s Sourced,
    rules: Vec<&'e Entry<'s>>,
}

impl<'e, 's> Guardrail<'e, 's> {
    /// In the order of policies. Those of which every rule is over are found as such.
    pub(super) fn all(entries: &'e [Entry<'s>], known: &Surroundings<'_>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        let lasting = |entry: &&Entry<'_>| !entry.is_over(known);
        let requires = |entry: &&Entry<'_>| entry.action() == Action::Require && entry.is_enforced();
        for entry in entries.iter().filter(requires).filter(lasting) {
            match all.last_mut().filter(|last| last.sourced.name() == entry.sourced.name()) {
                Some(last) => last.rules.push(entry),
                None => all.push(Self { sourced: entry.sourced, rules: vec![entry] }),
            }
        }
        all
    }

    /// Whether it refuses whatever the rule lets in, wherever that holds.
    fn refuses(&self, entry: &Entry<'_>, scope: Scope<'_>) -> bool {
        scope.holds_wherever(Reach::from(self.sourced.policy()), Reach::from(entry.sourced.policy()))
            && self.rules.iter().all(|rule| rule.form.is_apart(&entry.form))
    }
}

/// An Allow rule that a Require policy leaves nothing of.
pub(super) fn unreachable(
    entry: &Entry<'_>,
    guardrails: &[Guardrail<'_, '_>],
    known: &Surroundings<'_>,
) -> Option<Finding> {
    if entry.action() != Action::Allow || !entry.is_enforced() {
        return None;
    }
    let scope = Scope::of(known);
    let guardrail = guardrails.iter().find(|guardrail| guardrail.refuses(entry, scope))?;
    let (name, at) = (guardrail.sourced.name(), guardrail.sourced.source());
    let why = format!("no request that it matches satisfies the Require policy {name} ({at})");
    let fix = "delete it, or add a rule to that policy";
    let related = Some(Arc::clone(at));
    Some(Finding { related, ..entry.finding(Lint::UnreachableRule, why, fix) })
}

/// Require policies that hold together and that no request satisfies together: nothing is let in.
pub(super) fn contradicting(guardrails: &[Guardrail<'_, '_>], known: &Surroundings<'_>) -> Vec<Finding> {
    /// A mesh has a handful of guardrails. Of a set with more, the first are compared.
    const MOST: usize = 256;
    let scope = Scope::of(known);
    let mut findings = Vec::new();
    let guardrails = guardrails.get(..MOST).unwrap_or(guardrails);
    for (position, one) in guardrails.iter().enumerate() {
        let others = guardrails.iter().take(position);
        let clashing = others.clone().find(|other| {
            scope.overlap(one.sourced.policy(), other.sourced.policy())
                && other.rules.iter().all(|a| one.rules.iter().all(|b| a.form.is_apart(&b.form)))
        });
        findings.extend(clashing.map(|other| clash(one.sourced, other.sourced)));
    }
    findings
}

fn clash(one: &Sourced, other: &Sourced) -> Finding {
    Finding {
        lint: Lint::ContradictingPolicies,
        severity: Lint::ContradictingPolicies.severity(),
        policy: Arc::clone(one.name()),
        rule: None,
        source: Arc::clone(one.source()),
        related: Some(Arc::clone(other.source())),
        why: format!(
            "no request satisfies both it and the Require policy {} ({}), so where both hold nothing is let in",
            other.name(),
            other.source()
        ),
        fix: "join the two in one policy if either is enough, or give them selectors that do not meet"
            .to_owned(),
    }
}
