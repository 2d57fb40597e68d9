//! Receives a policy set; hands on what in it cannot mean what its author meant. Claims only what holds for every
//! request: where the question is hard, it keeps silent. Never judges; nothing here is on a request's path.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Serialize, Serializer};
use sidegate_identity::{SpiffeId, TrustDomain};

use crate::{
    PolicySet, Sourced,
    model::{Action, Mode, Rule},
};

mod breadth;
mod cover;
mod mesh;
mod subtree;

use cover::{Form, Scope};

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
    /// An Allow rule that is over.
    ExpiredRule,
    /// An Allow rule for any verified peer that is not limited to reading some paths.
    AnyCaller,
    /// A Deny on a path beside which another path begins alike, and is let in.
    PrefixWithoutBoundary,
    /// A policy for no service of the mesh.
    SelectsNothing,
    /// A source that names no service of the mesh.
    UnknownPrincipal,
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
        let mut findings = mesh::selecting_nothing(self, known);
        for (position, entry) in entries.iter().enumerate() {
            findings.extend(redundancy(position, entry, &entries, known));
            findings.extend(expiry(entry, known));
            findings.extend(breadth::any_caller(entry, known));
            findings.extend(subtree::prefix(entry, &entries, known));
            findings.extend(mesh::unknown_principal(entry, known));
        }
        let place = |finding: &Finding| {
            let is_here = |entry: &Entry<'_>| {
                *entry.sourced.name() == finding.policy && Some(entry.rule.name.shared()) == finding.rule
            };
            (Arc::clone(&finding.policy), entries.iter().position(is_here), finding.lint)
        };
        findings.sort_by_cached_key(place);
        findings
    }
}

/// A rule that changes nothing: it can be taken away and every verdict stays.
fn redundancy(
    position: usize,
    entry: &Entry<'_>,
    entries: &[Entry<'_>],
    known: &Surroundings<'_>,
) -> Option<Finding> {
    let scope = Scope::of(known);
    let refused = |other: &&Entry<'_>| entry.action() != Action::Deny && other.action() == Action::Deny;
    if let Some(deny) = entries.iter().filter(refused).find(|deny| deny.covers(entry, scope)) {
        let why = format!("every request it matches is denied by {deny}");
        let fix = "delete it, or narrow the Deny rule";
        return Some(entry.finding(Lint::CoveredByDeny, why, fix).beside(deny));
    }
    let (earlier, wider) = entries
        .iter()
        .enumerate()
        .filter(|(other, it)| *other != position && it.works_as(entry) && it.covers(entry, scope))
        .map(|(other, it)| (other < position, it))
        .find(|(earlier, it)| *earlier || !entry.covers(it, scope))?;
    if earlier && entry.covers(wider, scope) {
        let why = format!("it says what {wider} says");
        return Some(entry.finding(Lint::DuplicateRule, why, "delete it").beside(wider));
    }
    let why = format!("every request it matches is matched by {wider} too");
    let fix = "delete it, or narrow the other rule if less is meant";
    Some(entry.finding(Lint::ShadowedRule, why, fix).beside(wider))
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
            && scope.holds_wherever(self.sourced.policy(), narrow.sourced.policy())
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
    pub const ALL: [Self; 8] = [
        Self::CoveredByDeny,
        Self::DuplicateRule,
        Self::ShadowedRule,
        Self::ExpiredRule,
        Self::AnyCaller,
        Self::PrefixWithoutBoundary,
        Self::SelectsNothing,
        Self::UnknownPrincipal,
    ];

    /// The name under which it is reported.
    pub const fn id(self) -> &'static str {
        match self {
            Self::CoveredByDeny => "covered-by-deny",
            Self::DuplicateRule => "duplicate-rule",
            Self::ShadowedRule => "shadowed-rule",
            Self::ExpiredRule => "expired-rule",
            Self::AnyCaller => "any-caller",
            Self::PrefixWithoutBoundary => "prefix-without-boundary",
            Self::SelectsNothing => "selects-nothing",
            Self::UnknownPrincipal => "unknown-principal",
        }
    }

    /// What it means, in one line.
    pub const fn title(self) -> &'static str {
        match self {
            Self::CoveredByDeny => "every request of the rule is denied by a Deny rule",
            Self::DuplicateRule => "the rule says what an earlier rule says",
            Self::ShadowedRule => "every request of the rule is matched by a broader rule",
            Self::ExpiredRule => "the day on which the rule ends has come",
            Self::AnyCaller => "an Allow rule without `from` lets any verified peer write, or use every path",
            Self::PrefixWithoutBoundary => "a Deny on one path, and another that begins alike is let in",
            Self::SelectsNothing => "the policy selects no service of the mesh",
            Self::UnknownPrincipal => "the source names what no service of the mesh is",
        }
    }

    /// How bad it is.
    pub const fn severity(self) -> Severity {
        match self {
            Self::CoveredByDeny | Self::SelectsNothing | Self::UnknownPrincipal => Severity::Error,
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
