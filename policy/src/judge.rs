//! Receives a request whose peer is verified and whose path is normalised; hands on the verdict of the first stage
//! that decides: verified peer → Deny → Require → Allow → denied. Allocates nothing.
//!
//! A condition on HTTP cannot be answered for an opaque connection. Such doubt denies: it fires a Deny, fails a
//! Require, and is no match for an Allow.

use std::{net::IpAddr, sync::Arc};

use sidegate_codes::Code;
use sidegate_identity::SpiffeId;

use crate::{
    Policies,
    compile::{Candidate, CompiledRule, PeerTest, RuleIndex, Stages},
    model::Operation,
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
    /// Seconds since the Unix epoch.
    pub now: u64,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The identity verified by mutual TLS.
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
    /// `SG0201` to `SG0206`; `None` when allowed.
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
}

/// Whether a condition holds. The order is that of growing truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome<'p> {
    No,
    /// The request does not have what the condition asks for.
    Unknown,
    /// With the pattern that the path matched, where there are paths.
    Yes(Option<&'p PathPattern>),
}

/// The rule that decides a stage.
enum Found<'p> {
    Match(&'p CompiledRule, Option<&'p PathPattern>),
    /// No rule matches for certain, this one perhaps.
    Doubt(&'p CompiledRule),
    Nothing,
}

impl Policies {
    /// Judges one request.
    pub fn judge(&self, request: &Request<'_>) -> Decision<'_> {
        let shadow = self.trial.as_ref().map(|trial| trial.judge(request).verdict);
        Decision {
            shadow,
            ..self.enforced.judge(request)
        }
    }
}

impl Stages {
    pub(crate) fn judge(&self, request: &Request<'_>) -> Decision<'_> {
        let Some(caller) = request.source.identity else {
            return Decision::denied(Code::NoVerifiedPeer);
        };
        if !self.selected {
            return Decision::denied(Code::NoPolicy);
        }
        self.forbidden(caller, request)
            .or_else(|| self.unmet(caller, request))
            .unwrap_or_else(|| self.permitted(caller, request))
    }

    fn forbidden(&self, caller: &SpiffeId, request: &Request<'_>) -> Option<Decision<'_>> {
        match self.deny.find(caller, request) {
            Found::Match(rule, pattern) => Some(Decision::denied(Code::DeniedByRule).by(rule, pattern)),
            Found::Doubt(rule) => Some(Decision::denied(Code::Undecidable).by(rule, None)),
            Found::Nothing => None,
        }
    }

    fn unmet(&self, caller: &SpiffeId, request: &Request<'_>) -> Option<Decision<'_>> {
        self.require
            .iter()
            .find_map(|requirement| match requirement.rules.find(caller, request) {
                Found::Match(..) => None,
                Found::Doubt(rule) => Some(Decision::denied(Code::Undecidable).by(rule, None)),
                Found::Nothing => Some(Decision {
                    policy: Some(&requirement.policy),
                    source: Some(&requirement.source),
                    ..Decision::denied(Code::RequirementNotMet)
                }),
            })
    }

    fn permitted(&self, caller: &SpiffeId, request: &Request<'_>) -> Decision<'_> {
        match self.allow.find(caller, request) {
            Found::Match(rule, pattern) => Decision::ALLOWED.by(rule, pattern),
            Found::Doubt(_) | Found::Nothing => Decision::denied(Code::NoRuleMatched),
        }
    }
}

impl RuleIndex {
    /// The first rule that matches, or else the first that cannot be decided.
    fn find(&self, caller: &SpiffeId, request: &Request<'_>) -> Found<'_> {
        let mut found = Found::Nothing;
        for candidate in self.candidates(caller) {
            match (candidate.outcome(caller, request), &found) {
                (Outcome::Yes(pattern), _) => return Found::Match(&candidate.rule, pattern),
                (Outcome::Unknown, Found::Nothing) => found = Found::Doubt(&candidate.rule),
                (Outcome::Unknown | Outcome::No, _) => {}
            }
        }
        found
    }
}

impl Candidate {
    fn outcome(&self, caller: &SpiffeId, request: &Request<'_>) -> Outcome<'_> {
        if self.peer.takes(caller, request.source.ip) {
            self.rule.outcome(request)
        } else {
            Outcome::No
        }
    }
}

impl PeerTest {
    fn takes(&self, caller: &SpiffeId, ip: IpAddr) -> bool {
        let holds = |blocks: &Arc<[_]>| blocks.iter().any(|block: &crate::IpBlock| block.contains(ip));
        self.ip_blocks.as_ref().is_none_or(holds) && self.takes_identity(caller)
    }
}

impl CompiledRule {
    /// Whether the rule's operations and its date admit the request; the caller is already matched.
    fn outcome(&self, request: &Request<'_>) -> Outcome<'_> {
        if self.rule.expires.is_some_and(|day| day.has_begun(request.now)) {
            return Outcome::No;
        }
        let Some(operations) = &self.rule.to else {
            return Outcome::Yes(None);
        };
        let mut outcome = Outcome::No;
        for operation in operations.iter() {
            match operation.outcome(request) {
                Outcome::No => {}
                Outcome::Unknown => outcome = Outcome::Unknown,
                yes @ Outcome::Yes(_) => return yes,
            }
        }
        outcome
    }
}

impl Operation {
    fn outcome(&self, request: &Request<'_>) -> Outcome<'_> {
        // The port is always known: a rule for another port does not become doubtful for lack of HTTP.
        if self
            .ports
            .as_deref()
            .is_some_and(|ports| !ports.contains(&request.port))
        {
            return Outcome::No;
        }
        if self.methods.is_none() && self.hosts.is_none() && self.paths.is_none() {
            return Outcome::Yes(None);
        }
        request
            .http
            .map_or(Outcome::Unknown, |http| self.http_outcome(http))
    }

    fn http_outcome(&self, http: Http<'_>) -> Outcome<'_> {
        let method = self
            .methods
            .as_deref()
            .is_none_or(|list| list.iter().any(|it| it.matches(http.method)));
        let host = self
            .hosts
            .as_deref()
            .is_none_or(|list| list.iter().any(|it| it.matches(http.host)));
        if !method || !host {
            return Outcome::No;
        }
        match self.paths.as_deref() {
            None => Outcome::Yes(None),
            Some(paths) => match paths.iter().find(|pattern| pattern.matches(http.path)) {
                Some(pattern) => Outcome::Yes(Some(pattern)),
                None => Outcome::No,
            },
        }
    }
}

impl<'p> Decision<'p> {
    const ALLOWED: Self = Self {
        verdict: Verdict::Allow,
        code: None,
        policy: None,
        rule: None,
        path_pattern: None,
        source: None,
        shadow: None,
    };

    const fn denied(code: Code) -> Self {
        Self {
            verdict: Verdict::Deny,
            code: Some(code),
            ..Self::ALLOWED
        }
    }

    fn by(self, rule: &'p CompiledRule, pattern: Option<&'p PathPattern>) -> Self {
        Self {
            policy: Some(&rule.policy),
            rule: Some(&rule.name),
            path_pattern: pattern.map(PathPattern::shared),
            source: Some(&rule.source),
            ..self
        }
    }
}
