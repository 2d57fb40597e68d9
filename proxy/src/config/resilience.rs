//! How calls to one service are spread, bounded and repeated: in [`file`] the file's words go in, typed rules come out. A
//! number out of range, a time above the sidecar's own limit or a header without a name is a fault.

mod file;

use std::time::Duration;

use http::{HeaderName, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use file::{
    BalanceFile, BreakersFile, MOST_BODY, OutliersFile, RetriesFile, TimeoutsFile, resolve, retriable,
    stay_within,
};

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
