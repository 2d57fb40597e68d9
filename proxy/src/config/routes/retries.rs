//! What a rule says of further tries in place of its backend's own word. What it leaves out stays as the service says,
//! and so does the budget: a rule can ask for more tries, and never for more of them than the service bears.

use std::time::Duration;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{
    Retries,
    file::Faults as Found,
    resilience::{MOST_BODY, retriable},
    schema,
    section::Section,
};

/// What a rule says of further tries. `None`: as the service says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteRetries {
    /// Tries of one request, the first included.
    pub attempts: Option<u32>,
    /// Answers that are not passed on but tried again.
    pub statuses: Option<Statuses>,
    /// Bytes of a body that are held for another try.
    pub body_bytes: Option<usize>,
    /// The longest wait before the first repetition.
    pub backoff: Option<Duration>,
    /// The longest wait before any.
    pub max_backoff: Option<Duration>,
}

/// Answers that are tried again. What is said of other answers is no promise for these, so the two are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses {
    /// None: no answer is.
    pub list: Vec<StatusCode>,
    /// For methods too that are not idempotent.
    pub any_method: bool,
}

/// What is tried again of this rule's requests. What is absent is as the service says; the budget always is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct RouteRetriesFile {
    /// Tries of one request, the first included. 1: nothing is tried again.
    #[schemars(range(min = 1, max = 10))]
    attempts: Option<u64>,
    /// Answers that are not passed on but tried again, of idempotent methods: of 502, 503, 504 and 429. Empty: none.
    statuses: Option<Vec<u16>>,
    /// `statuses` counts for every method: the service promises that such an answer means that nothing was done. Goes only
    /// with `statuses` of the same rule.
    #[serde(default)]
    any_method: bool,
    /// Bytes of one request's body that are held for another try. A longer body is sent once.
    #[schemars(range(min = 0, max = MOST_BODY))]
    body_bytes: Option<u64>,
    /// The longest wait before the first repetition, doubled for each further one; the wait is random below it.
    #[schemars(with = "Option<schema::Time>")]
    backoff: Option<String>,
    /// The longest wait before any repetition.
    #[schemars(with = "Option<schema::Time>")]
    max_backoff: Option<String>,
}

impl RouteRetries {
    /// The rules of the service with this one's word in place of theirs.
    pub(crate) fn over(&self, service: &Retries) -> Retries {
        let (statuses, any_method) = match &self.statuses {
            None => (&service.statuses, service.any_method),
            Some(own) => (&own.list, own.any_method),
        };
        Retries {
            attempts: self.attempts.unwrap_or(service.attempts),
            statuses: statuses.clone(),
            any_method,
            body_bytes: self.body_bytes.unwrap_or(service.body_bytes),
            backoff: self.backoff.unwrap_or(service.backoff),
            max_backoff: self.max_backoff.unwrap_or(service.max_backoff),
            budget_percent: service.budget_percent,
            budget_per_second: service.budget_per_second,
        }
    }
}

impl RouteRetriesFile {
    pub(super) fn resolve(self, field: &str, faults: &mut Found<'_>) -> Option<RouteRetries> {
        let statuses = self.statuses.map(|list| Statuses {
            list: retriable(&format!("{field}.statuses"), list, faults),
            any_method: self.any_method,
        });
        let mut section = Section { field, faults };
        if self.any_method && statuses.as_ref().is_none_or(|statuses| statuses.list.is_empty()) {
            section.fault("anyMethod", "says nothing without `statuses` of the same rule");
        }
        let attempts = section.number_if_said("attempts", self.attempts, 1..=10);
        let body_bytes = section.number_if_said("bodyBytes", self.body_bytes, 0..=MOST_BODY);
        let backoff = section.time_if_said("backoff", self.backoff);
        let max_backoff = section.time_if_said("maxBackoff", self.max_backoff);
        Some(RouteRetries {
            attempts: attempts?,
            statuses,
            body_bytes: body_bytes?,
            backoff: backoff?,
            max_backoff: max_backoff?,
        })
    }
}
