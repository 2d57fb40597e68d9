//! The verdict: takes a client, verified or excepted from that by policy, and what it asks for, hands on a [`Permit`] that
//! owns exactly that, or refuses with a [`Denial`] that names policy and rule. A permit can be made nowhere else, and the
//! application's side of `upstream` accepts nothing without one.

mod consent;
mod open;
mod permit;

use std::{
    borrow::Borrow,
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, StatusCode};
use http_body::Body;
use sidegate_codes::Code;
use sidegate_policy::{self as policy, Decision, Policies};

pub(crate) use consent::{Asker, Consent};
pub(crate) use open::{Open, Place as OpenPlace};
pub(crate) use permit::{Admission, Permit};

use crate::{
    config::Protocol,
    error::Error,
    external::External,
    http::Checked,
    identity::Client,
    jwt::{Token, Verified},
    snapshot::{Enforcement, Reader, Snapshot},
    telemetry::{Judgement, Verdict},
};

/// Where a request or connection comes from and which of the application's ports it goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) client: &'a Client,
    pub(crate) ip: IpAddr,
    /// The application's port.
    pub(crate) port: u16,
    /// What the port is declared to carry.
    pub(crate) protocol: Protocol,
    /// Of an opaque connection: the server name of the application's own TLS, where a policy asks for one.
    pub(crate) sni: Option<&'a str>,
}

/// What a request asked for, kept for as long as it is open: method, host and path in one text.
#[derive(Debug)]
pub(crate) struct Asked {
    text: Box<str>,
    host: usize,
    path: usize,
    /// A changed policy may ask for those that none asks for now.
    headers: Fields<HeaderMap>,
    token: Option<Arc<Verified>>,
    /// Who decided beside policy.
    external: Option<Arc<External>>,
}

/// Header fields as policy reads them.
#[derive(Clone)]
struct Fields<H>(H);

/// Why policy refused. The downstream never sees it; the log, the metrics and the ledger do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) code: Code,
    pub(crate) policy: Option<Arc<str>>,
    pub(crate) rule: Option<Arc<str>>,
    pub(crate) shadow: Option<Verdict>,
    /// The rule that came closest, and what kept it from matching.
    pub(crate) nearest: Option<String>,
    /// What an HTTP downstream is answered, where whoever decides beside policy has said so.
    pub(crate) status: Option<StatusCode>,
}

/// Judges one HTTP request, with the token that came with it, to which nobody beside policy objects.
pub(crate) fn request<B: Body>(
    caller: Caller<'_>,
    request: Checked<B>,
    token: &Token,
    consent: Consent,
    snapshot: &Snapshot,
) -> Result<Permit<Checked<B>>, Error> {
    let admission =
        consent.limit(judge_request(caller, &request, token, snapshot)?, caller.port, snapshot)?;
    Ok(Permit::new(request, caller.client.id().cloned(), admission))
}

/// Judges one opaque connection, before a byte of it is forwarded.
pub(crate) fn connection<S>(
    caller: Caller<'_>,
    stream: S,
    consent: Consent,
    snapshot: &Snapshot,
) -> Result<Permit<S>, Error> {
    let admission = consent.limit(judge(caller, None, snapshot)?, caller.port, snapshot)?;
    Ok(Permit::new(stream, caller.client.id().cloned(), admission))
}

fn judge_request<B: Body>(
    caller: Caller<'_>,
    request: &Checked<B>,
    token: &Token,
    snapshot: &Snapshot,
) -> Result<Admission, Error> {
    let headers = Fields(request.headers());
    let http = policy::Http {
        method: request.method(),
        host: request.host(),
        path: request.path(),
        headers: &headers,
        claims: token.verified().and_then(|token| token.claims(now())),
    };
    match token {
        Token::Refused(refusal) => {
            if caller.client.id().is_none() {
                // Without an identity an exception has to be for it, whatever is only observed.
                judge(caller, Some(http), snapshot)?;
            }
            refused(refusal.code(), refusal.to_string(), snapshot.enforcement)
        }
        Token::None | Token::Verified(_) => judge(caller, Some(http), snapshot),
    }
}

/// Ends when an open opaque connection would be admitted no longer: it is judged anew at each change and each second.
pub(crate) async fn until_denied(
    caller: Caller<'_>,
    external: Option<&Arc<External>>,
    mut changes: Reader,
) -> Error {
    loop {
        tokio::select! {
            () = changes.changed() => {}
            // Rules expire without a change.
            () = tokio::time::sleep(JUDGE_AGAIN) => {}
        }
        let snapshot = changes.load();
        let judged = consent::is_current(external, caller.port, &snapshot)
            .and_then(|()| judge(caller, None, &snapshot));
        if let Err(Error::Denied(denial)) = judged {
            return Error::Denied(Box::new(Denial { code: Code::CutByPolicy, ..*denial }));
        }
    }
}

fn judge(
    caller: Caller<'_>,
    http: Option<policy::Http<'_>>,
    snapshot: &Snapshot,
) -> Result<Admission, Error> {
    let request = policy::Request {
        source: policy::Source { identity: caller.client.id(), ip: caller.ip },
        port: caller.port,
        http,
        sni: caller.sni,
        now: now(),
    };
    let decision = undowngraded(snapshot.policies.judge(&request), caller, &request, &snapshot.policies);
    match (decision.verdict, snapshot.enforcement) {
        (policy::Verdict::Allow, _) => Ok(admission(&decision, Verdict::Allowed)),
        // What no exception is for is not let in to be observed: it would be plaintext that no policy names.
        (policy::Verdict::Deny, Enforcement::Observe) if decision.code != Some(Code::NoVerifiedPeer) => {
            Ok(admission(&decision, Verdict::WouldDeny))
        }
        (policy::Verdict::Deny, Enforcement::Enforce | Enforcement::Observe) => {
            Err(Error::Denied(Box::new(denial(&decision, &snapshot.policies, &request))))
        }
    }
}

/// Whoever brings a token that is not good is not judged as somebody without one, and whatever policies say does not count
/// against an objection.
fn refused(code: Code, nearest: String, enforcement: Enforcement) -> Result<Admission, Error> {
    match enforcement {
        Enforcement::Observe => Ok(Admission::new(Judgement {
            verdict: Verdict::WouldDeny,
            code: Some(code),
            policy: None,
            rule: None,
            route: None,
            shadow: None,
        })),
        Enforcement::Enforce => Err(Error::Denied(Box::new(Denial::of(code, nearest)))),
    }
}

/// On a port whose policies read HTTP nobody is admitted by not speaking it. A port that is declared `tcp` was said to speak
/// something else, and its policies to mean that.
fn undowngraded<'p>(
    decision: Decision<'p>,
    caller: Caller<'_>,
    request: &policy::Request<'_>,
    policies: &'p Policies,
) -> Decision<'p> {
    let is_admitted = decision.verdict == policy::Verdict::Allow;
    if !is_admitted || request.http.is_some() || caller.protocol == Protocol::Tcp {
        return decision;
    }
    match policies.http_rule(caller.port) {
        None => decision,
        Some(found) => Decision {
            verdict: policy::Verdict::Deny,
            code: Some(Code::OpaqueOnHttpPort),
            policy: Some(&found.policy),
            rule: Some(&found.rule),
            source: Some(&found.source),
            path_pattern: None,
            ..decision
        },
    }
}

fn admission(decision: &Decision<'_>, verdict: Verdict) -> Admission {
    Admission::new(judgement(decision, verdict))
}

/// A decision of policy as it is recorded.
pub(crate) fn judgement(decision: &Decision<'_>, verdict: Verdict) -> Judgement {
    Judgement {
        verdict,
        code: decision.code,
        policy: decision.policy.cloned(),
        rule: decision.rule.cloned(),
        route: decision.path_pattern.cloned(),
        shadow: decision.shadow.map(shadow),
    }
}

/// The explanation is the same walk once more, on the cold path.
fn denial(decision: &Decision<'_>, policies: &Policies, request: &policy::Request<'_>) -> Denial {
    Denial {
        // A denial always has a code; without one it is still a denial.
        code: decision.code.unwrap_or(Code::NoRuleMatched),
        policy: decision.policy.cloned(),
        rule: decision.rule.cloned(),
        shadow: decision.shadow.map(shadow),
        nearest: policies.explain(request).nearest,
        status: None,
    }
}

/// What shadow policies would have it, as it is recorded.
pub(crate) fn shadow(verdict: policy::Verdict) -> Verdict {
    match verdict {
        policy::Verdict::Allow => Verdict::Allowed,
        policy::Verdict::Deny => Verdict::Denied,
    }
}

/// A clock before 1970 reads as the end of time, where every Allow with an end has ended.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs())
}

impl Asked {
    /// As policy reads it.
    pub(crate) fn of<B: Body>(request: &Checked<B>, token: &Token, consent: &Consent) -> Self {
        let (method, host, path) = (request.method(), request.host(), request.path());
        let text = [method, host, path].concat().into_boxed_str();
        let headers = Fields(request.headers().clone());
        let token = token.verified().cloned();
        let external = consent.external().cloned();
        Self { text, host: method.len(), path: method.len() + host.len(), headers, token, external }
    }

    fn http(&self) -> policy::Http<'_> {
        let (rest, path) = self.text.split_at(self.path);
        let (method, host) = rest.split_at(self.host);
        // A token that has ended says nothing any more.
        let claims = self.token.as_ref().and_then(|token| token.claims(now()));
        policy::Http { method, host, path, headers: &self.headers, claims }
    }
}

impl<H: Borrow<HeaderMap>> policy::Headers for Fields<H> {
    fn visit<'h>(&'h self, field: &mut dyn FnMut(&'h str, &'h [u8])) {
        for (name, value) in self.0.borrow() {
            field(name.as_str(), value.as_bytes());
        }
    }
}

/// Without the values: tokens are among them.
impl<H: Borrow<HeaderMap>> fmt::Debug for Fields<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.borrow().keys()).finish()
    }
}

impl Denial {
    /// Of something else than a policy.
    pub(crate) fn of(code: Code, nearest: String) -> Self {
        Self { code, policy: None, rule: None, shadow: None, nearest: Some(nearest), status: None }
    }

    /// What an HTTP downstream is answered.
    pub(crate) fn status(&self) -> StatusCode {
        match self.code {
            Code::TokenRefused => StatusCode::UNAUTHORIZED,
            Code::TokenKeysUnknown | Code::ExternalUnavailable | Code::ExternalUnusable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => self.status.unwrap_or(StatusCode::FORBIDDEN),
        }
    }

    /// As it is recorded.
    pub(crate) fn judgement(&self) -> Judgement {
        Judgement {
            verdict: Verdict::Denied,
            code: Some(self.code),
            policy: self.policy.clone(),
            rule: self.rule.clone(),
            route: None,
            shadow: self.shadow,
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.code.title())?;
        if let (Some(policy), Some(rule)) = (&self.policy, &self.rule) {
            write!(f, " (rule {rule} of {policy})")?;
        }
        Ok(())
    }
}

/// How often what is open is judged again without a change: rules expire.
pub(crate) const JUDGE_AGAIN: Duration = Duration::from_secs(1);
