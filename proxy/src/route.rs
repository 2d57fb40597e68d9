//! What becomes of a request to a service that has routes: a checked request goes in; the rule that matches, and then a
//! changed request with the service that gets it, or an answer of this sidecar itself, come out. A request that no rule
//! matches is refused, and so is one whose backend is not known. Rules match what was checked and nothing else, and
//! what they change goes through the same checks, so what the called service's policy judges is what was matched here.

mod chance;
mod change;
mod fault;
mod mirror;
mod query;
mod redirect;
mod table;

use std::{pin::Pin, sync::Arc, time::Duration};

use http_body::Body;
use sidegate_codes::Code;

use crate::{
    config::{Backend, Limits, PathMode, RouteAction, RouteRule, ServiceName},
    error::Error,
    http::Checked,
    snapshot::{Service, Snapshot},
    upstream::Answer,
};

pub(crate) use chance::Chance;
pub(crate) use fault::{inject, warn_of_faults};
pub(crate) use mirror::{Copies, mirror};
pub(crate) use table::{Asking, Matched, RouteTable, is_matched};

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sends<'a> {
    pub(crate) name: &'a ServiceName,
    pub(crate) service: &'a Service,
    /// What chose this service, where it is a backend.
    pub(crate) backend: Option<&'a Backend>,
}

/// The rule for `request` among the routes of `service`. `None`: it has none, and takes every request as it is.
pub(crate) fn rule<'a, B: Body>(
    name: &ServiceName,
    service: &'a Service,
    request: &Checked<B>,
) -> Result<Option<Matched<'a>>, Error> {
    let Some(routes) = &service.routes else { return Ok(None) };
    routes.find(&request.asking()).map(Some).ok_or_else(|| Error::NoRoute(name.to_string()))
}

/// The answer of a rule that redirects `request`.
pub(crate) fn answer<B: Body>(matched: &Matched<'_>, request: &Checked<B>) -> Result<Option<Answer>, Error> {
    match &matched.rule.action {
        RouteAction::Forward { .. } => Ok(None),
        RouteAction::Redirect(redirect) => redirect::answer(redirect, matched.prefix, request).map(Some),
    }
}

/// Which service gets a request of this rule, `called` or a backend.
pub(crate) fn backend<'a>(
    rule: &'a RouteRule,
    called: (&'a ServiceName, &'a Service),
    snapshot: &'a Snapshot,
    chance: &Chance,
) -> Result<Sends<'a>, Error> {
    let RouteAction::Forward { backends, .. } = &rule.action else {
        return Ok(Sends { name: called.0, service: called.1, backend: None });
    };
    if backends.is_empty() {
        return Ok(Sends { name: called.0, service: called.1, backend: None });
    }
    let backend = weighted(backends, chance).ok_or_else(|| Error::NoBackend {
        rule: Arc::clone(&rule.name),
        detail: "no backend has a weight".to_owned(),
    })?;
    let service = snapshot.services.get(&backend.service).ok_or_else(|| Error::NoBackend {
        rule: Arc::clone(&rule.name),
        detail: format!("backend {} is unknown", backend.service),
    })?;
    Ok(Sends { name: &backend.service, service, backend: Some(backend) })
}

/// Makes of `request` what the backend is sent. The peer's policy judges the result.
pub(crate) fn change<B: Body>(
    request: &mut Checked<B>,
    matched: &Matched<'_>,
    backend: Option<&Backend>,
    paths: PathMode,
    limits: &Limits,
) -> Result<(), Error> {
    change::headers(request.headers_mut(), &matched.rule.request_headers);
    if let Some(backend) = backend {
        change::headers(request.headers_mut(), &backend.request_headers);
    }
    let RouteAction::Forward { rewrite, .. } = &matched.rule.action else { return Ok(()) };
    let path = rewrite.path.as_ref().and_then(|to| change::path(request.path(), matched.prefix, to));
    request.rewrite(rewrite.hostname.as_deref(), path, paths, limits)
}

/// Makes of an answer what the application gets.
pub(crate) fn changed(mut answer: Answer, rule: &RouteRule, backend: Option<&Backend>) -> Answer {
    let fields = answer.response.headers_mut();
    if let Some(backend) = backend {
        change::headers(fields, &backend.response_headers);
    }
    change::headers(fields, &rule.response_headers);
    answer
}

/// Gives up what takes longer than the rule allows. Pinned by the caller: as a value it would be held twice.
pub(crate) async fn within<T>(
    limit: Option<Duration>,
    doing: Pin<&mut impl Future<Output = Result<T, Error>>>,
) -> Result<T, Error> {
    let Some(limit) = limit else { return doing.await };
    tokio::time::timeout(limit, doing).await.unwrap_or_else(|_| {
        Err(Error::Upstream {
            code: Code::RouteTimeout,
            detail: format!("no answer within {}", humantime::format_duration(limit)),
        })
    })
}

/// One of `backends`, by their weights. `None`: none has any.
fn weighted<'a>(backends: &'a [Backend], chance: &Chance) -> Option<&'a Backend> {
    let sum: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let mut left = chance.below(sum)?;
    backends.iter().find(|backend| match left.checked_sub(u64::from(backend.weight)) {
        None => true,
        Some(rest) => {
            left = rest;
            false
        }
    })
}

#[cfg(test)]
mod tests;
