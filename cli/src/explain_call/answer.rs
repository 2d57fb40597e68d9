//! A decision told to a person: who decided, what came nearest, what to change.

use std::{fmt::Write, sync::Arc};

use serde_json::json;
use sidegate_codes::Code;
use sidegate_identity::SpiffeId;
use sidegate_policy::{Decision, Explanation, Request, Verdict};

use super::in_force::InForce;
use crate::{
    policy::{
        called::Called,
        files::{self, Policies},
    },
    short,
    terminal::{Charset, Paint, paint},
};

/// All that is told.
pub(super) struct Answer<'a> {
    /// `None`: somebody without TLS.
    pub(super) source: Option<&'a SpiffeId>,
    pub(super) called: &'a Called,
    pub(super) asked: String,
    /// `None`: judged on files.
    pub(super) in_force: Option<&'a InForce>,
    /// Whom nobody speaks with, of the two.
    pub(super) quarantined: Option<&'a SpiffeId>,
    pub(super) explanation: Explanation<'a>,
    /// Where the rule that came nearest is written.
    pub(super) nearest_at: Option<Arc<str>>,
}

impl Answer<'_> {
    fn decision(&self) -> &Decision<'_> {
        &self.explanation.decision
    }

    pub(super) fn document(&self, request: &Request<'_>) -> serde_json::Value {
        let Decision {
            verdict,
            code,
            policy,
            rule,
            path_pattern,
            source,
            shadow,
            shadow_policy,
            shadow_rule,
        } = self.decision();
        let headers = request.http.map(|http| {
            let mut fields = Vec::new();
            http.headers.visit(&mut |name, value| {
                fields.push(json!({"name": name, "value": String::from_utf8_lossy(value)}));
            });
            fields
        });
        let claims = request.http.and_then(|http| http.claims).map(sidegate_policy::Claims::as_json);
        let claims = claims.map(|json| serde_json::from_str::<serde_json::Value>(json).unwrap_or_default());
        json!({
            "verdict": word(*verdict), "code": code.map(Code::id), "policy": policy, "rule": rule,
            "pattern": path_pattern, "at": source,
            "nearest": self.explanation.nearest, "nearestAt": self.nearest_at, "change": self.change(),
            "shadow": shadow.map(word), "shadowPolicy": shadow_policy, "shadowRule": shadow_rule,
            "inForce": self.in_force,
            "request": {
                "source": self.source.map(SpiffeId::as_str), "destination": self.called.identity.as_str(),
                "labels": self.called.labels,
                "method": request.http.map(|http| http.method), "path": request.http.map(|http| http.path),
                "host": request.http.map(|http| http.host), "headers": headers, "claims": claims,
                "port": Some(request.port).filter(|port| *port > 0),
            },
        })
    }

    pub(super) fn text(&self, read: &Policies) -> String {
        let Decision { verdict, code, source, .. } = *self.decision();
        let verdict = match verdict {
            Verdict::Allow => paint(Paint::Good, "ALLOW"),
            Verdict::Deny => paint(Paint::Bad, "DENY"),
        };
        let (from, to) =
            (files::caller(&self.caller()), short::identity(Some(self.called.identity.as_str())));
        let arrow = match Charset::from_env() {
            Charset::Unicode => "→",
            Charset::Ascii => "->",
        };
        let code = code.map_or_else(String::new, |code| format!("  {code}"));
        let mut text = format!("{verdict}  {from} {arrow} {to}  {}{code}\n", self.asked);
        let nearest = self.explanation.nearest.clone();
        let lines = [
            ("caller", Some(self.caller()), None),
            ("called", Some(self.called.to_string()), None),
            ("judged on", self.in_force.map(ToString::to_string), None),
            ("decided by", Some(self.decided_by()), source),
            ("nearest", nearest, self.nearest_at.as_ref()),
            ("shadow", shadow(self.decision()), None),
            ("to allow", self.change(), None),
        ];
        for (label, value, place) in lines {
            let Some(value) = value else { continue };
            let at = place.map_or_else(String::new, |place| format!(" ({place})"));
            let _ = writeln!(text, "  {}  {value}{at}", paint(Paint::Dim, &format!("{label:<10}")));
            text.push_str(&place.map_or_else(String::new, |place| read.snippet(place)));
        }
        text
    }

    fn caller(&self) -> String {
        self.source.map_or_else(|| files::PLAINTEXT.to_owned(), ToString::to_string)
    }

    fn decided_by(&self) -> String {
        let Decision { code, policy, rule, .. } = *self.decision();
        if let Some(quarantined) = self.quarantined {
            return format!("the quarantine of {quarantined}");
        }
        match (rule, policy) {
            (Some(rule), Some(policy)) => format!("rule {rule} of {policy}"),
            (None, Some(policy)) => format!("policy {policy}, none of whose rules matches"),
            _ => code.map_or("no rule", Code::title).to_owned(),
        }
    }

    /// What to change for the call to be let in.
    fn change(&self) -> Option<String> {
        let Decision { code, policy, source, .. } = *self.decision();
        let at = |place: Option<&Arc<str>>| place.map_or_else(String::new, |place| format!(" at {place}"));
        let called = &self.called;
        Some(match code? {
            Code::NoPolicy => {
                format!("write an Allow policy in namespace {} that selects {called}", called.namespace)
            }
            Code::DeniedByRule => {
                format!("narrow or remove the Deny rule{}; no Allow overrides it", at(source))
            }
            Code::RequirementNotMet => match (&self.nearest_at, policy) {
                (Some(nearest), _) => {
                    format!("widen the rule at {nearest}, or add one to that Require policy")
                }
                (None, policy) => format!(
                    "add a rule to the Require policy {}{}",
                    policy.map_or("", |policy| policy),
                    at(source)
                ),
            },
            Code::NoRuleMatched => match &self.nearest_at {
                Some(nearest) => {
                    format!("widen the rule at {nearest} by what it missed, or add an Allow rule")
                }
                None => format!("add an Allow rule for {} to a policy that selects {called}", self.caller()),
            },
            Code::NoVerifiedPeer => match &self.nearest_at {
                Some(nearest) => {
                    format!("call with TLS, or widen the exception at {nearest} by what it missed")
                }
                None => format!("call with TLS, or write a PlaintextException that selects {called}"),
            },
            Code::Undecidable => format!(
                "send what the rule{} asks for (--method, --path, --header, --claim), or let it ask for less",
                at(source)
            ),
            code => code.next_step().to_owned(),
        })
    }
}

pub(super) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "Allow",
        Verdict::Deny => "Deny",
    }
}

/// What the policies in `mode: Shadow` would make of it, if that differs.
pub(super) fn shadow(decision: &Decision<'_>) -> Option<String> {
    let Decision { verdict, shadow, shadow_policy, shadow_rule, .. } = *decision;
    let would = match shadow.filter(|shadow| *shadow != verdict)? {
        Verdict::Allow => "would be allowed",
        Verdict::Deny => "would be denied",
    };
    let rule = shadow_rule.map_or_else(String::new, |rule| format!("rule {rule} of "));
    Some(match shadow_policy {
        Some(policy) => format!("{would} by {rule}{policy}"),
        None => would.to_owned(),
    })
}

/// Where the rule is written with which a nearest miss begins: one of `rules`, by policy and name.
pub(super) fn rule_at<'r>(
    nearest: &str,
    mut rules: impl Iterator<Item = (&'r str, &'r str, &'r Arc<str>)>,
) -> Option<Arc<str>> {
    let begins = |policy: &str, rule: &str| {
        let rest = nearest.strip_prefix(&format!("rule {rule} of {policy}"));
        rest.is_some_and(|rest| rest.starts_with(' ') || rest.starts_with(':'))
    };
    rules.find(|(policy, rule, _)| begins(policy, rule)).map(|(_, _, source)| Arc::clone(source))
}
