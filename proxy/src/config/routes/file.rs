//! The shape of a service's routes in the file, and the step from it to typed rules.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Backend, RouteAction, RouteRule, RouteTimeouts, Share,
    faults::FaultsFile,
    filters::{self, BackendFilterFile, FilterFile, Filters},
    matches::{MatchFile, matches},
    retries::RouteRetriesFile,
};
use crate::config::{duration, file::Faults as Found, rates::RateFile, schema, services};

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

pub(super) fn time(field: &str, text: &str, faults: &mut Found<'_>) -> Option<Duration> {
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

/// The rules of one service.
const MOST_RULES: usize = 256;
/// These are the bounds of `HTTPRoute`.
const MOST_BACKENDS: usize = 16;
const MOST_WEIGHT: u32 = 1_000_000;
