//! The matches of an `HTTPRoute`, in the words of the Gateway API.

use serde_json::{Value, json};

use super::super::{Object, Refusal, draft::Fields, only, texts};
use crate::yaml::Node;

/// What one match takes.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    pub(super) fields: Fields,
    /// Of headers.
    pub(super) when: Vec<String>,
}

/// Every match of every rule; a rule without matches takes everything.
pub(super) fn reach(route: &Object<'_>) -> Result<Vec<Reach>, Refusal> {
    let spec = route.spec()?.ok_or_else(|| Refusal::at(route.node, "a route without `spec`"))?;
    only(spec, &["parentRefs", "hostnames", "rules"])?;
    let hosts = texts(spec, "hostnames")?;
    let mut reach = Vec::new();
    for rule in spec.get("rules")?.map(Node::items).transpose()?.unwrap_or_default() {
        only(rule, &["name", "matches"])?;
        let matches = rule.get("matches")?.map(Node::items).transpose()?.unwrap_or_default();
        if matches.is_empty() {
            reach.push(Reach { fields: field("paths", json!(["/**"])), when: Vec::new() });
        }
        for node in matches {
            reach.push(one(node)?);
        }
    }
    if reach.is_empty() {
        return Err(Refusal::at(spec, "a route without rules"));
    }
    if !hosts.is_empty() {
        for reach in &mut reach {
            reach.fields.insert("hosts".to_owned(), json!(hosts));
        }
    }
    Ok(reach)
}

impl Reach {
    /// Whether no request can be taken by both; where that is not plain, they are not.
    pub(super) fn is_apart(&self, other: &Self) -> bool {
        let differ = |name: &str| match (list(&self.fields, name), list(&other.fields, name)) {
            ([], _) | (_, []) => false,
            (one, other) => one.iter().all(|value| !other.contains(value)),
        };
        let paths = list(&self.fields, "paths").iter().all(|one| {
            list(&other.fields, "paths").iter().all(|other| are_apart(one.as_str(), other.as_str()))
        });
        differ("methods") || paths
    }
}

/// `/a` and `/a/**` are the only forms here.
fn are_apart(one: Option<&str>, other: Option<&str>) -> bool {
    let (Some(one), Some(other)) = (one, other) else {
        return false;
    };
    let is_below = |path: &str, pattern: &str| match pattern.strip_suffix("/**") {
        Some(base) => path == base || path.strip_prefix(base).is_some_and(|rest| rest.starts_with('/')),
        None => path == pattern,
    };
    let base = |pattern: &str| pattern.strip_suffix("/**").unwrap_or(pattern).to_owned();
    !is_below(&base(one), other) && !is_below(&base(other), one)
}

fn one(node: &Node) -> Result<Reach, Refusal> {
    only(node, &["path", "method", "headers"])?;
    let mut reach = Reach { fields: field("paths", json!([path(node)?])), when: Vec::new() };
    if let Some(method) = node.get("method")? {
        reach.fields.insert("methods".to_owned(), json!([method.text()?]));
    }
    for header in node.get("headers")?.map(Node::items).transpose()?.unwrap_or_default() {
        only(header, &["type", "name", "value"])?;
        let text = |field| header.get(field)?.map(Node::text).transpose();
        match (text("type")?.unwrap_or("Exact"), text("name")?, text("value")?) {
            ("Exact", Some(name), Some(value)) => {
                let name = json!(name.to_ascii_lowercase());
                reach.when.push(format!(
                    "{name} in request.headers && request.headers[{name}] == {}",
                    json!(value)
                ));
            }
            (kind, ..) => {
                return Err(Refusal::at(header, format!("a header match of type {kind} has no translation")));
            }
        }
    }
    Ok(reach)
}

/// By whole segments, as the Gateway API compares them.
fn path(node: &Node) -> Result<String, Refusal> {
    let Some(path) = node.get("path")? else {
        return Ok("/**".to_owned());
    };
    only(path, &["type", "value"])?;
    let text = |field| path.get(field)?.map(Node::text).transpose();
    let value = text("value")?.unwrap_or("/");
    match text("type")?.unwrap_or("PathPrefix") {
        "Exact" | "PathPrefix" if value.contains(['*', '{', '}']) => {
            Err(Refusal::at(path, format!("the path {value:?} has no translation")))
        }
        "Exact" => Ok(value.to_owned()),
        "PathPrefix" => Ok(format!("{}/**", value.trim_end_matches('/'))),
        other => Err(Refusal::at(path, format!("a path match of type {other} has no translation"))),
    }
}

fn list<'f>(fields: &'f Fields, name: &str) -> &'f [Value] {
    fields.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn field(name: &str, value: Value) -> Fields {
    [(name.to_owned(), value)].into_iter().collect()
}
