//! What goes wrong on purpose, in the file, and the step from it to shares of the requests. Refuses what does not say that it is
//! for tests, and statuses that would pass for a verdict.

use std::time::Duration;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Faults,
    file::{percent, time},
};
use crate::config::{file::Faults as Found, schema};

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

impl FaultsFile {
    pub(super) fn resolve(self, field: &str, faults: &mut Found<'_>) -> Faults {
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

const LONGEST_DELAY: Duration = Duration::from_mins(1);
