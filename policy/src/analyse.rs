//! Receives a policy set; hands on what in it cannot mean what its author meant. Claims only what holds for every
//! request: where the question is hard, it keeps silent. Never judges; nothing here is on a request's path.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use serde::{Serialize, Serializer};
use sidegate_identity::{SpiffeId, TrustDomain};

use crate::{
    PolicySet, Sourced, limits,
    model::{Action, Mode, Rule},
};

mod apart;
mod breadth;
mod candidates;
mod conflict;
mod cover;
mod egress;
mod mesh;
mod plaintext;
mod subtree;

use candidates::Candidates;
use conflict::Guardrail;
use cover::{Form, Reach, Scope};
use mesh::Residents;
use subtree::Paths;

/// What is known beside the policies. The less is known, the less is found.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The trust domain of the workloads.
    pub trust_domain: Option<&'a TrustDomain>,
    /// The namespace whose policies hold for the whole mesh.
    pub root_namespace: Option<&'a str>,
    /// Every service of the mesh; `None` if they are not known.
    pub services: Option<&'a [Service<'a>]>,
    /// Seconds since the Unix epoch.
    pub now: u64,
}

/// A service of the mesh, as selectors and sources see it.
#[derive(Clone, Copy, Debug)]
pub struct Service<'a> {
    /// The identity under which it calls and is called.
    pub identity: &'a SpiffeId,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// What can be found. The identifiers are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lint {
    /// An Allow or Require rule all of whose requests a Deny rule refuses.
    CoveredByDeny,
    /// A rule that says what an earlier one says.
    DuplicateRule,
    /// A rule all of whose requests a broader rule matches.
    ShadowedRule,
    /// An Allow rule no request of which satisfies some Require policy.
    UnreachableRule,
    /// Require policies that no request satisfies together.
    ContradictingPolicies,
    /// A rule that is over.
    ExpiredRule,
    /// An Allow rule for any verified peer that is not limited to reading some paths.
    AnyCaller,
    /// An Allow rule for a whole trust domain that is not limited to reading some paths.
    WholeDomain,
    /// A Deny on a path beside which another path begins alike, and is let in.
    PrefixWithoutBoundary,
    /// A rule of egress for every address.
    EgressAnywhere,
    /// An exception to mutual TLS for every address.
    PlaintextAnywhere,
    /// An exception to mutual TLS for more than a network, or for every path.
    PlaintextWide,
    /// An exception that will be over in a few days.
    ExceptionEndsSoon,
    /// A policy for no service of the mesh.
    SelectsNothing,
    /// A source that names no service of the mesh.
    UnknownPrincipal,
    /// More rules than can be compared with one another.
    NotCompared,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The rule does not do what it says.
    Error,
    /// It does, and is worth a second look.
    Warning,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    #[serde(rename = "id")]
    pub lint: Lint,
    /// How bad it is.
    pub severity: Severity,
    /// `namespace/name` of the policy.
    pub policy: Arc<str>,
    /// The rule; `None` if it is about the policy as a whole.
    pub rule: Option<Arc<str>>,
    /// Where that is written: `policies/payments.yaml:12`.
    pub source: Arc<str>,
    /// Where the other rule is written, if the finding is about two.
    pub related: Option<Arc<str>>,
    /// Why it is one.
    pub why: String,
    /// What to do.
    pub fix: String,
}

/// A rule with all that is asked of it here.
struct Entry<'s> {
    sourced: &'s Sourced,
    rule: &'s Rule,
    source: &'s Arc<str>,
    form: Form<'s>,
}

impl PolicySet {
    /// Everything that can be said against the set without a single request, in the order of policies and rules.
    pub fn lint(&self, known: &Surroundings<'_>) -> Vec<Finding> {
        let entries: Vec<Entry<'_>> = self
            .iter()
            .flat_map(|sourced| sourced.rules().map(move |(rule, source)| (sourced, rule, source)))
            .map(|(sourced, rule, source)| Entry {
                sourced,
                rule,
                source,
                form: Form::of(rule, known.trust_domain),
            })
            .collect();
        let (candidates, paths) = (Candidates::of(&entries), Paths::of(&entries, known));
        let guardrails = Guardrail::all(&entries, known);
        let residents = Residents::of(known);
        let mut findings = mesh::selecting_nothing(self, known);
        findings.extend(egress::findings(self, known));
        findings.extend(plaintext::findings(self, &entries, known));
        findings.extend(conflict::contradicting(&guardrails, known));
        for (position, entry) in entries.iter().enumerate() {
            let redundancy = redundancy(position, entry, &entries, &candidates, known);
            if redundancy.as_ref().is_none_or(|found| found.lint != Lint::CoveredByDeny) {
                findings.extend(conflict::unreachable(entry, &guardrails, known));
            }
            findings.extend(redundancy);
            findings.extend(expiry(entry, known));
            findings.extend(breadth::excessive(entry, known));
            findings.extend(paths.prefix(entry, known));
            findings
                .extend(residents.as_ref().and_then(|residents| mesh::unknown_principal(entry, residents)));
        }
        if let Some(last) = entries.last().filter(|_| candidates.is_exhausted()) {
            findings.push(not_compared(last.sourced));
        }
        let of = |name: &Arc<str>, rule: &Arc<str>| (Arc::clone(name), Arc::clone(rule));
        let places: HashMap<(Arc<str>, Arc<str>), usize> = entries
            .iter()
            .enumerate()
            .map(|(place, entry)| (of(entry.sourced.name(), &entry.rule.name.shared()), place))
            .collect();
        findings.sort_by_cached_key(|finding| {
            let rule = finding.rule.as_ref().and_then(|rule| places.get(&of(&finding.policy, rule)));
            (Arc::clone(&finding.policy), rule.copied(), finding.lint)
        });
        findings
    }
}

/// A rule that changes nothing: it can be taken away and every verdict stays.
fn redundancy(
    position: usize,
    entry: &Entry<'_>,
    entries: &[Entry<'_>],
    candidates: &Candidates<'_>,
    known: &Surroundings<'_>,
) -> Option<Finding> {
    let scope = Scope::of(known);
    let at = |place: usize| entries.get(place);
    let is_denied_by = |deny: &Entry<'_>| {
        entry.action() != Action::Deny && deny.action() == Action::Deny && deny.covers(entry, scope)
    };
    let deny = candidates.first(entry, |place| at(place).is_some_and(is_denied_by)).and_then(at);
    if let Some(deny) = deny {
        let why = format!("every request it matches is denied by {deny}");
        let fix = "delete it, or narrow the Deny rule";
        return Some(entry.finding(Lint::CoveredByDeny, why, fix).beside(deny));
    }
    let place = candidates.first(entry, |place| {
        let is_redundant_to = |it: &Entry<'_>| {
            it.works_as(entry)
                && it.covers(entry, scope)
                // Of two that say the same, the later can go.
                && (place < position || !entry.covers(it, scope))
        };
        place != position && at(place).is_some_and(is_redundant_to)
    })?;
    let (earlier, wider) = (place < position, at(place)?);
    if earlier && entry.covers(wider, scope) {
        let why = format!("it says what {wider} says");
        return Some(entry.finding(Lint::DuplicateRule, why, "delete it").beside(wider));
    }
    let why = format!("every request it matches is matched by {wider} too");
    let fix = "delete it, or narrow the other rule if less is meant";
    Some(entry.finding(Lint::ShadowedRule, why, fix).beside(wider))
}

fn not_compared(last: &Sourced) -> Finding {
    Finding {
        lint: Lint::NotCompared,
        severity: Lint::NotCompared.severity(),
        policy: Arc::clone(last.name()),
        rule: None,
        source: Arc::clone(last.source()),
        related: None,
        why: format!(
            "after {} comparisons the rest was left: more rules may be duplicate, shadowed or covered",
            limits::COMPARED_RULES
        ),
        fix: "name callers, ports and paths, by which rules are told apart quickly; or lint fewer files at a time"
            .to_owned(),
    }
}

fn expiry(entry: &Entry<'_>, known: &Surroundings<'_>) -> Option<Finding> {
    let day = entry.rule.expires.filter(|day| day.has_begun(known.now))?;
    let (why, fix) = match entry.action() {
        Action::Allow => (format!("it matches nothing since {day}"), "delete it, or give it a new day"),
        Action::Require => (
            format!("it satisfies nothing since {day}"),
            "delete it with what it was for, or give it a new day",
        ),
        Action::Deny => (
            format!("its day was {day}, and a Deny stays in force until it is removed"),
            "delete the rule, or its `expires`",
        ),
    };
    Some(entry.finding(Lint::ExpiredRule, why, fix))
}

impl Entry<'_> {
    fn action(&self) -> Action {
        self.sourced.policy().spec.action
    }

    fn is_enforced(&self) -> bool {
        self.sourced.policy().spec.mode == Mode::Enforce
    }

    /// Whether its day has come.
    fn is_over(&self, known: &Surroundings<'_>) -> bool {
        self.rule.expires.is_some_and(|day| day.has_begun(known.now))
    }

    /// Whether one of the two is enough where both match. Each Require policy must be met by itself.
    fn works_as(&self, other: &Self) -> bool {
        self.action() == other.action()
            && (self.action() != Action::Require || self.sourced.name() == other.sourced.name())
    }

    /// Whether, wherever `narrow` holds and whatever it matches, this rule holds and matches too.
    fn covers(&self, narrow: &Self, scope: Scope<'_>) -> bool {
        self.is_enforced()
            && narrow.is_enforced()
            && scope.holds_wherever(Reach::from(self.sourced.policy()), Reach::from(narrow.sourced.policy()))
            && self.outlasts(narrow)
            && self.form.covers(&narrow.form)
    }

    fn outlasts(&self, narrow: &Self) -> bool {
        let end = |entry: &Self| entry.rule.expires.filter(|_| entry.action() != Action::Deny);
        match (end(self), end(narrow)) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(this), Some(narrow)) => this >= narrow,
        }
    }

    fn finding(&self, lint: Lint, why: String, fix: impl Into<String>) -> Finding {
        Finding {
            lint,
            severity: lint.severity(),
            policy: Arc::clone(self.sourced.name()),
            rule: Some(self.rule.name.shared()),
            source: Arc::clone(self.source),
            related: None,
            why,
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Entry<'_> {
    /// `rule admin of shop/no-admin (policies/a.yaml:9)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rule, policy) = (&self.rule.name, self.sourced.name());
        write!(f, "rule {rule} of {policy} ({})", self.source)
    }
}

impl Finding {
    fn beside(mut self, other: &Entry<'_>) -> Self {
        self.related = Some(Arc::clone(other.source));
        self
    }
}

impl Lint {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::CoveredByDeny,
        Self::DuplicateRule,
        Self::ShadowedRule,
        Self::UnreachableRule,
        Self::ContradictingPolicies,
        Self::ExpiredRule,
        Self::AnyCaller,
        Self::WholeDomain,
        Self::PrefixWithoutBoundary,
        Self::EgressAnywhere,
        Self::PlaintextAnywhere,
        Self::PlaintextWide,
        Self::ExceptionEndsSoon,
        Self::SelectsNothing,
        Self::UnknownPrincipal,
        Self::NotCompared,
    ];

    /// The name under which it is reported.
    pub const fn id(self) -> &'static str {
        match self {
            Self::CoveredByDeny => "covered-by-deny",
            Self::DuplicateRule => "duplicate-rule",
            Self::ShadowedRule => "shadowed-rule",
            Self::UnreachableRule => "unreachable-rule",
            Self::ContradictingPolicies => "contradicting-policies",
            Self::ExpiredRule => "expired-rule",
            Self::AnyCaller => "any-caller",
            Self::WholeDomain => "whole-domain",
            Self::PrefixWithoutBoundary => "prefix-without-boundary",
            Self::EgressAnywhere => "egress-anywhere",
            Self::PlaintextAnywhere => "plaintext-anywhere",
            Self::PlaintextWide => "plaintext-wide",
            Self::ExceptionEndsSoon => "exception-ends-soon",
            Self::SelectsNothing => "selects-nothing",
            Self::UnknownPrincipal => "unknown-principal",
            Self::NotCompared => "not-compared",
        }
    }

    /// What it means, in one line.
    pub const fn title(self) -> &'static str {
        match self {
            Self::CoveredByDeny => "every request of the rule is denied by a Deny rule",
            Self::DuplicateRule => "the rule says what an earlier rule says",
            Self::ShadowedRule => "every request of the rule is matched by a broader rule",
            Self::UnreachableRule => "no request of the rule satisfies a Require policy",
            Self::ContradictingPolicies => "no request satisfies both Require policies",
            Self::ExpiredRule => "the day on which the rule ends has come",
            Self::AnyCaller => "an Allow rule without `from` lets any verified peer write, or use every path",
            Self::WholeDomain => {
                "an Allow rule lets every identity of a trust domain write, or use every path"
            }
            Self::PrefixWithoutBoundary => "a Deny on one path, and another that begins alike is let in",
            Self::EgressAnywhere => "a rule of egress is for every address, whatever its name",
            Self::PlaintextAnywhere => "an exception to mutual TLS is for every address",
            Self::PlaintextWide => "an exception to mutual TLS is for more than a network, or for every path",
            Self::ExceptionEndsSoon => "an exception to mutual TLS is over in a few days",
            Self::SelectsNothing => "the policy selects no service of the mesh",
            Self::UnknownPrincipal => "the source names what no service of the mesh is",
            Self::NotCompared => "more rules than can be compared with one another",
        }
    }

    /// How bad it is.
    pub const fn severity(self) -> Severity {
        match self {
            Self::CoveredByDeny
            | Self::UnreachableRule
            | Self::ContradictingPolicies
            | Self::SelectsNothing
            | Self::UnknownPrincipal => Severity::Error,
            _ => Severity::Warning,
        }
    }
}

impl Serialize for Lint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

#[cfg(test)]
mod tests;
