//! How calls to one service are spread, bounded and repeated: the file's words go in, typed rules come out. A number
//! out of range, a time above the sidecar's own limit or a header without a name is a fault.

use std::{fmt, time::Duration};

use http::{HeaderName, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Limits, Service, ServiceName, duration, file::Faults, schema};

/// How calls to one service are spread, bounded and repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resilience {
    /// Which endpoint a call goes to.
    pub balance: Balance,
    /// When an endpoint gets no calls for a while.
    pub outliers: Outliers,
    /// What may be open at once.
    pub breakers: Breakers,
    /// What may take how long.
    pub timeouts: Timeouts,
    /// What is tried again.
    pub retries: Retries,
}

/// Which endpoint a call goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Of two at random the one that answers sooner.
    #[default]
    Latency,
    /// One after the other.
    RoundRobin,
    /// Equal keys to the same endpoint.
    Hash(HashKey),
}

/// What a call is hashed by. A call that has none goes where it would under [`Balance::Latency`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The value of this header field.
    Header(HeaderName),
    /// The value of this cookie.
    Cookie(String),
    /// The address of whoever connected to this sidecar.
    Source,
}

/// When an endpoint gets no calls for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outliers {
    /// So many failures in a row eject it.
    pub consecutive: u32,
    /// So many failures of a hundred calls within ten seconds eject it. `None`: the share is not looked at.
    pub failure_percent: Option<u32>,
    /// Which answers are failures, beside none at all.
    pub failures: Failures,
    /// How long the first ejection lasts; the nth lasts n times that.
    pub ejection: Duration,
    /// How long an ejection lasts at most.
    pub max_ejection: Duration,
    /// How many of a hundred endpoints may be ejected at once.
    pub max_ejected_percent: u32,
}

/// Which answers count as failures of the endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "outlier-failures")]
pub enum Failures {
    /// 502, 503 and 504: nobody fit to answer was there.
    #[default]
    Gateway,
    /// Every 5xx.
    #[serde(rename = "5xx")]
    ServerErrors,
}

/// What may be open at once, per worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breakers {
    /// Calls in flight.
    pub requests: usize,
    /// Calls that wait for a connection.
    pub pending: usize,
    /// Connections.
    pub connections: usize,
    /// Calls in flight at one endpoint.
    pub endpoint_requests: usize,
    /// Connections to one endpoint.
    pub endpoint_connections: usize,
}

/// What may take how long; what is absent is as in `limits`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Dialling an endpoint, its handshake included.
    pub connect: Option<Duration>,
    /// From the request to the head of its answer, over all tries.
    pub request: Option<Duration>,
    /// From one try to the head of its answer.
    pub per_try: Option<Duration>,
    /// How long a pooled connection may idle.
    pub idle: Option<Duration>,
}

/// What is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Tries of one request, the first included. 1: nothing is tried again.
    pub attempts: u32,
    /// Answers that are not passed on but tried again.
    pub statuses: Vec<StatusCode>,
    /// Those are tried again for methods too that are not idempotent.
    pub any_method: bool,
    /// Tries beyond the first, of a hundred requests.
    pub budget_percent: u32,
    /// The same that are free in each second.
    pub budget_per_second: u32,
    /// Bytes of a body that are held for another try.
    pub body_bytes: usize,
    /// The longest wait before the first repetition; doubled for each further one.
    pub backoff: Duration,
    /// The longest wait before any.
    pub max_backoff: Duration,
}

impl Default for Outliers {
    fn default() -> Self {
        Self {
            consecutive: 5,
            failure_percent: None,
            failures: Failures::Gateway,
            ejection: Duration::from_secs(10),
            max_ejection: Duration::from_mins(5),
            max_ejected_percent: 50,
        }
    }
}

impl Default for Breakers {
    /// Half of what `limits.requests` admits: one service that hangs leaves the other half to the others.
    fn default() -> Self {
        Self {
            requests: 4_096,
            pending: 1_024,
            connections: 4_096,
            endpoint_requests: 4_096,
            endpoint_connections: 4_096,
        }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 3,
            statuses: Vec::new(),
            any_method: false,
            budget_percent: 20,
            budget_per_second: 10,
            body_bytes: 64 * 1024,
            backoff: Duration::from_millis(25),
            max_backoff: Duration::from_millis(250),
        }
    }
}

/// Which endpoint a call goes to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct BalanceFile {
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
pub(super) struct OutliersFile {
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
pub(super) struct BreakersFile {
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
pub(super) struct TimeoutsFile {
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
pub(super) struct RetriesFile {
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
        let mut read = Read { field, faults };
        let outliers = Outliers {
            consecutive: read.number("consecutive", self.consecutive, 1..=1_000, default.consecutive)?,
            failure_percent: match self.failure_percent {
                None => None,
                some => Some(read.number("failurePercent", some, 1..=100, 0)?),
            },
            failures: self.failures,
            ejection: read.time("ejection", self.ejection, default.ejection)?,
            max_ejection: read.time("maxEjection", self.max_ejection, default.max_ejection)?,
            max_ejected_percent: read.number(
                "maxEjectedPercent",
                self.max_ejected_percent,
                1..=100,
                default.max_ejected_percent,
            )?,
        };
        if outliers.max_ejection < outliers.ejection {
            read.fault("maxEjection", "is below `ejection`");
            return None;
        }
        Some(outliers)
    }
}

impl BreakersFile {
    fn resolve(self, field: &str, faults: &mut Faults<'_>) -> Option<Breakers> {
        let default = Breakers::default();
        let mut read = Read { field, faults };
        let mut number = |name, said, or: usize| read.number(name, said, 1..=MOST, or);
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
        let mut read = Read { field, faults };
        let mut time = |name, said| read.time_if_said(name, said);
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
        let mut read = Read { field, faults };
        let retries = Retries {
            attempts: read.number("attempts", self.attempts, 1..=10, default.attempts)?,
            any_method: self.any_method,
            budget_percent: read.number(
                "budgetPercent",
                self.budget_percent,
                0..=100,
                default.budget_percent,
            )?,
            budget_per_second: read.number(
                "budgetPerSecond",
                self.budget_per_second,
                0..=1_000,
                default.budget_per_second,
            )?,
            body_bytes: read.number("bodyBytes", self.body_bytes, 0..=MOST_BODY, default.body_bytes)?,
            backoff: read.time("backoff", self.backoff, default.backoff)?,
            max_backoff: read.time("maxBackoff", self.max_backoff, default.max_backoff)?,
            statuses,
        };
        if retries.any_method && retries.statuses.is_empty() {
            read.fault("anyMethod", "says nothing without `statuses`");
            return None;
        }
        Some(retries)
    }
}

/// Answers that may be tried again.
pub(super) fn retriable(field: &str, list: Vec<u16>, faults: &mut Faults<'_>) -> Vec<StatusCode> {
    faults.each(field, list, |status, field, faults| match StatusCode::from_u16(status) {
        Ok(known) if RETRIABLE.contains(&status) => Some(known),
        _ => {
            faults.push(field, format!("{status} is none of {RETRIABLE:?}"));
            None
        }
    })
}

/// The rules of one service, as the fields of its entry say them.
pub(super) fn resolve(
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
pub(super) fn stay_within<'a>(
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

/// Reads the fields of one section.
pub(super) struct Read<'a, 'f> {
    pub(super) field: &'a str,
    pub(super) faults: &'a mut Faults<'f>,
}

impl Read<'_, '_> {
    fn number<N: TryFrom<u64>>(
        &mut self,
        name: &str,
        said: Option<u64>,
        range: std::ops::RangeInclusive<u64>,
        default: N,
    ) -> Option<N> {
        let Some(said) = said else { return Some(default) };
        match N::try_from(said) {
            Ok(number) if range.contains(&said) => Some(number),
            _ => {
                self.fault(name, format!("{said} is not between {} and {}", range.start(), range.end()));
                None
            }
        }
    }

    fn time(&mut self, name: &str, said: Option<String>, default: Duration) -> Option<Duration> {
        let Some(said) = said else { return Some(default) };
        match duration(&said) {
            Ok(time) if !time.is_zero() => Some(time),
            Ok(_) => {
                self.fault(name, "is zero");
                None
            }
            Err(message) => {
                self.fault(name, message);
                None
            }
        }
    }

    /// `Some(None)`: nothing is said.
    #[expect(clippy::option_option, reason = "a fault and an absence are two things")]
    pub(super) fn number_if_said<N: TryFrom<u64> + Default>(
        &mut self,
        name: &str,
        said: Option<u64>,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<Option<N>> {
        match said {
            None => Some(None),
            some => self.number(name, some, range, N::default()).map(Some),
        }
    }

    /// `Some(None)`: nothing is said.
    #[expect(clippy::option_option, reason = "a fault and an absence are two things")]
    pub(super) fn time_if_said(&mut self, name: &str, said: Option<String>) -> Option<Option<Duration>> {
        match said {
            None => Some(None),
            some => self.time(name, some, Duration::ZERO).map(Some),
        }
    }

    pub(super) fn fault(&mut self, name: &str, message: impl fmt::Display) {
        self.faults.push(&format!("{}.{name}", self.field), message.to_string());
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
pub(super) const MOST_BODY: u64 = 1 << 20;
