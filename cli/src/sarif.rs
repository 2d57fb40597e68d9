//! Findings as SARIF 2.1.0 (OASIS), which code hosts and editors show beside the line.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::policy::files;

/// A kind of finding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) level: Level,
}

/// One finding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'f> {
    /// The `id` of its rule.
    pub(crate) rule: &'static str,
    pub(crate) level: Level,
    /// `file:line`, or a file.
    pub(crate) source: &'f str,
    /// The other place, where two meet.
    pub(crate) related: Option<&'f str>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Error,
    Warning,
}

/// The log of one run: each finding with its message.
pub(crate) fn log<'f>(rules: &[Rule], findings: impl IntoIterator<Item = (Entry<'f>, String)>) -> String {
    let results: Vec<Value> =
        findings.into_iter().map(|(entry, message)| result(rules, entry, &message)).collect();
    let described: Vec<Value> = rules.iter().map(describe).collect();
    let driver =
        json!({"name": "sidegate", "semanticVersion": env!("CARGO_PKG_VERSION"), "rules": described});
    let log = json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    });
    format!("{log:#}\n")
}

fn describe(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "defaultConfiguration": {"level": rule.level.word()},
    })
}

fn result(rules: &[Rule], entry: Entry<'_>, message: &str) -> Value {
    let mut result = json!({
        "ruleId": entry.rule,
        "ruleIndex": rules.iter().position(|rule| rule.id == entry.rule),
        "level": entry.level.word(),
        "message": {"text": message},
        "locations": [{"physicalLocation": place(entry.source)}],
    });
    if let Some(related) = entry.related {
        result["relatedLocations"] =
            json!([{"physicalLocation": place(related), "message": {"text": "the other one"}}]);
    }
    result
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

fn place(source: &str) -> Value {
    let (file, line) = files::split(source);
    let mut place = json!({"artifactLocation": {"uri": uri(file)}});
    if let Some(line) = line {
        place["region"] = json!({"startLine": line});
    }
    place
}

/// A path as a URI reference (RFC 3986): relative as it was named, or absolute.
fn uri(path: &str) -> String {
    let mut uri = String::from(if path.starts_with('/') { "file://" } else { "" });
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_as_a_uri_reference() {
        assert_eq!(uri("policies/a b%.yaml"), "policies/a%20b%25.yaml");
        assert_eq!(uri("/tmp/ä.yaml"), "file:///tmp/%C3%A4.yaml");
    }
}
