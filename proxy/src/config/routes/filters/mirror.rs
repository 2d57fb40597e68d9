//! Copies of requests in the file, and the step from them to a service and a share.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{
    file::Faults as Found,
    routes::{Mirror, Share, file::percent},
    schema, services,
};

/// A copy of requests without a body, for another service. It gets what the backend gets; its answer is dropped, and
/// nothing of it can slow or fail the request. A request that has a body, or asks for a tunnel, is not copied.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct MirrorFile {
    /// Where to.
    backend_ref: MirrorBackendFile,
    /// How many of the requests. Absent, as `fraction` is: all.
    #[schemars(range(max = 100))]
    percent: Option<u32>,
    /// How many of the requests, where a percent is too much.
    fraction: Option<FractionFile>,
}

/// A service that gets copies.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct MirrorBackendFile {
    /// Its identities and endpoints count, its own routes do not.
    #[schemars(with = "schema::Name")]
    service: String,
}

/// So many of so many.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct FractionFile {
    /// Of these; at most `denominator`.
    numerator: u32,
    /// Of how many.
    #[serde(default = "hundred")]
    #[schemars(range(min = 1))]
    denominator: u32,
}

impl MirrorFile {
    pub(super) fn resolve(self, field: &str, namespace: &str, faults: &mut Found<'_>) -> Option<Mirror> {
        let service = format!("{field}.backendRef.service");
        let service = services::name(&service, &self.backend_ref.service, namespace, faults);
        let share = match (self.percent, self.fraction) {
            (None, None) => Some(Share::percent(100)),
            (Some(of_hundred), None) => percent(&format!("{field}.percent"), of_hundred, faults),
            (None, Some(FractionFile { numerator, denominator }))
                if denominator > 0 && numerator <= denominator =>
            {
                Some(Share { numerator, denominator })
            }
            (None, Some(_)) => {
                faults.push(&format!("{field}.fraction"), "is more than all, or of none");
                None
            }
            (Some(_), Some(_)) => {
                faults.push(field, "both `percent` and `fraction`");
                None
            }
        };
        Some(Mirror { service: service?, share: share? })
    }
}

const fn hundred() -> u32 {
    100
}
