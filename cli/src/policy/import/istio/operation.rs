//! The operation of a rule: ports, and what HTTP asks for. Paths are said in patterns where they can be.

use serde_json::json;

use super::{
    super::{
        Refusal,
        glob::{self, Glob},
        only, texts,
    },
    part::Part,
};
use crate::yaml::Node;

/// One operation, as several where some of its paths need CEL.
pub(super) fn operation(node: &Node) -> Result<Vec<Part>, Refusal> {
    only(node, &OPERATION)?;
    let wrong = |why: String| Refusal::at(node, why);
    let globs = |field: &str| Glob::all(&texts(node, field)?).map_err(wrong);
    let mut part = Part::default();
    let (hosts, methods) = (globs("hosts")?, globs("methods")?);
    // A field of HTTP that takes anything still asks for HTTP.
    let asks_http = hosts.contains(&Glob::Present) || methods.contains(&Glob::Present);
    part.any(&methods, Some("methods"), "request.method");
    part.none(node, &globs("notMethods")?, "request.method")?;
    if !hosts.is_empty() && !hosts.contains(&Glob::Present) {
        part.fields.insert("hosts".to_owned(), json!(whole_hosts(node, &hosts)?));
    }
    let not: Vec<Glob> = whole_hosts(node, &globs("notHosts")?)?.into_iter().map(Glob::Exact).collect();
    part.none(node, &not, "request.host")?;
    let ports = texts(node, "ports")?;
    if !ports.is_empty() {
        part.fields.insert("ports".to_owned(), json!(numbers(node, &ports)?));
    }
    let not = texts(node, "notPorts")?;
    if !not.is_empty() {
        part.when.push(format!("!(destination.port in {})", json!(numbers(node, &not)?)));
    }
    let not = texts(node, "notPaths")?;
    if not.iter().any(|text| text.contains('{')) {
        return Err(Refusal::at(node, "a template in `notPaths` has no translation"));
    }
    part.none(node, &Glob::all(&not).map_err(wrong)?, "request.path")?;
    let paths = texts(node, "paths")?;
    if paths.is_empty() {
        if asks_http {
            part.fields.insert("paths".to_owned(), json!(["/**"]));
        }
        return Ok(vec![part]);
    }
    with_paths(node, &part, &paths)
}

fn with_paths(node: &Node, part: &Part, paths: &[&str]) -> Result<Vec<Part>, Refusal> {
    let (mut patterns, mut others) = (Vec::new(), Vec::new());
    for text in paths {
        if text.contains(['{', '}']) {
            patterns.extend(
                template(text)
                    .ok_or_else(|| Refusal::at(node, format!("the template {text:?} has no translation")))?,
            );
            continue;
        }
        match Glob::parse(text).map_err(|why| Refusal::at(node, why))? {
            Glob::Exact(path) => patterns.push(path),
            Glob::Present => patterns.push("/**".to_owned()),
            Glob::Prefix(path) if path == "/" => patterns.push("/**".to_owned()),
            Glob::Prefix(path) if path.ends_with('/') => patterns.extend(below(&path)),
            glob => others.push(glob),
        }
    }
    let mut parts = Vec::new();
    if !patterns.is_empty() {
        let mut part = part.clone();
        part.fields.insert("paths".to_owned(), json!(patterns));
        parts.push(part);
    }
    if !others.is_empty() {
        let mut part = part.clone();
        part.when.push(glob::is_any("request.path", &others));
        parts.push(part);
    }
    Ok(parts)
}

/// What begins with `/a/`, which `/a` does not.
fn below(directory: &str) -> [String; 2] {
    [directory.to_owned(), format!("{directory}{{rest}}/**")]
}

/// `{*}` is one segment, `{**}` at the end the rest.
fn template(text: &str) -> Option<Vec<String>> {
    let (path, open) = match text.strip_suffix("{**}") {
        Some(path) => (path, true),
        None => (text, false),
    };
    let mut number = 0;
    let mut segments = Vec::new();
    for segment in path.split('/') {
        if segment == "{*}" {
            number += 1;
            segments.push(format!("{{s{number}}}"));
        } else if segment.contains(['{', '}', '*']) {
            return None;
        } else {
            segments.push(segment.to_owned());
        }
    }
    let path = segments.join("/");
    match open {
        true if path == "/" => Some(vec!["/**".to_owned()]),
        true if path.ends_with('/') => Some(below(&path).into()),
        true => None,
        false => Some(vec![path]),
    }
}

/// Hosts of any port. Here a host has no port, so that `a` is meant only where `a:*` stands beside it.
fn whole_hosts(node: &Node, globs: &[Glob]) -> Result<Vec<String>, Refusal> {
    let refusal = |why: String| Refusal::at(node, why);
    let mut hosts = Vec::new();
    for glob in globs {
        match glob {
            Glob::Exact(host) if globs.contains(&Glob::Prefix(format!("{host}:"))) => {
                hosts.push(host.clone());
            }
            Glob::Prefix(text) => match text.strip_suffix(':') {
                Some(host) if globs.contains(&Glob::Exact(host.to_owned())) => {}
                _ => return Err(refusal(format!("the host \"{text}*\" has no translation"))),
            },
            Glob::Exact(host) => {
                return Err(refusal(format!(
                    "the host {host:?} means this port alone, and hosts have no port here; add \"{host}:*\" if any is meant"
                )));
            }
            Glob::Suffix(text) => return Err(refusal(format!("the host \"*{text}\" has no translation"))),
            Glob::Present => return Err(refusal("`*` in a negative list matches nothing".to_owned())),
        }
    }
    Ok(hosts)
}

pub(super) fn numbers(node: &Node, ports: &[&str]) -> Result<Vec<u16>, Refusal> {
    let number = |text: &&str| text.parse().map_err(|_| Refusal::at(node, format!("{text:?} is no port")));
    ports.iter().map(number).collect()
}

const OPERATION: [&str; 8] =
    ["hosts", "notHosts", "ports", "notPorts", "methods", "notMethods", "paths", "notPaths"];
