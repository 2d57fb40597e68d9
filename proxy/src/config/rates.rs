//! Rate limits: how many requests of whom, in which time. The file's words go in, typed limits come out. A rate that is
//! zero or could not be counted, a limit that stands twice, and a caller that is no SPIFFE ID are faults.

use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sidegate_identity::SpiffeId;

use super::{
    Host, RouteMatch, duration,
    file::Faults,
    routes::{MatchFile, few, listed, matches, rule_name},
    schema,
};

/// So many requests in so long, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Never 0.
    pub requests: u32,
    /// In this time; never zero.
    pub period: Duration,
    /// So many may come at once, after a silence that was long enough. Never 0.
    pub burst: u32,
}

/// How many requests a port takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// What logs and metrics call it; unique within its port.
    pub name: Arc<str>,
    /// One of them must be the request's host. Empty: any host.
    pub hostnames: Vec<Host>,
    /// One of them must match; never empty.
    pub matches: Vec<RouteMatch>,
    /// Whose requests. Empty: everybody's.
    pub callers: Vec<SpiffeId>,
    /// Who shares it.
    pub per: Per,
    /// How many.
    pub rate: Rate,
}

/// Who shares a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "rate-per")]
pub enum Per {
    /// Nobody: each caller, by its verified identity, has one of its own.
    #[default]
    Caller,
    /// All callers together.
    All,
}

/// How many requests of callers a port takes. Every limit that matches a request counts it; if one of them has no room, the
/// request is answered 429 and none has counted it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RateLimitFile {
    /// What logs and metrics call it.
    name: String,
    /// Hosts, of which the request's must be one. Absent: any host.
    #[schemars(with = "Option<Vec<schema::Host>>")]
    hostnames: Option<Vec<String>>,
    /// Conditions, of which one must match. Absent: any request.
    matches: Option<Vec<MatchFile>>,
    /// SPIFFE IDs of the callers that are meant. Absent: every caller.
    #[schemars(with = "Option<Vec<schema::Id>>")]
    callers: Option<Vec<String>>,
    /// Who shares it: nobody, or all.
    #[serde(default)]
    per: Per,
    /// How many.
    rate: RateFile,
}

/// So many requests in so long. Counted by the sidecar as a whole, whichever of its workers serves them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RateFile {
    /// How many.
    #[schemars(range(min = 1, max = MOST))]
    requests: u64,
    /// In which time, 1ms to 1h.
    #[serde(default = "a_second")]
    #[schemars(with = "schema::Time", extend("default" = "1s"))]
    period: String,
    /// How many may come at once, after a silence that was long enough. Absent: as many as `requests`.
    #[schemars(range(min = 1, max = MOST))]
    burst: Option<u64>,
}

/// The limits of one port, in order.
pub(super) fn resolve(field: &str, list: Vec<RateLimitFile>, faults: &mut Faults<'_>) -> Vec<RateLimit> {
    let field = format!("{field}.rateLimits");
    few(&field, list.len(), MOST_LIMITS, faults);
    let mut names: Vec<Arc<str>> = Vec::new();
    faults.each(&field, list, |limit, field, faults| {
        let limit = limit.resolve(field, faults)?;
        if names.contains(&limit.name) {
            faults.push(&format!("{field}.name"), format!("{:?} is the name of two limits", limit.name));
        }
        names.push(Arc::clone(&limit.name));
        Some(limit)
    })
}

impl RateLimitFile {
    fn resolve(self, field: &str, faults: &mut Faults<'_>) -> Option<RateLimit> {
        let at = |part: &str| format!("{field}.{part}");
        let name = faults.take(&at("name"), rule_name(self.name));
        let (hostnames, matches) = matches(field, self.hostnames, self.matches, faults);
        let callers = listed(&at("callers"), self.callers, MOST_CALLERS, faults);
        let callers = faults
            .each(&at("callers"), callers, |text, field, faults| faults.take(field, SpiffeId::parse(&text)));
        let rate = self.rate.resolve(&at("rate"), faults);
        Some(RateLimit { name: name?.into(), hostnames, matches, callers, per: self.per, rate: rate? })
    }
}

impl RateFile {
    pub(super) fn resolve(self, field: &str, faults: &mut Faults<'_>) -> Option<Rate> {
        let mut number = |part: &str, said: u64| {
            let number = u32::try_from(said).ok().filter(|_| (1..=MOST).contains(&said));
            if number.is_none() {
                faults.push(&format!("{field}.{part}"), format!("{said} is not between 1 and {MOST}"));
            }
            number
        };
        let requests = number("requests", self.requests);
        let burst = match self.burst {
            None => requests,
            Some(said) => number("burst", said),
        };
        let period = faults.take(&format!("{field}.period"), duration(&self.period));
        let period = period.filter(|period| {
            let is_in_range = (SHORTEST..=LONGEST).contains(period);
            if !is_in_range {
                faults.push(&format!("{field}.period"), format!("{} is not between 1ms and 1h", self.period));
            }
            is_in_range
        });
        Some(Rate { requests: requests?, period: period?, burst: burst? })
    }
}

fn a_second() -> String {
    "1s".to_owned()
}

/// Each is looked at for each request of its port.
const MOST_LIMITS: usize = 32;
const MOST_CALLERS: usize = 64;
/// With an hour of a single request each, a burst of so many is 114 years: it still fits the nanoseconds of 64 bits.
const MOST: u64 = 1_000_000;
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests;
