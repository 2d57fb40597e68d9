//! Findings as SARIF 2.1.0 (OASIS), which code hosts and editors show beside the line.

use std::fmt::Write;

use serde_json::{Value, json};
use sidegate_policy::{Finding, Lint, Severity};

use super::files;

/// The log of one run.
pub(super) fn log(findings: &[Finding]) -> String {
    let rules: Vec<Value> = Lint::ALL.into_iter().map(rule).collect();
    let results: Vec<Value> = findings.iter().map(result).collect();
    let driver = json!({"name": "sidegate", "semanticVersion": env!("CARGO_PKG_VERSION"), "rules": rules});
    let log = json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    });
    format!("{log:#}\n")
}

fn rule(lint: Lint) -> Value {
    json!({
        "id": lint.id(),
        "shortDescription": {"text": lint.title()},
        "defaultConfiguration": {"level": level(lint.severity())},
    })
}

fn result(finding: &Finding) -> Value {
    let Finding { lint, severity, source, related, why, fix, .. } = finding;
    let mut result = json!({
        "ruleId": lint.id(),
        "ruleIndex": Lint::ALL.iter().position(|it| it == lint),
        "level": level(*severity),
        "message": {"text": format!("{}: {why}; {fix}", subject(finding))},
        "locations": [{"physicalLocation": place(source)}],
    });
    if let Some(related) = related {
        result["relatedLocations"] =
            json!([{"physicalLocation": place(related), "message": {"text": "the other one"}}]);
    }
    result
}

fn subject(finding: &Finding) -> String {
    match &finding.rule {
        Some(rule) => format!("rule {rule} of {}", finding.policy),
        None => format!("policy {}", finding.policy),
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

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
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
