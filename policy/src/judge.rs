//! Receives a request whose peer is verified and whose path is normalised; hands on the verdict of the first stage
//! that decides: verified peer, or an exception → Deny → Require → Allow → denied. Allocates nothing, but for `rego`.
//!
//! A condition on HTTP cannot be answered for an opaque connection, nor one on a server name where none is known, nor a
//! `jwt` or `when` that asks for what is missing. Such doubt denies: it fires a Deny, fails a Require, and is no match for an
//! Allow. The port is always known: a rule for another port is not in doubt.

use std::{net::IpAddr, sync::Arc};

use sidegate_codes::Code;
use sidegate_identity::SpiffeId;

use crate::{
    Claims, Headers, Policies,
    compile::{CompiledRule, Requirement, Stages},
    condition::Outcome,
    index::{Candidate, Clause, PeerTest, RuleIndex},
    model::Mode,
    values::PathPattern,
};

/// One request, or one opaque connection, to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who asks.
    pub source: Source<'a>,
    /// The application's port.
    pub port: u16,
    /// What is asked; `None` for an opaque connection.
    pub http: Option<Http<'a>>,
    /// Of an opaque connection that begins TLS of the application's own: the server name (SNI), in lower case. `None` where
    /// it is not known, be it because the client names none.
    pub sni: Option<&'a str>,
    /// Seconds since the Unix epoch.
    pub now: u64,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The identity verified by mutual TLS; `None` for what came without.
    pub identity: Option<&'a SpiffeId>,
    /// The address from which the connection comes.
    pub ip: IpAddr,
}

/// What an HTTP request asks.
#[derive(Clone, Copy, Debug)]
pub struct Http<'a> {
    /// As received: methods are case-sensitive.
    pub method: &'a str,
    /// Without port; its case does not matter.
    pub host: &'a str,
    /// Normalised, without query.
    pub path: &'a str,
    /// As they are forwarded.
    pub headers: &'a dyn Headers,
    /// What the token says that came with it, verified; `None` if there is none.
    pub claims: Option<&'a Claims>,
}

/// Whether the request goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the application.
    Allow,
    /// Nowhere.
    Deny,
}

/// A verdict and who decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'p> {
    /// What is to be done.
    pub verdict: Verdict,
    /// `SG0201` to `SG0206`, or `SG0220`; `None` when allowed.
    pub code: Option<Code>,
    /// `namespace/name` of the policy that decided.
    pub policy: Option<&'p Arc<str>>,
    /// The rule that decided. A Require policy that is not met names none.
    pub rule: Option<&'p Arc<str>>,
    /// The pattern that the path matched, if the rule that decided has paths.
    pub path_pattern: Option<&'p Arc<str>>,
    /// Where that rule, or else that policy, is written: `policies/payments.yaml:12`.
    pub source: Option<&'p Arc<str>>,
    /// What the verdict would be if the shadow policies were enforced too; `None` if there are none.
    pub shadow: Option<Verdict>,
    /// The shadow policy that decides `shadow`: who would deny, or allow. `None` where an enforced policy decides it,
    /// or none does.
    pub shadow_policy: Option<&'p Arc<str>>,
    /// The rule of that policy; a Require policy that is not met names none.
    pub shadow_rule: Option<&'p Arc<str>>,
}

/// What decides a stage.
pub(crate) enum Found<'p> {
    Match(&'p Clause),
    /// Nothing matches for certain, this perhaps.
    Doubt(&'p Clause),
    Nothing,
}

impl Policies {
    /// Judges one request.
    pub fn judge(&self, request: &Request<'_>) -> Decision<'_> {
        let decision = self.enforced.judge(request);
        let Some(trial) = self.trial.as_ref().map(|trial| trial.judge(request)) else {
            return decision;
        };
        Decision {
            shadow: Some(trial.verdict),
            shadow_policy: trial.shadow_policy,
            shadow_rule: trial.shadow_rule,
            ..decision
        }
    }
}

impl Stages {
    pub(crate) fn judge(&self, request: &Request<'_>) -> Decision<'_> {
        let caller = request.source.identity;
        if caller.is_none() {
            return self.judge_plaintext(request);
        }
        if !self.selected {
            return Decision::denied(Code::NoPolicy);
        }
        self.forbidden(caller, request)
            .or_else(|| self.unmet(caller, request))
            .unwrap_or_else(|| self.permitted(caller, request))
    }

    pub(crate) fn forbidden(&self, caller: Option<&SpiffeId>, request: &Request<'_>) -> Option<Decision<'_>> {
        match self.deny.find(caller, request) {
            Found::Match(clause) => Some(Decision::denied(Code::DeniedByRule).by(clause)),
            Found::Doubt(clause) => Some(Decision::undecided(clause)),
            Found::Nothing => None,
        }
    }

    pub(crate) fn unmet(&self, caller: Option<&SpiffeId>, request: &Request<'_>) -> Option<Decision<'_>> {
        self.require.iter().find_map(|requirement| match requirement.rules.find(caller, request) {
            Found::Match(_) => None,
            Found::Doubt(clause) => Some(Decision::undecided(clause)),
            Found::Nothing => Some(Decision::denied(Code::RequirementNotMet).unmet(requirement)),
        })
    }

    fn permitted(&self, caller: Option<&SpiffeId>, request: &Request<'_>) -> Decision<'_> {
        match self.allow.find(caller, request) {
            Found::Match(clause) => Decision::ALLOWED.by(clause),
            Found::Doubt(_) | Found::Nothing => Decision::denied(Code::NoRuleMatched),
        }
    }
}

impl RuleIndex {
    /// The first rule that matches, or else the first that cannot be decided.
    pub(crate) fn find(&self, caller: Option<&SpiffeId>, request: &Request<'_>) -> Found<'_> {
        if self.is_empty() {
            return Found::Nothing;
        }
        let mut first = First { caller, request, found: None, doubt: None };
        self.visit_matches(caller, request, |candidates| first.offer(candidates));
        if first.found.is_none() && request.http.is_none() {
            self.visit_doubtful(caller, request.port, |candidates| first.offer(candidates));
        }
        match (first.found, first.doubt) {
            (Some(candidate), _) => Found::Match(&candidate.clause),
            (None, Some(candidate)) => Found::Doubt(&candidate.clause),
            (None, None) => Found::Nothing,
        }
    }
}

/// Of all candidates offered, the first that matches, and the first that cannot be decided.
struct First<'r, 'p> {
    caller: Option<&'r SpiffeId>,
    request: &'r Request<'r>,
    found: Option<&'p Candidate>,
    doubt: Option<&'p Candidate>,
}

impl<'p> First<'_, 'p> {
    /// Takes a list that is in the order of candidates.
    fn offer(&mut self, candidates: &'p [Candidate]) {
        let bound = self.found.map_or(usize::MAX, |found| found.rank);
        for candidate in candidates.iter().take_while(|candidate| candidate.rank < bound) {
            match candidate.outcome(self.caller, self.request) {
                Outcome::No => {}
                Outcome::Unknown => {
                    let is_first = self.doubt.is_none_or(|doubt| candidate.rank < doubt.rank);
                    self.doubt = if is_first { Some(candidate) } else { self.doubt };
                }
                Outcome::Yes => {
                    self.found = Some(candidate);
                    return;
                }
            }
        }
    }
}

impl Candidate {
    fn outcome(&self, caller: Option<&SpiffeId>, request: &Request<'_>) -> Outcome {
        let takes_peer = |test: &Arc<PeerTest>| test.takes(caller, request.source.ip);
        let clause = &self.clause;
        if !self.peer.as_ref().is_none_or(takes_peer)
            || clause.expires.is_some_and(|day| day.has_begun(request.now))
        {
            return Outcome::No;
        }
        let asked =
            clause.asked(request).and(|| clause.jwt.as_ref().map_or(Outcome::Yes, |jwt| jwt.judge(request)));
        // Last, because they cost the most.
        asked
            .and(|| clause.when.as_ref().map_or(Outcome::Yes, |when| when.judge(caller, request)))
            .and(|| clause.rego.as_ref().map_or(Outcome::Yes, |rego| rego.judge(caller, request)))
    }
}

impl Clause {
    /// Whether it is about what is asked, port and path aside.
    fn asked(&self, request: &Request<'_>) -> Outcome {
        match (request.http, &self.server_names, request.sni) {
            // HTTP that the sidecar reads is not in TLS of the application's own: that much is known.
            (Some(_), Some(_), _) => Outcome::No,
            (Some(http), None, _) => Outcome::of(self.takes(http)),
            (None, None, _) if self.asks_http() => Outcome::Unknown,
            (None, None, _) => Outcome::Yes,
            (None, Some(_), None) => Outcome::Unknown,
            (None, Some(names), Some(sni)) => Outcome::of(names.iter().any(|name| name.matches(sni))),
        }
    }

    /// By its path the index found the clause.
    fn takes(&self, http: Http<'_>) -> bool {
        any_of(self.methods.as_ref(), |method| method.matches(http.method))
            && any_of(self.hosts.as_ref(), |host| host.matches(http.host))
    }
}

/// Whether one of the list holds, or none is asked for.
fn any_of<T>(list: Option<&Arc<[T]>>, holds: impl Fn(&T) -> bool) -> bool {
    list.is_none_or(|list| list.iter().any(holds))
}

impl<'p> Decision<'p> {
    pub(crate) const ALLOWED: Self = Self {
        verdict: Verdict::Allow,
        code: None,
        policy: None,
        rule: None,
        path_pattern: None,
        source: None,
        shadow: None,
        shadow_policy: None,
        shadow_rule: None,
    };

    /// Refused for a reason of no rule.
    pub const fn denied(code: Code) -> Self {
        Self { verdict: Verdict::Deny, code: Some(code), ..Self::ALLOWED }
    }

    /// No pattern: none was matched.
    fn undecided(clause: &'p Clause) -> Self {
        Self { path_pattern: None, ..Self::denied(Code::Undecidable).by(clause) }
    }

    pub(crate) fn by(self, clause: &'p Clause) -> Self {
        let CompiledRule { policy, mode, name, source, .. } = &*clause.rule;
        let is_shadow = *mode == Mode::Shadow;
        Self {
            shadow_policy: is_shadow.then_some(policy),
            shadow_rule: is_shadow.then_some(name),
            policy: Some(policy),
            rule: Some(name),
            path_pattern: clause.path.as_ref().map(PathPattern::shared),
            source: Some(source),
            ..self
        }
    }

    /// No rule: it is for lack of one that the policy denies.
    fn unmet(self, requirement: &'p Requirement) -> Self {
        let Requirement { policy, mode, source, .. } = requirement;
        Self {
            policy: Some(policy),
            source: Some(source),
            shadow_policy: (*mode == Mode::Shadow).then_some(policy),
            ..self
        }
    }
}
