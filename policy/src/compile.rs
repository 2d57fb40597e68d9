//! Receives the policies that select one workload; hands on the form that judges its requests: the stages of a
//! judgement, each with its rules indexed.

use std::sync::Arc;

use sidegate_identity::TrustDomain;

use crate::{
    Sourced,
    http_ports::{HttpPorts, NamedPorts},
    index::RuleIndex,
    model::{Action, Mode, PlaintextException, Rule},
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
    /// What may come without TLS. Nothing here is about anybody who has an identity.
    pub(crate) plaintext: RuleIndex,
    pub(crate) http_ports: HttpPorts,
    pub(crate) named_ports: NamedPorts,
}

#[derive(Debug)]
pub(crate) struct Requirement {
    pub(crate) policy: Arc<str>,
    pub(crate) mode: Mode,
    pub(crate) source: Arc<str>,
    pub(crate) rules: RuleIndex,
}

/// A rule with the names under which it is reported.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    /// Its place in the stage.
    pub(crate) order: usize,
    pub(crate) policy: Arc<str>,
    pub(crate) mode: Mode,
    pub(crate) name: Arc<str>,
    pub(crate) source: Arc<str>,
    pub(crate) rule: Rule,
}

impl Policies {
    /// Compiles policies and exceptions that all select the workload, given in the order of their names.
    pub(crate) fn compile<'p>(
        selected: impl Iterator<Item = &'p Sourced>,
        exceptions: impl Iterator<Item = &'p Sourced<PlaintextException>>,
        trust_domain: &str,
    ) -> Self {
        // A text that is no trust domain has no identities, so nothing local matches.
        let local = TrustDomain::parse(trust_domain).ok();
        let selected: Vec<&Sourced> = selected.collect();
        let is_enforced = |sourced: &&Sourced| sourced.policy().spec.mode == Mode::Enforce;
        let mut enforced = Stages::of(selected.iter().copied().filter(is_enforced), local.as_ref());
        let shadowed = !selected.iter().all(is_enforced);
        let mut trial = shadowed.then(|| Stages::of(selected.iter().copied(), local.as_ref()));
        for exception in exceptions {
            enforced.except(exception, local.as_ref());
            if let Some(trial) = &mut trial {
                trial.except(exception, local.as_ref());
            }
        }
        Self { enforced, trial, trust_domain: trust_domain.into() }
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
        self.http_ports.add(sourced);
        self.named_ports.add(sourced);
        match sourced.policy().spec.action {
            Action::Allow => add_rules(&mut self.allow, sourced, local),
            Action::Deny => add_rules(&mut self.deny, sourced, local),
            Action::Require => {
                let mut rules = RuleIndex::default();
                add_rules(&mut rules, sourced, local);
                self.require.push(Requirement {
                    policy: Arc::clone(sourced.name()),
                    mode: sourced.policy().spec.mode,
                    source: Arc::clone(sourced.source()),
                    rules,
                });
            }
        }
    }
}

fn add_rules(index: &mut RuleIndex, sourced: &Sourced, local: Option<&TrustDomain>) {
    for (rule, source) in sourced.rules() {
        let mut rule = rule.clone();
        if sourced.policy().spec.action == Action::Deny {
            // An end date only ever takes access away: what a Deny forbids stays forbidden until it is removed.
            rule.expires = None;
        }
        let rule = CompiledRule {
            order: index.len(),
            policy: Arc::clone(sourced.name()),
            mode: sourced.policy().spec.mode,
            name: rule.name.shared(),
            source: Arc::clone(source),
            rule,
        };
        index.add(rule, local);
    }
}
