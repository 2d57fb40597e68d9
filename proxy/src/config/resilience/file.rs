//! The shape of a service's rules in the file, and the step from it to typed ones.

use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Balance, Breakers, Failures, HashKey, Outliers, Resilience, Retries, Timeouts};
use crate::config::{Limits, Service, ServiceName, file::Faults, schema, section::Section};

/// Which endpoint a call goes to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct BalanceFile {
    /// What decides. `header`, `cookie` and `source` send equal values to the same endpoint.
    #[serde(default)]
    by: ByFile,
    /// Of the header or the cookie.
    name: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "balance-by")]
enum ByFile {
    /// Of two at random the one that answers sooner, for what it has in flight.
    #[default]
    Latency,
    /// One after the other.
    RoundRobin,
    /// A header field's value.
    Header,
    /// A cookie's value.
    Cookie,
    /// The address of whoever connects to this sidecar.
    Source,
}

/// When an endpoint gets no calls for a while. Each worker judges by what it has seen itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(in crate::config) struct OutliersFile {
    /// So many failures in a row eject it.
    #[schemars(range(min = 1, max = 1000), extend("default" = 5))]
    consecutive: Option<u64>,
    /// So many failures of a hundred calls, of at least 20 within ten seconds, eject it. Absent: the share is not
    /// looked at.
    #[schemars(range(min = 1, max = 100))]
    failure_percent: Option<u64>,
    /// Which answers are failures; no answer is one always.
    failures: Failures,
    /// How long the first ejection lasts; the nth in a row lasts n times that.
    #[schemars(with = "Option<schema::Time>", extend("default" = "10s"))]
    ejection: Option<String>,
    /// How long an ejection lasts at most.
    #[schemars(with = "Option<schema::Time>", extend("default" = "5m"))]
    max_ejection: Option<String>,
    /// How many of a hundred endpoints may be ejected at once, rounded down. Where more than these are out, the
    /// ejections are ignored; at 100 the last may be ejected too, and calls are refused then.
    #[schemars(range(min = 1, max = 100), extend("default" = 50))]
    max_ejected_percent: Option<u64>,
}

/// What may be open at once, per worker. What is over a bound is refused at once with 503.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(in crate::config) struct BreakersFile {
    /// Calls in flight.
    #[schemars(range(min = 1, max = MOST), extend("default" = 4096))]
    requests: Option<u64>,
    /// Calls that wait for a connection.
    #[schemars(range(min = 1, max = MOST), extend("default" = 1024))]
    pending: Option<u64>,
    /// Connections, idle ones included.
    #[schemars(range(min = 1, max = MOST), extend("default" = 4096))]
    connections: Option<u64>,
    /// Calls in flight at one endpoint.
    #[schemars(range(min = 1, max = MOST), extend("default" = 4096))]
    endpoint_requests: Option<u64>,
    /// Connections to one endpoint, idle ones included.
    #[schemars(range(min = 1, max = MOST), extend("default" = 4096))]
    endpoint_connections: Option<u64>,
}

/// What may take how long. None may be above its bound in `limits`, which is its default.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(in crate::config) struct TimeoutsFile {
    /// Dialling an endpoint, its handshake included. At most `limits.connectTimeout`.
    #[schemars(with = "Option<schema::Time>")]
    connect: Option<String>,
    /// From the request to the head of its answer, over all tries. At most `limits.responseTimeout`.
    #[schemars(with = "Option<schema::Time>")]
    request: Option<String>,
    /// From one try to the head of its answer. At most `request`. Absent: a try may take what is left of `request`.
    #[schemars(with = "Option<schema::Time>")]
    per_try: Option<String>,
    /// How long a pooled connection may idle. At most `limits.idleTimeout`.
    #[schemars(with = "Option<schema::Time>")]
    idle: Option<String>,
}

/// What is tried again. What was certainly not processed is, of every method; a connection that broke as it was used
/// again is, of idempotent methods; answers are not, unless `statuses` says so.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(in crate::config) struct RetriesFile {
    /// Tries of one request, the first included. 1: nothing is tried again.
    #[schemars(range(min = 1, max = 10), extend("default" = 3))]
    attempts: Option<u64>,
    /// Answers that are not passed on but tried again, of idempotent methods: of 502, 503, 504 and 429.
    statuses: Vec<u16>,
    /// `statuses` counts for every method: the service promises that such an answer means that nothing was done.
    any_method: bool,
    /// Tries beyond the first, of a hundred requests over ten seconds.
    #[schemars(range(min = 0, max = 100), extend("default" = 20))]
    budget_percent: Option<u64>,
    /// Tries beyond the first that are free in each second, so that a service with few calls has some.
    #[schemars(range(min = 0, max = 1000), extend("default" = 10))]
    budget_per_second: Option<u64>,
    /// Bytes of one request's body that are held for another try. A longer body is sent once.
    #[schemars(range(min = 0, max = MOST_BODY), extend("default" = 65536))]
    body_bytes: Option<u64>,
    /// The longest wait before the first repetition, doubled for each further one; the wait is random below it.
    #[schemars(with = "Option<schema::Time>", extend("default" = "25ms"))]
    backoff: Option<String>,
    /// The longest wait before any repetition.
    #[schemars(with = "Option<schema::Time>", extend("default" = "250ms"))]
    max_backoff: Option<String>,
}

impl BalanceFile {
    fn resolve(self, field: &str, faults: &mut Faults<'_>) -> Option<Balance> {
        let needs_name = matches!(self.by, ByFile::Header | ByFile::Cookie);
        match (self.by, self.name) {
            (ByFile::Latency, None) => Some(Balance::Latency),
            (ByFile::RoundRobin, None) => Some(Balance::RoundRobin),
            (ByFile::Source, None) => Some(Balance::Hash(HashKey::Source)),
            (ByFile::Header, Some(name)) => {
                let name = faults.parse(&format!("{field}.name"), &name)?;
                Some(Balance::Hash(HashKey::Header(name)))
            }
            (ByFile::Cookie, Some(name)) if is_token(&name) => Some(Balance::Hash(HashKey::Cookie(name))),
            (_, name) => {
                let message = if needs_name {
                    format!("{name:?} is not the name of a header or cookie")
                } else {
                    "goes only with `by: header` and `by: cookie`".to_owned()
                };
                faults.push(&format!("{field}.name"), message);
                None
            }
        }
    }
}

impl OutliersFile {
    fn resolve(self, field: &str, faults: &mut Faults<'_>) -> Option<Outliers> {
        let default = Outliers::default();
        let mut section = Section { field, faults };
        let outliers = Outliers {
            consecutive: section.number("consecutive", self.consecutive, 1..=1_000, default.consecutive)?,
            failure_percent: match self.failure_percent {
                None => None,
                some => Some(section.number("failurePercent", some, 1..=100, 0)?),
            },
            failures: self.failures,
            ejection: section.time("ejection", self.ejection, default.ejection)?,
            max_ejection: section.time("maxEjection", self.max_ejection, default.max_ejection)?,
            max_ejected_percent: section.number(
                "maxEjectedPercent",
                self.max_ejected_percent,
                1..=100,
                default.max_ejected_percent,
            )?,
        };
        if outliers.max_ejection < outliers.ejection {
            section.fault("maxEjection", "is below `ejection`");
            return None;
        }
        Some(outliers)
    }
}

impl BreakersFile {
    fn resolve(self, field: &str, faults: &mut Faults<'_>) -> Option<Breakers> {
        let default = Breakers::default();
        let mut section = Section { field, faults };
        let mut number = |name, said, or: usize| section.number(name, said, 1..=MOST, or);
        Some(Breakers {
            requests: number("requests", self.requests, default.requests)?,
            pending: number("pending", self.pending, default.pending)?,
            connections: number("connections", self.connections, default.connections)?,
            endpoint_requests: number("endpointRequests", self.endpoint_requests, default.endpoint_requests)?,
            endpoint_connections: number(
                "endpointConnections",
                self.endpoint_connections,
                default.endpoint_connections,
            )?,
        })
    }
}

impl TimeoutsFile {
    fn resolve(self, field: &str, faults: &mut Faults<'_>) -> Option<Timeouts> {
        let mut section = Section { field, faults };
        let mut time = |name, said| section.time_if_said(name, said);
        Some(Timeouts {
            connect: time("connect", self.connect)?,
            request: time("request", self.request)?,
            per_try: time("perTry", self.per_try)?,
            idle: time("idle", self.idle)?,
        })
    }
}

impl RetriesFile {
    fn resolve(self, field: &str, faults: &mut Faults<'_>) -> Option<Retries> {
        let default = Retries::default();
        let statuses = retriable(&format!("{field}.statuses"), self.statuses, faults);
        let mut section = Section { field, faults };
        let retries = Retries {
            attempts: section.number("attempts", self.attempts, 1..=10, default.attempts)?,
            any_method: self.any_method,
            budget_percent: section.number(
                "budgetPercent",
                self.budget_percent,
                0..=100,
                default.budget_percent,
            )?,
            budget_per_second: section.number(
                "budgetPerSecond",
                self.budget_per_second,
                0..=1_000,
                default.budget_per_second,
            )?,
            body_bytes: section.number("bodyBytes", self.body_bytes, 0..=MOST_BODY, default.body_bytes)?,
            backoff: section.time("backoff", self.backoff, default.backoff)?,
            max_backoff: section.time("maxBackoff", self.max_backoff, default.max_backoff)?,
            statuses,
        };
        if retries.any_method && retries.statuses.is_empty() {
            section.fault("anyMethod", "says nothing without `statuses`");
            return None;
        }
        Some(retries)
    }
}

/// Answers that may be tried again.
pub(in crate::config) fn retriable(field: &str, list: Vec<u16>, faults: &mut Faults<'_>) -> Vec<StatusCode> {
    faults.each(field, list, |status, field, faults| match StatusCode::from_u16(status) {
        Ok(known) if RETRIABLE.contains(&status) => Some(known),
        _ => {
            faults.push(field, format!("{status} is none of {RETRIABLE:?}"));
            None
        }
    })
}

/// The rules of one service, as the fields of its entry say them.
pub(in crate::config) fn resolve(
    field: &str,
    balance: BalanceFile,
    outliers: OutliersFile,
    breakers: BreakersFile,
    timeouts: TimeoutsFile,
    retries: RetriesFile,
    faults: &mut Faults<'_>,
) -> Option<Resilience> {
    // All of them first, so that all faults are seen.
    let balance = balance.resolve(&format!("{field}.balance"), faults);
    let outliers = outliers.resolve(&format!("{field}.outliers"), faults);
    let breakers = breakers.resolve(&format!("{field}.breakers"), faults);
    let timeouts = timeouts.resolve(&format!("{field}.timeouts"), faults);
    let retries = retries.resolve(&format!("{field}.retries"), faults);
    Some(Resilience {
        balance: balance?,
        outliers: outliers?,
        breakers: breakers?,
        timeouts: timeouts?,
        retries: retries?,
    })
}

/// A service may be stricter than the sidecar and never wider: a limit is a bound.
pub(in crate::config) fn stay_within<'a>(
    services: impl IntoIterator<Item = (&'a ServiceName, &'a Service)>,
    limits: &Limits,
    faults: &mut Faults<'_>,
) {
    for (name, service) in services {
        let timeouts = &service.resilience.timeouts;
        let request = timeouts.request.unwrap_or(limits.response_timeout);
        let bounds = [
            ("connect", timeouts.connect, limits.connect_timeout, "limits.connectTimeout"),
            ("request", timeouts.request, limits.response_timeout, "limits.responseTimeout"),
            ("perTry", timeouts.per_try, request, "the request's own time"),
            ("idle", timeouts.idle, limits.idle_timeout, "limits.idleTimeout"),
        ];
        for (field, said, most, bound) in bounds {
            if let Some(said) = said.filter(|said| *said > most) {
                let said = humantime::format_duration(said);
                faults.push(
                    &format!("services[{name}].timeouts.{field}"),
                    format!("{said} is above {bound}, {}", humantime::format_duration(most)),
                );
            }
        }
    }
}

/// RFC 6265 §4.1.1: a cookie's name is a token.
fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Answers by which somebody in between, and not the service itself, says "not now".
const RETRIABLE: [u16; 4] = [429, 502, 503, 504];
const MOST: u64 = 1 << 20;
pub(in crate::config) const MOST_BODY: u64 = 1 << 20;
