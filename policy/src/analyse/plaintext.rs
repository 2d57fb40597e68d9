//! What is to be said against exceptions to mutual TLS: they are over or will be soon, let in from everywhere or to
//! everything, or let nothing in because of another policy.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Entry, Finding, Lint, Surroundings,
    cover::{Form, Reach, Scope},
};
use crate::{
    Document, PolicySet, Sourced,
    model::{Action, Peer, PlaintextException, PlaintextOperation, Rule},
    values::{IpBlock, PathPattern},
};

/// An exception, as the rule that it is.
struct Exception<'s> {
    sourced: &'s Sourced<PlaintextException>,
    rule: Rule,
}

/// Exceptions, prepared to be compared with each other and with rules.
struct Compared<'s, 'r> {
    exceptions: Vec<(&'r Exception<'s>, Form<'r>)>,
    entries: &'r [Entry<'s>],
    /// Ports that rules say speak HTTP.
    http_ports: BTreeSet<u16>,
}

pub(super) fn findings(set: &PolicySet, entries: &[Entry<'_>], known: &Surroundings<'_>) -> Vec<Finding> {
    let exceptions = set.documents().filter_map(|document| match document {
        Document::Plaintext(sourced) => Some(Exception { sourced, rule: sourced.policy().rule() }),
        Document::Authorization(_) | Document::Egress(_) => None,
    });
    let exceptions: Vec<Exception<'_>> = exceptions.collect();
    let compared = Compared {
        exceptions: exceptions.iter().map(|it| (it, Form::of(&it.rule, known.trust_domain))).collect(),
        entries,
        http_ports: entries.iter().flat_map(|entry| http_ports(entry.rule)).collect(),
    };
    let places = 0..compared.exceptions.len();
    places.flat_map(|place| compared.of(place, known).unwrap_or_default()).collect()
}

impl Compared<'_, '_> {
    /// Everything against one of them.
    fn of(&self, place: usize, known: &Surroundings<'_>) -> Option<Vec<Finding>> {
        let (exception, form) = self.exceptions.get(place)?;
        let spec = &exception.sourced.policy().spec;
        let mut findings: Vec<Finding> = exception.end(known).into_iter().collect();
        findings.extend(self.redundancy(place, exception, form, Scope::of(known)));
        let mut blocks = spec.from.iter().flat_map(|source| source.ip_blocks.iter());
        if let Some(wide) = blocks.clone().find(|block| block.is_everywhere()) {
            let why = format!("{wide} is every address there is: it names nobody");
            let fix = "name the addresses of those who cannot have an identity";
            findings.push(exception.finding(Lint::PlaintextAnywhere, why, fix));
        } else if let Some(wide) = blocks.find(|block| block.is_wide()) {
            let why = format!("{wide} is more than one network");
            let fix = "name the addresses of those who cannot have an identity";
            findings.push(exception.finding(Lint::PlaintextWide, why, fix));
        }
        if let Some(why) = spec.to.iter().find_map(|to| self.excess(to)) {
            let fix = "name the paths that are needed without an identity";
            findings.push(exception.finding(Lint::PlaintextWide, why, fix));
        }
        Some(findings)
    }

    /// What an operation lets in beyond some paths, where there are paths.
    fn excess(&self, to: &PlaintextOperation) -> Option<String> {
        let is_everything = |path: &PathPattern| path.is_open() && path.segments().is_empty();
        match &to.paths {
            Some(paths) if paths.iter().any(is_everything) => Some("`/**` is every path".to_owned()),
            Some(_) => None,
            None if to.methods.is_some() => Some("it names methods and no paths".to_owned()),
            None => {
                let port = to.ports.iter().find(|port| self.http_ports.contains(port))?;
                Some(format!("port {port} speaks HTTP, says another policy, and it names no paths"))
            }
        }
    }

    /// Another policy because of which the exception changes nothing.
    fn redundancy(
        &self,
        place: usize,
        exception: &Exception<'_>,
        form: &Form<'_>,
        scope: Scope<'_>,
    ) -> Option<Finding> {
        let own = Reach::from(exception.sourced.policy());
        let holds = |entry: &&Entry<'_>| {
            entry.is_enforced() && scope.holds_wherever(Reach::from(entry.sourced.policy()), own)
        };
        let mut denies = self.entries.iter().filter(|entry| entry.action() == Action::Deny).filter(holds);
        if let Some(deny) = denies.find(|deny| deny.form.covers(form)) {
            let why = format!("every request it lets in is denied by {deny}");
            let fix = "delete it, or narrow the Deny rule";
            return Some(exception.finding(Lint::CoveredByDeny, why, fix).beside(deny));
        }
        let mut requires =
            self.entries.iter().filter(|entry| entry.action() == Action::Require).filter(holds);
        if let Some(require) = requires.find(|require| names_only_identities(require.sourced)) {
            let name = require.sourced.name();
            let why = format!("{name} requires an identity, and nothing in plaintext has one");
            let fix = "delete it, or let the Require policy take its addresses";
            return Some(exception.finding(Lint::UnreachableRule, why, fix).beside(require));
        }
        let covers = |(other, (wide, wide_form)): &(usize, &(&Exception<'_>, Form<'_>))| {
            let outlasts = wide.rule.expires >= exception.rule.expires;
            *other != place
                && outlasts
                && scope.holds_wherever(Reach::from(wide.sourced.policy()), own)
                && wide_form.covers(form)
        };
        let (other, (wide, wide_form)) = self.exceptions.iter().enumerate().find(covers)?;
        let is_same = form.covers(wide_form)
            && exception.rule.expires == wide.rule.expires
            && scope.holds_wherever(own, Reach::from(wide.sourced.policy()));
        // Of two that say the same, the later can go.
        if is_same && place < other {
            return None;
        }
        let lint = if is_same { Lint::DuplicateRule } else { Lint::ShadowedRule };
        let why = format!("everything it lets in is let in by {} too", wide.sourced.name());
        let related = Some(Arc::clone(wide.sourced.source()));
        Some(Finding { related, ..exception.finding(lint, why, "delete it") })
    }
}

impl Exception<'_> {
    /// That its day has come, or is near.
    fn end(&self, known: &Surroundings<'_>) -> Option<Finding> {
        let day = self.sourced.policy().spec.expires;
        match day.days_after(known.now) {
            0 => {
                let why = format!("it lets nothing in since {day}");
                Some(self.finding(Lint::ExpiredRule, why, "delete it, or give it a new day"))
            }
            days if days <= SOON_DAYS => {
                let why = format!("on {day}, in {days} days, everything it lets in is refused");
                let fix = "give those callers an identity until then, or give it a new day";
                Some(self.finding(Lint::ExceptionEndsSoon, why, fix))
            }
            _ => None,
        }
    }

    fn finding(&self, lint: Lint, why: String, fix: &str) -> Finding {
        Finding {
            lint,
            severity: lint.severity(),
            policy: Arc::clone(self.sourced.name()),
            rule: Some(self.rule.name.shared()),
            source: Arc::clone(self.sourced.source()),
            related: None,
            why,
            fix: fix.to_owned(),
        }
    }
}

impl IpBlock {
    /// More than somebody can have meant as one network of their own.
    fn is_wide(&self) -> bool {
        const WIDEST_V4: u8 = 16;
        const WIDEST_V6: u8 = 48;
        self.prefix() < if self.is_v4() { WIDEST_V4 } else { WIDEST_V6 }
    }

    /// All addresses, or as good as all.
    fn is_everywhere(&self) -> bool {
        self.prefix() < EVERYWHERE
    }
}

/// Whether nobody without an identity can meet it.
fn names_only_identities(sourced: &Sourced) -> bool {
    let names = |peer: &Peer| peer.names_identity();
    sourced
        .policy()
        .spec
        .rules
        .iter()
        .all(|rule| rule.from.as_ref().is_some_and(|from| from.iter().all(names)))
}

fn http_ports(rule: &Rule) -> Vec<u16> {
    let operations = rule.to.iter().flat_map(|to| to.iter()).filter(|operation| operation.asks_http());
    operations.flat_map(|operation| operation.ports.iter().flat_map(|ports| ports.iter().copied())).collect()
}

/// When an end is told beforehand.
const SOON_DAYS: u64 = 14;
/// Half of the Internet, cut into two blocks, is all of it.
const EVERYWHERE: u8 = 4;
