//! The routes of a service as the rest of the sidecar reads them, in the words of `HTTPRoute` (Gateway API v1). Whatever
//! could not be sent, matched or told apart is refused while the file is read, so nothing here is checked again.

mod faults;
mod file;
mod filters;
mod matches;
mod retries;

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{Host, Rate, ServiceName};

pub use retries::{RouteRetries, Statuses};

pub(super) use file::{RouteFile, few, listed, resolve, rule_name};
pub(super) use matches::{MatchFile, matches};

/// A rule: which requests, and what becomes of them. Among several the most specific match decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRule {
    /// What logs and metrics call it; unique within its service.
    pub name: Arc<str>,
    /// One of them must be the request's host. Empty: any host.
    pub hostnames: Vec<Host>,
    /// One of them must match; never empty.
    pub matches: Vec<RouteMatch>,
    /// What changes in the header fields of the request.
    pub request_headers: HeaderChanges,
    /// What changes in the header fields of the answer.
    pub response_headers: HeaderChanges,
    /// Where copies go.
    pub mirrors: Vec<Mirror>,
    /// What becomes of the request.
    pub action: RouteAction,
    /// How long it may take.
    pub timeouts: RouteTimeouts,
    /// What is tried again. `None`: as the service says.
    pub retries: Option<RouteRetries>,
    /// How many requests it takes. `None`: any number.
    pub rate: Option<Rate>,
    /// What goes wrong on purpose.
    pub faults: Option<Faults>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    /// What the path must be.
    pub path: PathMatch,
    /// What the method must be, exactly. `None`: any.
    pub method: Option<Method>,
    /// Header fields, each there once with exactly this value.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Query parameters, decoded, the first of its name with exactly this value.
    pub query: Vec<(String, String)>,
}

/// What a path must be. Both hold a canonical path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This one.
    Exact(String),
    /// This one or one below it, by whole segments. Without its trailing slash; empty: any path.
    Prefix(String),
}

/// Header fields that are set, added and removed; no field twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// In place of what is there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Beside what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Taken out.
    pub remove: Vec<HeaderName>,
}

/// What becomes of a request that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// It is sent on.
    Forward {
        /// Under another host or path.
        rewrite: Rewrite,
        /// To one of these, by their weights. Empty: to the service that was called.
        backends: Vec<Backend>,
    },
    /// The application is told to ask elsewhere.
    Redirect(Redirect),
}

/// A host and path in place of those that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The host, without a port.
    pub hostname: Option<String>,
    /// The path; the query stays.
    pub path: Option<PathChange>,
}

/// Another path. Both hold a canonical path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// This one.
    Full(String),
    /// In place of the prefix that matched. Without its trailing slash; empty: nothing in its place.
    Prefix(String),
}

/// A service that requests are sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its own identities and endpoints count; its own routes do not.
    pub service: ServiceName,
    /// Its share of the sum. 0: none.
    pub weight: u32,
    /// What else changes in the header fields of the request.
    pub request_headers: HeaderChanges,
    /// What else changes in the header fields of the answer.
    pub response_headers: HeaderChanges,
}

/// Where the application is told to ask. What is `None` stays as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<&'static str>,
    /// The host.
    pub hostname: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The path; the query stays.
    pub path: Option<PathChange>,
    /// A status of redirection.
    pub status: StatusCode,
}

/// A service that gets copies of requests; what it answers is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where to.
    pub service: ServiceName,
    /// How many of the requests.
    pub share: Share,
}

/// So many of so many, at most all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Of these.
    pub numerator: u32,
    /// Never 0.
    pub denominator: u32,
}

/// How long a request of a rule may take. `None`: what `limits` say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// The whole, other tries included.
    pub request: Option<Duration>,
    /// One try; at most the whole.
    pub backend_request: Option<Duration>,
}

/// What goes wrong on purpose, to see what a caller does about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// So many wait so long before they are sent.
    pub delay: Option<(Share, Duration)>,
    /// So many are answered so and never sent.
    pub abort: Option<(Share, StatusCode)>,
}

impl RouteRule {
    /// Every other service that requests of this rule are sent to, copies included.
    pub fn backends(&self) -> impl Iterator<Item = &ServiceName> {
        let backends = match &self.action {
            RouteAction::Forward { backends, .. } => backends.as_slice(),
            RouteAction::Redirect(_) => &[],
        };
        let backends = backends.iter().map(|backend| &backend.service);
        backends.chain(self.mirrors.iter().map(|mirror| &mirror.service))
    }
}

impl Share {
    /// So many of a hundred.
    pub(super) const fn percent(numerator: u32) -> Self {
        Self { numerator, denominator: 100 }
    }
}

#[cfg(test)]
mod tests;
