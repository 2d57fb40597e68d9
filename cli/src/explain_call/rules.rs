//! The rules that select a workload, those of authorization policies and the exceptions, each with where it is written.

use std::{borrow::Cow, sync::Arc};

use sidegate_policy::{PolicySet, Rule, Workload};

use super::answer::rule_at;

/// All of them, in the order of policies.
pub(super) struct Rules<'p> {
    of_policies: Vec<RuleAt<'p>>,
    exceptions: Vec<RuleAt<'p>>,
}

/// One rule.
pub(super) struct RuleAt<'p> {
    pub(super) rule: Cow<'p, Rule>,
    policy: &'p Arc<str>,
    /// Where it is written.
    pub(super) source: &'p Arc<str>,
}

impl<'p> Rules<'p> {
    pub(super) fn of(set: &'p PolicySet, workload: &Workload<'_>) -> Self {
        let of_policies = set.selecting(workload).flat_map(|sourced| {
            let at = |(rule, source): (&'p Rule, &'p Arc<str>)| RuleAt {
                rule: Cow::Borrowed(rule),
                policy: sourced.name(),
                source,
            };
            sourced.rules().map(at)
        });
        let exceptions = set.exceptions(workload).map(|sourced| RuleAt {
            rule: Cow::Owned(sourced.policy().rule()),
            policy: sourced.name(),
            source: sourced.source(),
        });
        Self { of_policies: of_policies.collect(), exceptions: exceptions.collect() }
    }

    /// Those that can have a part in a judgement: exceptions only in one on `plaintext`.
    pub(super) fn about(&self, plaintext: bool) -> impl Iterator<Item = &RuleAt<'p>> {
        self.of_policies.iter().chain(self.exceptions.iter().filter(move |_| plaintext))
    }

    /// Where the rule is written with which a nearest miss begins.
    pub(super) fn at(&self, nearest: &str) -> Option<Arc<str>> {
        let named = self.about(true).map(|it| (&**it.policy, it.rule.name.as_str(), it.source));
        rule_at(nearest, named)
    }
}
