//! What SARIF 2.1.0 (OASIS) requires of a log, by the sections of the standard.

use serde_json::Value;

/// Fails if a field is missing that the standard requires, or is not of its form.
pub(super) fn check(log: &Value) {
    assert_eq!(log["version"], "2.1.0", "3.13.2");
    let schema = log["$schema"].as_str().expect("a URI (3.13.3)");
    assert!(schema.starts_with("https://") && schema.ends_with("sarif-schema-2.1.0.json"), "{schema}");
    for run in list(&log["runs"]) {
        let driver = &run["tool"]["driver"];
        assert!(is_text(&driver["name"]), "3.19.8: {driver}");
        let rules = list(&driver["rules"]);
        for rule in rules {
            assert!(is_text(&rule["id"]) && is_text(&rule["shortDescription"]["text"]), "3.49.3: {rule}");
            level(&rule["defaultConfiguration"]["level"]);
        }
        for result in list(&run["results"]) {
            check_result(result, rules);
        }
    }
}

fn check_result(result: &Value, rules: &[Value]) {
    assert!(is_text(&result["message"]["text"]), "3.27.11: {result}");
    level(&result["level"]);
    let index = result["ruleIndex"].as_u64().and_then(|index| usize::try_from(index).ok());
    let rule = index.and_then(|index| rules.get(index)).expect("an index into rules (3.27.6)");
    assert_eq!(rule["id"], result["ruleId"], "3.27.5");
    for location in list(&result["locations"]) {
        check_location(location);
    }
    for location in result["relatedLocations"].as_array().into_iter().flatten() {
        check_location(location);
        assert!(location["message"].is_null() || is_text(&location["message"]["text"]), "3.28.5: {location}");
    }
}

fn check_location(location: &Value) {
    let known = ["physicalLocation", "message"];
    let fields = location.as_object().expect("an object (3.28)");
    assert!(fields.keys().all(|key| known.contains(&key.as_str())), "3.28: {location}");
    let place = &location["physicalLocation"];
    let uri = place["artifactLocation"]["uri"].as_str().expect("a URI reference (3.4.3)");
    assert!(!uri.is_empty() && !uri.contains([' ', '\\']), "RFC 3986: {uri}");
    if let Some(line) = place["region"].get("startLine") {
        assert!(line.as_u64() > Some(0), "3.30.5: {line}");
    }
}

fn level(level: &Value) {
    assert!(["none", "note", "warning", "error"].iter().any(|known| level == known), "3.27.10: {level}");
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}
