//! Changes of header fields in the file, and the step from them to typed ones. Refuses fields that frame, address or vouch for a
//! message.

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{
        file::Faults as Found,
        routes::{
            HeaderChanges,
            file::{few, header, once},
        },
    },
    http::is_changeable,
};

/// Changes of header fields. Fields that frame or address the message (`Content-Length`, `Host`), belong to one hop, or
/// speak of the caller (`X-Forwarded-*`, `X-Sidegate-*`) are refused.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct ModifierFile {
    /// In place of what is there.
    #[serde(default)]
    set: Vec<FieldFile>,
    /// Beside what is there.
    #[serde(default)]
    add: Vec<FieldFile>,
    /// Taken out.
    #[serde(default)]
    remove: Vec<String>,
}

/// A header field.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct FieldFile {
    /// Its name.
    name: String,
    /// Its value.
    value: String,
}

impl ModifierFile {
    pub(super) fn resolve(self, field: &str, faults: &mut Found<'_>) -> HeaderChanges {
        few(field, self.set.len() + self.add.len() + self.remove.len(), MOST_CHANGES, faults);
        let mut values = |part: &str, list: Vec<FieldFile>| {
            faults.each(&format!("{field}.{part}"), list, |value, field, faults| {
                changeable(&format!("{field}.name"), &value.name, faults)?;
                header(field, &value.name, &value.value, faults)
            })
        };
        let set = values("set", self.set);
        let add = values("add", self.add);
        let remove: Vec<HeaderName> =
            faults.each(&format!("{field}.remove"), self.remove, |name, field, faults| {
                changeable(field, &name, faults)?;
                faults.take(field, name.parse().map_err(|_| format!("{name:?} is no header name")))
            });
        let named = set.iter().chain(&add).map(|(name, _)| name).chain(&remove);
        once(field, named.map(HeaderName::as_str), faults);
        HeaderChanges { set, add, remove }
    }
}

fn changeable(field: &str, name: &str, faults: &mut Found<'_>) -> Option<()> {
    if is_changeable(&name.to_ascii_lowercase()) {
        return Some(());
    }
    let message =
        format!("{name:?} frames or addresses the message, belongs to one hop, or speaks of the caller");
    faults.push(field, message);
    None
}

/// The bound of `HTTPRoute`: 16 of each.
const MOST_CHANGES: usize = 48;
