//! The shape of a service's routes in the file, and the step from it to typed rules.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Backend, Faults, PathMatch, RouteAction, RouteMatch, RouteRule, RouteTimeouts, Share,
    filters::{self, BackendFilterFile, FilterFile, Filters},
    retries::RouteRetriesFile,
};
use crate::{
    config::{Host, PathMode, duration, file::Faults as Found, rates::RateFile, schema, services},
    http::normalize,
};

/// A rule of a service's routes: which requests, and what becomes of them. Of the rules that match, the most specific
/// one decides: the longest hostname, an exact path before the longest prefix, then one with a method, then more
/// headers, then more query parameters, then the earlier one. A request that none matches is answered 404.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct RouteFile {
    /// What logs and metrics call it. Absent: `rule-1` and so on, by its place.
    name: Option<String>,
    /// Hosts, of which the request's must be one. Absent: any host.
    #[schemars(with = "Option<Vec<schema::Host>>")]
    hostnames: Option<Vec<String>>,
    /// Conditions, of which one must match. Absent: any request.
    matches: Option<Vec<MatchFile>>,
    /// What is changed, copied or answered.
    #[serde(default)]
    filters: Vec<FilterFile>,
    /// Services that requests are sent to, by weight. Absent: the service itself.
    backend_refs: Option<Vec<BackendFile>>,
    /// How long a request may take.
    #[serde(default)]
    timeouts: TimeoutsFile,
    /// What is tried again. Absent: what the service says.
    retries: Option<RouteRetriesFile>,
    /// How many requests it takes, over all endpoints; what is over it is answered 429. Absent: any number.
    rate_limit: Option<RateFile>,
    /// What goes wrong on purpose.
    faults: Option<FaultsFile>,
}

/// Conditions of which all must hold.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct MatchFile {
    /// What the path must be. Absent: any.
    path: Option<PathFile>,
    /// What the method must be, exactly. Absent: any.
    method: Option<String>,
    /// Header fields that must be there once, with exactly this value.
    #[serde(default)]
    headers: Vec<ValueFile>,
    /// Query parameters that must be there; of several of a name the first counts. They are compared decoded.
    #[serde(default)]
    query_params: Vec<ValueFile>,
}

/// What a path must be, in its plain form.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct PathFile {
    /// `Exact`: this path. `PathPrefix`: this one and all below it, by whole segments.
    #[serde(default)]
    r#type: PathKind,
    /// The path.
    value: String,
}

/// How a path is compared. There are no regular expressions: no two programs read them alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "path-match")]
enum PathKind {
    /// This path alone.
    Exact,
    /// This path and all below it, by whole segments; a trailing slash means nothing.
    #[default]
    PathPrefix,
    /// Refused.
    #[schemars(skip)]
    RegularExpression,
}

/// A name and its value.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct ValueFile {
    /// How the value is compared.
    #[serde(default)]
    r#type: ValueKind,
    /// The name.
    name: String,
    /// The value.
    value: String,
}

/// How a value is compared. There are no regular expressions: no two programs read them alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "value-match")]
enum ValueKind {
    /// By its bytes.
    #[default]
    Exact,
    /// Refused.
    #[schemars(skip)]
    RegularExpression,
}

/// A service that requests are sent to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct BackendFile {
    /// Its identities and endpoints count, its own routes do not. One that is not known answers 500 for its share.
    #[schemars(with = "schema::Name")]
    service: String,
    /// Its share of the sum of all weights. 0: none.
    #[serde(default = "one")]
    #[schemars(range(max = MOST_WEIGHT))]
    weight: u32,
    /// What is changed for this backend alone.
    #[serde(default)]
    filters: Vec<BackendFilterFile>,
}

/// How long a request may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct TimeoutsFile {
    /// From the request to the head of its answer, other tries included; never more than the service and
    /// `limits.responseTimeout` allow. Absent: what they allow.
    #[schemars(with = "Option<schema::Time>")]
    request: Option<String>,
    /// One try; at most `request`. Absent: what the service says.
    #[schemars(with = "Option<schema::Time>")]
    backend_request: Option<String>,
}

/// What goes wrong on purpose, to see what a caller does about it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct FaultsFile {
    /// Must be `true`: whoever reads this file sees that requests fail on purpose.
    #[serde(default)]
    for_tests: bool,
    /// Some wait before they are sent.
    delay: Option<DelayFile>,
    /// Some are answered at once and never sent.
    abort: Option<AbortFile>,
}

/// A wait before a request is sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct DelayFile {
    /// How many of the requests.
    #[schemars(range(max = 100))]
    percent: u32,
    /// How long; at most a minute.
    #[schemars(with = "schema::Time")]
    duration: String,
}

/// An answer in place of the upstream's.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct AbortFile {
    /// How many of the requests.
    #[schemars(range(max = 100))]
    percent: u32,
    /// The status, 400 to 599. Not 401 or 403, which would pass for the verdict of a policy.
    #[schemars(range(min = 400, max = 599))]
    status: u16,
}

/// The rules of one service, in order.
pub(in crate::config) fn resolve(
    field: &str,
    routes: Vec<RouteFile>,
    namespace: &str,
    faults: &mut Found<'_>,
) -> Vec<Arc<RouteRule>> {
    let field = format!("{field}.routes");
    few(&field, routes.len(), MOST_RULES, faults);
    let mut place = 0_usize;
    let mut rules: Vec<Arc<RouteRule>> = Vec::new();
    faults.each(&field, routes, |route, field, faults| {
        place += 1;
        let rule = route.resolve(field, place, namespace, faults)?;
        if rules.iter().any(|other| other.name == rule.name) {
            faults.push(&format!("{field}.name"), format!("{:?} is the name of two rules", rule.name));
        }
        rules.push(Arc::new(rule));
        Some(())
    });
    rules
}

impl RouteFile {
    fn resolve(
        self,
        field: &str,
        place: usize,
        namespace: &str,
        faults: &mut Found<'_>,
    ) -> Option<RouteRule> {
        let at = |part: &str| format!("{field}.{part}");
        let name = match self.name {
            None => Some(format!("rule-{place}")),
            Some(name) => faults.take(&at("name"), rule_name(name)),
        };
        let (hostnames, matches) = matches(field, self.hostnames, self.matches, faults);
        let filters = filters::resolve(&at("filters"), self.filters, &matches, namespace, faults);
        let backends = match self.backend_refs {
            Some(_) if filters.redirect.is_some() => {
                faults.push(
                    &at("backendRefs"),
                    "a rule that redirects sends nothing on; remove one of the two",
                );
                return None;
            }
            some => listed(&at("backendRefs"), some, MOST_BACKENDS, faults),
        };
        let backends = faults.each(&at("backendRefs"), backends, |backend, field, faults| {
            backend.resolve(field, namespace, faults)
        });
        let timeouts = self.timeouts.resolve(&at("timeouts"), faults);
        if self.retries.is_some() && filters.redirect.is_some() {
            faults.push(&at("retries"), "a rule that redirects sends nothing on; remove one of the two");
        }
        let retries = self.retries.map(|retries| retries.resolve(&at("retries"), faults));
        let rate = self.rate_limit.map(|rate| rate.resolve(&at("rateLimit"), faults));
        let injected = self.faults.map(|injected| injected.resolve(&at("faults"), faults));
        let Filters { request_headers, response_headers, mirrors, rewrite, redirect } = filters;
        Some(RouteRule {
            name: name?.into(),
            hostnames,
            matches,
            request_headers,
            response_headers,
            mirrors,
            action: match redirect {
                Some(redirect) => RouteAction::Redirect(redirect),
                None => RouteAction::Forward { rewrite, backends },
            },
            timeouts,
            // What could not be read is a fault, and no rule comes of it.
            retries: match retries {
                None => None,
                Some(retries) => Some(retries?),
            },
            rate: match rate {
                None => None,
                Some(rate) => Some(rate?),
            },
            faults: injected,
        })
    }
}

/// Which requests are meant: the hosts, none of them being any, and the conditions, at least one.
pub(in crate::config) fn matches(
    field: &str,
    hostnames: Option<Vec<String>>,
    matches: Option<Vec<MatchFile>>,
    faults: &mut Found<'_>,
) -> (Vec<Host>, Vec<RouteMatch>) {
    let at = |part: &str| format!("{field}.{part}");
    let hostnames = listed(&at("hostnames"), hostnames, MOST_HOSTNAMES, faults);
    let hostnames =
        faults.each(&at("hostnames"), hostnames, |text, field, faults| faults.parse(field, &text));
    let matches = match matches {
        None => vec![MatchFile::default()],
        some => listed(&at("matches"), some, MOST_MATCHES, faults),
    };
    (hostnames, faults.each(&at("matches"), matches, MatchFile::resolve))
}

impl MatchFile {
    fn resolve(self, field: &str, faults: &mut Found<'_>) -> Option<RouteMatch> {
        let at = |part: &str| format!("{field}.{part}");
        let path = match self.path {
            None => Some(PathMatch::Prefix(String::new())),
            Some(path) => path.resolve(&at("path"), faults),
        };
        let method = match self.method {
            None => None,
            Some(method) => {
                let parsed = Method::from_bytes(method.as_bytes());
                Some(faults.take(&at("method"), parsed.map_err(|_| format!("{method:?} is no method")))?)
            }
        };
        few(&at("headers"), self.headers.len(), MOST_VALUES, faults);
        few(&at("queryParams"), self.query_params.len(), MOST_VALUES, faults);
        let headers = faults.each(&at("headers"), self.headers, |value, field, faults| {
            value.refuse_expression(field, faults)?;
            header(field, &value.name, &value.value, faults)
        });
        let query = faults.each(&at("queryParams"), self.query_params, |value, field, faults| {
            value.refuse_expression(field, faults)?;
            Some((value.name, value.value))
        });
        once(&at("headers"), headers.iter().map(|(name, _)| name.as_str()), faults);
        once(&at("queryParams"), query.iter().map(|(name, _)| name.as_str()), faults);
        Some(RouteMatch { path: path?, method, headers, query })
    }
}

impl PathFile {
    fn resolve(self, field: &str, faults: &mut Found<'_>) -> Option<PathMatch> {
        let value = format!("{field}.value");
        match self.r#type {
            PathKind::Exact => Some(PathMatch::Exact(canonical(&value, self.value, faults)?)),
            PathKind::PathPrefix => Some(PathMatch::Prefix(prefix(&value, self.value, faults)?)),
            PathKind::RegularExpression => {
                faults.push(&format!("{field}.type"), NO_EXPRESSIONS);
                None
            }
        }
    }
}

impl ValueFile {
    fn refuse_expression(&self, field: &str, faults: &mut Found<'_>) -> Option<()> {
        if self.r#type == ValueKind::RegularExpression {
            faults.push(&format!("{field}.type"), NO_EXPRESSIONS);
            return None;
        }
        Some(())
    }
}

impl BackendFile {
    fn resolve(self, field: &str, namespace: &str, faults: &mut Found<'_>) -> Option<Backend> {
        if self.weight > MOST_WEIGHT {
            faults.push(&format!("{field}.weight"), format!("{} is over {MOST_WEIGHT}", self.weight));
        }
        let service = services::name(&format!("{field}.service"), &self.service, namespace, faults);
        let (request_headers, response_headers) =
            filters::of_backend(&format!("{field}.filters"), self.filters, faults);
        Some(Backend { service: service?, weight: self.weight, request_headers, response_headers })
    }
}

impl TimeoutsFile {
    fn resolve(self, field: &str, faults: &mut Found<'_>) -> RouteTimeouts {
        let mut time = |part: &str, text: Option<String>| time(&format!("{field}.{part}"), &text?, faults);
        let request = time("request", self.request);
        let backend_request = time("backendRequest", self.backend_request);
        if request.zip(backend_request).is_some_and(|(whole, one)| one > whole) {
            faults.push(
                &format!("{field}.backendRequest"),
                "one try is given more time than the whole request",
            );
        }
        RouteTimeouts { request, backend_request }
    }
}

impl FaultsFile {
    fn resolve(self, field: &str, faults: &mut Found<'_>) -> Faults {
        if !self.for_tests {
            faults.push(
                &format!("{field}.forTests"),
                "requests would fail on purpose: say `forTests: true` if that is meant",
            );
        }
        let delay = self.delay.and_then(|delay| {
            let duration = time(&format!("{field}.delay.duration"), &delay.duration, faults)?;
            if duration > LONGEST_DELAY {
                faults.push(&format!("{field}.delay.duration"), "is over 1m");
            }
            Some((percent(&format!("{field}.delay.percent"), delay.percent, faults)?, duration))
        });
        let abort = self.abort.and_then(|abort| {
            let status = StatusCode::from_u16(abort.status).ok().filter(|status| {
                (400..600).contains(&abort.status)
                    && !matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            });
            if status.is_none() {
                let message =
                    format!("{} is not 400 to 599, or would pass for a verdict (401, 403)", abort.status);
                faults.push(&format!("{field}.abort.status"), message);
            }
            Some((percent(&format!("{field}.abort.percent"), abort.percent, faults)?, status?))
        });
        if delay.is_none() && abort.is_none() {
            faults.push(field, "neither `delay` nor `abort`");
        }
        Faults { delay, abort }
    }
}

/// A path that requests can have: in the form to which each is brought before it is matched.
pub(super) fn canonical(field: &str, path: String, faults: &mut Found<'_>) -> Option<String> {
    let wrong = match normalize(&path, PathMode::Compatible) {
        Ok(canonical) if canonical == path => return Some(path),
        Ok(canonical) => format!("{path:?} is never the path of a request: write {canonical:?}"),
        Err(error) => format!("{path:?}: {error}"),
    };
    faults.push(field, wrong);
    None
}

/// A canonical path without its trailing slash, which means nothing in a prefix.
pub(super) fn prefix(field: &str, path: String, faults: &mut Found<'_>) -> Option<String> {
    let mut prefix = canonical(field, path, faults)?;
    if prefix.ends_with('/') {
        prefix.pop();
    }
    Some(prefix)
}

pub(super) fn header(
    field: &str,
    name: &str,
    value: &str,
    faults: &mut Found<'_>,
) -> Option<(HeaderName, HeaderValue)> {
    let name = faults
        .take(&format!("{field}.name"), name.parse().map_err(|_| format!("{name:?} is no header name")));
    let value = faults.take(
        &format!("{field}.value"),
        HeaderValue::from_str(value).map_err(|_| format!("{value:?} cannot stand in a header")),
    );
    Some((name?, value?))
}

pub(super) fn percent(field: &str, percent: u32, faults: &mut Found<'_>) -> Option<Share> {
    if percent > 100 {
        faults.push(field, format!("{percent} is over 100"));
        return None;
    }
    Some(Share::percent(percent))
}

/// Refuses a name that stands twice: which of the two counts would be a guess.
pub(super) fn once<'a>(field: &str, names: impl Iterator<Item = &'a str>, faults: &mut Found<'_>) {
    let mut seen = Vec::new();
    for name in names {
        if seen.contains(&name) {
            faults.push(field, format!("{name:?} stands twice"));
        }
        seen.push(name);
    }
}

/// A list that may be left out but not be empty: empty could be read as none or as any.
pub(in crate::config) fn listed<T>(
    field: &str,
    list: Option<Vec<T>>,
    most: usize,
    faults: &mut Found<'_>,
) -> Vec<T> {
    if list.as_ref().is_some_and(Vec::is_empty) {
        faults.push(field, "is empty; leave it out, or name what is meant");
    }
    let list = list.unwrap_or_default();
    few(field, list.len(), most, faults);
    list
}

pub(in crate::config) fn few(field: &str, count: usize, most: usize, faults: &mut Found<'_>) {
    if count > most {
        faults.push(field, format!("{count} are more than {most}"));
    }
}

pub(in crate::config) fn rule_name(name: String) -> Result<String, String> {
    let is_plain = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if is_plain { Ok(name) } else { Err(format!("{name:?} is not 1 to 63 letters, digits, '-', '_' or '.'")) }
}

fn time(field: &str, text: &str, faults: &mut Found<'_>) -> Option<Duration> {
    let time = faults.take(field, duration(text))?;
    if time.is_zero() {
        faults.push(field, "is zero, which would be without end");
        return None;
    }
    Some(time)
}

const fn one() -> u32 {
    1
}

const NO_EXPRESSIONS: &str = "regular expressions are not matched: two programs may read one in two ways, and one can \
                              take for ever; write Exact, or PathPrefix for a path";
/// The rules of one service.
const MOST_RULES: usize = 256;
/// These are the bounds of `HTTPRoute`.
const MOST_HOSTNAMES: usize = 16;
const MOST_MATCHES: usize = 64;
const MOST_BACKENDS: usize = 16;
const MOST_VALUES: usize = 16;
const MOST_WEIGHT: u32 = 1_000_000;
const LONGEST_DELAY: Duration = Duration::from_mins(1);
