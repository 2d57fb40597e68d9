//! `docs/limits.md` and the code know the same limits, with the same defaults, and with tests that exist.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use super::*;
use crate::{config::resilience::BreakersFile, families};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The rows of the table that begins with these columns, by their first cell.
fn rows(columns: &str) -> BTreeMap<String, Vec<String>> {
    let page = fs::read_to_string(format!("{ROOT}/docs/limits.md")).unwrap();
    let table = page.split(&format!("\n| {columns} |")).nth(1).unwrap().split("\n\n").next().unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    table.lines().skip(2).map(cells).map(|row| (row[0].trim_matches('`').to_owned(), row)).collect()
}

/// As the page writes it: `64 KiB`, `10,000`, `5s`.
fn written(cell: &str) -> Value {
    let (number, unit) = cell.split_once(' ').unwrap_or((cell, ""));
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        other => panic!("{other} is no unit"),
    };
    number.replace(',', "").parse::<u64>().map_or_else(|_| cell.into(), |number| (number << shift).into())
}

/// Everything that could hold a test.
fn sources() -> String {
    fn add(path: &Path, to: &mut String) {
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                add(&entry.unwrap().path(), to);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "py") {
            to.push_str(&fs::read_to_string(path).unwrap());
        }
    }
    let mut all = String::new();
    for folder in ["proxy/src", "identity/tests", "tests/suite", "tests/programs"] {
        add(Path::new(&format!("{ROOT}/{folder}")), &mut all);
    }
    all
}

fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn check(rows: &BTreeMap<String, Vec<String>>, defaults: &BTreeMap<String, Value>, sources: &str) {
    let names = |limits: Vec<&String>| limits.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(names(rows.keys().collect()), names(defaults.keys().collect()));
    for (name, row) in rows {
        let [_, default, bounds, seen, counted, tests] = &row[..] else { panic!("{name}: {row:?}") };
        assert_eq!(written(default), defaults[name], "{name}");
        assert!(!bounds.is_empty() && !seen.is_empty(), "{name}");
        is_shown(name, counted, tests, sources);
    }
}

/// What is over the bound is counted by a code or a metric, and a test that exists shows it.
fn is_shown(name: &str, counted: &str, tests: &str, sources: &str) {
    for count in quoted(counted) {
        let is_code = count.parse::<sidegate_codes::Code>().is_ok();
        let is_family = families::ALL.iter().any(|family| family.name == count);
        assert!(is_code || is_family, "{name}: {count} is neither a code nor a metric");
    }
    assert!(quoted(counted).next().is_some() || counted == "not a refusal", "{name}: {counted}");
    assert!(quoted(tests).next().is_some(), "{name} has no test");
    for test in quoted(tests) {
        let exists = ["fn", "def"].iter().any(|word| sources.contains(&format!("{word} {test}(")));
        assert!(exists, "{name}: no test {test}");
    }
}

#[test]
fn every_limit_stands_on_its_page_with_its_default_its_count_and_a_test() {
    let sources = sources();
    let limits = serde_json::from_value(serde_json::to_value(Limits::default()).unwrap()).unwrap();
    check(&rows("limit | default"), &limits, &sources);

    let schema = serde_json::to_value(schemars::schema_for!(BreakersFile)).unwrap();
    let properties = schema["properties"].as_object().unwrap();
    let breakers =
        properties.iter().map(|(name, schema)| (name.clone(), schema["default"].clone())).collect();
    check(&rows("breaker | default"), &breakers, &sources);

    for (name, row) in rows("bound | value") {
        let [_, value, over, counted, tests] = &row[..] else { panic!("{name}: {row:?}") };
        assert!(!value.is_empty() && !over.is_empty(), "{name}");
        is_shown(&name, counted, tests, &sources);
    }
}
