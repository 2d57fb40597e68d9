//! Why a request was denied, for people. The decision is the one that [`Policies::judge`] makes; beside it stands the
//! rule that came nearest to matching, and what kept it. A cold path: it allocates, and looks at a bounded number of
//! rules, because whoever is denied chooses how often it runs.

use std::{cmp::Reverse, fmt, sync::Arc};

use sidegate_codes::Code;
use sidegate_identity::SpiffeId;

use crate::{
    Decision, Http, Policies, Request, Verdict,
    compile::{CompiledRule, Requirement},
    limits,
    model::{Grpc, OneOf, Operation, Peer},
    values::PathPattern,
};

/// A decision in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation<'p> {
    /// What was decided.
    pub decision: Decision<'p>,
    /// The rule that came nearest to permitting the request: `rule orders-charge of shop/payments-callers matched
    /// caller and path, method POST is not in [GET]`; or the rule that could not be decided, and why. `None` when
    /// allowed, or when no rule could have permitted it.
    pub nearest: Option<String>,
}

/// The conditions of a rule that held, and what to say of those that did not.
#[derive(Default)]
struct Match {
    held: Vec<&'static str>,
    missed: Vec<String>,
    /// Whether the rule is for other callers.
    foreign: bool,
}

impl Policies {
    /// Judges one request and says why.
    pub fn explain(&self, request: &Request<'_>) -> Explanation<'_> {
        let decision = self.judge(request);
        Explanation { decision, nearest: self.nearest(&decision, request) }
    }

    fn nearest(&self, decision: &Decision<'_>, request: &Request<'_>) -> Option<String> {
        let caller = request.source.identity;
        let rules = match decision.code? {
            Code::NoVerifiedPeer => &self.enforced.plaintext,
            Code::NoRuleMatched => &self.enforced.allow,
            Code::RequirementNotMet => &self.requirement(decision.policy?)?.rules,
            Code::Undecidable => return self.undecided(decision, caller, request),
            // A rule matched, or there is none: the decision says all there is to say.
            _ => return None,
        };
        rules
            .near(caller, request)
            .take(limits::EXPLAINED_RULES)
            .map(|rule| (self.compare(rule, caller, request), rule))
            // Of several that are as near, the first in the order of rules.
            .min_by_key(|(seen, rule)| (seen.distance(), rule.order))
            .map(|(seen, rule)| seen.sentence(rule))
    }

    /// The rule that decided by being in doubt, with what left it there.
    fn undecided(
        &self,
        decision: &Decision<'_>,
        caller: Option<&SpiffeId>,
        request: &Request<'_>,
    ) -> Option<String> {
        let policy = decision.policy?;
        let rules = self.requirement(policy).map_or(&self.enforced.deny, |requirement| &requirement.rules);
        let is_it = |rule: &&CompiledRule| rule.policy == *policy && Some(&rule.name) == decision.rule;
        let rule = rules.near(caller, request).take(limits::EXPLAINED_RULES).find(is_it)?;
        Some(self.compare(rule, caller, request).sentence(rule))
    }

    fn requirement(&self, policy: &Arc<str>) -> Option<&Requirement> {
        self.enforced.require.iter().find(|requirement| requirement.policy == *policy)
    }

    fn compare(&self, rule: &CompiledRule, caller: Option<&SpiffeId>, request: &Request<'_>) -> Match {
        let mut seen = Match::default();
        if let Some(peers) = &rule.rule.from {
            seen.add(nearest_of(peers, |peer| self.compare_peer(peer, caller, request)));
        }
        if let Some(operations) = &rule.rule.to {
            seen.add(nearest_of(operations, |operation| compare_operation(operation, request)));
        }
        if let Some(jwt) = &rule.rule.jwt {
            seen.note("token", jwt.miss(request));
        }
        if let Some(when) = &rule.rule.when {
            seen.note("condition", when.miss(caller, request));
        }
        if let Some(rego) = &rule.rule.rego {
            seen.note("condition", rego.miss(caller, request));
        }
        if let Some(day) = rule.rule.expires {
            seen.note("date", day.has_begun(request.now).then(|| format!("it expired on {day}")));
        }
        seen
    }

    fn compare_peer(&self, peer: &Peer, caller: Option<&SpiffeId>, request: &Request<'_>) -> Match {
        let mut seen = Match::default();
        if peer.names_identity() {
            let miss = self.identity_miss(peer, caller);
            seen.foreign = miss.is_some();
            seen.note("caller", miss);
        }
        let ip = request.source.ip.to_canonical();
        seen.test("address", peer.ip_blocks.as_ref(), &ip, |block| block.contains(ip));
        seen
    }

    fn identity_miss(&self, peer: &Peer, caller: Option<&SpiffeId>) -> Option<String> {
        let Some(caller) = caller else {
            return Some("a caller without TLS is nobody whom it names".to_owned());
        };
        let domain = caller.trust_domain();
        let miss =
            |what: &str, list: String| Some(format!("caller {} is not in {what} {list}", shown(caller)));
        match &peer.trust_domains {
            Some(given) if !given.iter().any(|given| given.as_str() == domain) => {
                return miss("trustDomains", listed(given));
            }
            None if domain != &*self.trust_domain && peer.is_local() => {
                return Some(format!(
                    "caller {} is not of trust domain {}",
                    shown(caller),
                    self.trust_domain
                ));
            }
            _ => {}
        }
        if let Some(principals) = peer.principals.as_ref().filter(|list| !list.contains(caller)) {
            return miss("principals", listed(principals));
        }
        let (namespace, account) = (caller.namespace(), caller.service_account());
        let is_caller = |it: &crate::ServiceAccount| {
            namespace == Some(it.namespace.as_str()) && account == Some(it.name.as_str())
        };
        if let Some(accounts) = peer.service_accounts.as_ref().filter(|list| !list.iter().any(is_caller)) {
            return miss("serviceAccounts", listed(accounts));
        }
        let is_namespace = |it: &crate::Name| namespace == Some(it.as_str());
        if let Some(namespaces) = peer.namespaces.as_ref().filter(|list| !list.iter().any(is_namespace)) {
            return miss("namespaces", listed(namespaces));
        }
        None
    }
}

impl Peer {
    pub(crate) fn names_identity(&self) -> bool {
        self.principals.is_some() || self.trust_domains.is_some() || self.is_local()
    }

    /// Whether the source has conditions that mean the workload's own trust domain unless it names others.
    fn is_local(&self) -> bool {
        self.service_accounts.is_some() || self.namespaces.is_some()
    }
}

fn compare_operation(operation: &Operation, request: &Request<'_>) -> Match {
    let mut seen = Match::default();
    seen.test("port", operation.ports.as_ref(), &request.port, |port| *port == request.port);
    match request.http {
        Some(_) if operation.sni.is_some() => {
            seen.missed.push("a request has no server name of the application's own TLS".to_owned());
        }
        Some(http) => compare_http(operation, http, &mut seen),
        None if operation.asks_http() => {
            seen.missed.push("an opaque connection has no method, path or host".to_owned());
        }
        None => match (&operation.sni, request.sni) {
            (Some(names), None) => {
                seen.missed.push(format!("no server name is known, to be in sni {}", listed(names)));
            }
            (names, Some(sni)) => seen.test("sni", names.as_ref(), &sni, |name| name.matches(sni)),
            (None, None) => {}
        },
    }
    seen
}

fn compare_http(operation: &Operation, http: Http<'_>, seen: &mut Match) {
    seen.test("host", operation.hosts.as_ref(), &http.host, |host| host.matches(http.host));
    seen.test("path", operation.paths.as_ref(), &http.path, |path| path.matches(http.path));
    seen.test("method", operation.methods.as_ref(), &http.method, |method| method.matches(http.method));
    if let Some(Grpc { service, method }) = &operation.grpc {
        let called = PathPattern::of_grpc(service, method.as_ref());
        let path = || format!("path {} is not in grpc [{called}]", shown(&http.path));
        seen.note("path", (!called.matches(http.path)).then(path));
        let method = || format!("method {} is not in [POST]", shown(&http.method));
        seen.note("method", (http.method != "POST").then(method));
    }
}

/// Of several alternatives the one that misses least.
fn nearest_of<T>(list: &OneOf<T>, compare: impl FnMut(&T) -> Match) -> Match {
    list.iter().map(compare).min_by_key(Match::distance).unwrap_or_default()
}

impl Match {
    fn test<T: fmt::Display>(
        &mut self,
        what: &'static str,
        list: Option<&OneOf<T>>,
        value: &impl fmt::Display,
        holds: impl Fn(&T) -> bool,
    ) {
        if let Some(list) = list {
            let missed = !list.iter().any(holds);
            self.note(what, missed.then(|| format!("{what} {} is not in {}", shown(value), listed(list))));
        }
    }

    fn note(&mut self, what: &'static str, miss: Option<String>) {
        match miss {
            Some(miss) => self.missed.push(miss),
            None => self.held.push(what),
        }
    }

    fn add(&mut self, other: Self) {
        self.held.extend(other.held);
        self.missed.extend(other.missed);
        self.foreign |= other.foreign;
    }

    /// A rule for this caller is nearer than one for another; then the fewest misses, then the most that held.
    fn distance(&self) -> (bool, usize, Reverse<usize>) {
        (self.foreign, self.missed.len(), Reverse(self.held.len()))
    }

    fn sentence(&self, rule: &CompiledRule) -> String {
        let missed = self.missed.join(" and ");
        let CompiledRule { name, policy, .. } = rule;
        match self.held.split_last() {
            None => format!("rule {name} of {policy}: {missed}"),
            Some((last, [])) => format!("rule {name} of {policy} matched {last}, {missed}"),
            Some((last, first)) => {
                format!("rule {name} of {policy} matched {} and {last}, {missed}", first.join(", "))
            }
        }
    }
}

/// A value of the request: what a stranger sent, without control characters and no longer than a line.
fn shown(value: &impl fmt::Display) -> String {
    const SHOWN: usize = 120;
    let text = value.to_string();
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut line: String = text.chars().take(SHOWN).map(clean).collect();
    if text.chars().nth(SHOWN).is_some() {
        line.push('…');
    }
    line
}

fn listed<T: fmt::Display>(list: &OneOf<T>) -> String {
    let mut words: Vec<String> = list.iter().take(limits::SHOWN_VALUES).map(ToString::to_string).collect();
    if list.len() > limits::SHOWN_VALUES {
        words.push("…".to_owned());
    }
    format!("[{}]", words.join(", "))
}

impl fmt::Display for Explanation<'_> {
    /// "allowed by rule orders-charge of shop/payments-callers (policies/payments.yaml:9)", or why not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decision { verdict, code, policy, rule, source, .. } = &self.decision;
        match (verdict, code) {
            (Verdict::Allow, _) => f.write_str("allowed")?,
            (Verdict::Deny, Some(code)) => write!(f, "{code} {}", code.title())?,
            (Verdict::Deny, None) => f.write_str("denied")?,
        }
        match (rule, policy) {
            (Some(rule), Some(policy)) => write!(f, " by rule {rule} of {policy}")?,
            (None, Some(policy)) => write!(f, " by {policy}")?,
            _ => {}
        }
        if let Some(source) = source {
            write!(f, " ({source})")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "; nearest: {nearest}")?;
        }
        self.decision.fmt_shadow(f)
    }
}

impl Decision<'_> {
    /// "; would be denied by rule admin of shop/tighter", where the shadow policies would decide otherwise.
    fn fmt_shadow(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shadow.filter(|shadow| *shadow != self.verdict) {
            None => return Ok(()),
            Some(Verdict::Allow) => f.write_str("; would be allowed")?,
            Some(Verdict::Deny) => f.write_str("; would be denied")?,
        }
        match (self.shadow_rule, self.shadow_policy) {
            (Some(rule), Some(policy)) => write!(f, " by rule {rule} of {policy}"),
            (None, Some(policy)) => write!(f, " by {policy}"),
            (_, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
