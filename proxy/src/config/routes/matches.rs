//! Which requests are meant: hosts and conditions in the file, and the step from them to typed matches. Refuses a path that
//! no request can have, and regular expressions.

use http::Method;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    PathMatch, RouteMatch,
    file::{few, header, listed, once},
};
use crate::{
    config::{Host, PathMode, file::Faults as Found},
    http::normalize,
};

/// Conditions of which all must hold.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct MatchFile {
    /// What the path must be. Absent: any.
    path: Option<PathFile>,
    /// What the method must be, exactly. Absent: any.
    method: Option<String>,
    /// Header fields that must be there once, with exactly this value.
    #[serde(default)]
    headers: Vec<ValueFile>,
    /// Query parameters that must be there; of several of a name the first counts. They are compared decoded.
    #[serde(default)]
    query_params: Vec<ValueFile>,
}

/// What a path must be, in its plain form.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct PathFile {
    /// `Exact`: this path. `PathPrefix`: this one and all below it, by whole segments.
    #[serde(default)]
    r#type: PathKind,
    /// The path.
    value: String,
}

/// How a path is compared. There are no regular expressions: no two programs read them alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "path-match")]
enum PathKind {
    /// This path alone.
    Exact,
    /// This path and all below it, by whole segments; a trailing slash means nothing.
    #[default]
    PathPrefix,
    /// Refused.
    #[schemars(skip)]
    RegularExpression,
}

/// A name and its value.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct ValueFile {
    /// How the value is compared.
    #[serde(default)]
    r#type: ValueKind,
    /// The name.
    name: String,
    /// The value.
    value: String,
}

/// How a value is compared. There are no regular expressions: no two programs read them alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "value-match")]
enum ValueKind {
    /// By its bytes.
    #[default]
    Exact,
    /// Refused.
    #[schemars(skip)]
    RegularExpression,
}

/// Which requests are meant: the hosts, none of them being any, and the conditions, at least one.
pub(in crate::config) fn matches(
    field: &str,
    hostnames: Option<Vec<String>>,
    matches: Option<Vec<MatchFile>>,
    faults: &mut Found<'_>,
) -> (Vec<Host>, Vec<RouteMatch>) {
    let at = |part: &str| format!("{field}.{part}");
    let hostnames = listed(&at("hostnames"), hostnames, MOST_HOSTNAMES, faults);
    let hostnames =
        faults.each(&at("hostnames"), hostnames, |text, field, faults| faults.parse(field, &text));
    let matches = match matches {
        None => vec![MatchFile::default()],
        some => listed(&at("matches"), some, MOST_MATCHES, faults),
    };
    (hostnames, faults.each(&at("matches"), matches, MatchFile::resolve))
}

impl MatchFile {
    fn resolve(self, field: &str, faults: &mut Found<'_>) -> Option<RouteMatch> {
        let at = |part: &str| format!("{field}.{part}");
        let path = match self.path {
            None => Some(PathMatch::Prefix(String::new())),
            Some(path) => path.resolve(&at("path"), faults),
        };
        let method = match self.method {
            None => None,
            Some(method) => {
                let parsed = Method::from_bytes(method.as_bytes());
                Some(faults.take(&at("method"), parsed.map_err(|_| format!("{method:?} is no method")))?)
            }
        };
        few(&at("headers"), self.headers.len(), MOST_VALUES, faults);
        few(&at("queryParams"), self.query_params.len(), MOST_VALUES, faults);
        let headers = faults.each(&at("headers"), self.headers, |value, field, faults| {
            value.refuse_expression(field, faults)?;
            header(field, &value.name, &value.value, faults)
        });
        let query = faults.each(&at("queryParams"), self.query_params, |value, field, faults| {
            value.refuse_expression(field, faults)?;
            Some((value.name, value.value))
        });
        once(&at("headers"), headers.iter().map(|(name, _)| name.as_str()), faults);
        once(&at("queryParams"), query.iter().map(|(name, _)| name.as_str()), faults);
        Some(RouteMatch { path: path?, method, headers, query })
    }
}

impl PathFile {
    fn resolve(self, field: &str, faults: &mut Found<'_>) -> Option<PathMatch> {
        let value = format!("{field}.value");
        match self.r#type {
            PathKind::Exact => Some(PathMatch::Exact(canonical(&value, self.value, faults)?)),
            PathKind::PathPrefix => Some(PathMatch::Prefix(prefix(&value, self.value, faults)?)),
            PathKind::RegularExpression => {
                faults.push(&format!("{field}.type"), NO_EXPRESSIONS);
                None
            }
        }
    }
}

impl ValueFile {
    fn refuse_expression(&self, field: &str, faults: &mut Found<'_>) -> Option<()> {
        if self.r#type == ValueKind::RegularExpression {
            faults.push(&format!("{field}.type"), NO_EXPRESSIONS);
            return None;
        }
        Some(())
    }
}

/// A path that requests can have: in the form to which each is brought before it is matched.
pub(super) fn canonical(field: &str, path: String, faults: &mut Found<'_>) -> Option<String> {
    let wrong = match normalize(&path, PathMode::Compatible) {
        Ok(canonical) if canonical == path => return Some(path),
        Ok(canonical) => format!("{path:?} is never the path of a request: write {canonical:?}"),
        Err(error) => format!("{path:?}: {error}"),
    };
    faults.push(field, wrong);
    None
}

/// A canonical path without its trailing slash, which means nothing in a prefix.
pub(super) fn prefix(field: &str, path: String, faults: &mut Found<'_>) -> Option<String> {
    let mut prefix = canonical(field, path, faults)?;
    if prefix.ends_with('/') {
        prefix.pop();
    }
    Some(prefix)
}

const NO_EXPRESSIONS: &str = "regular expressions are not matched: two programs may read one in two ways, and one can \
                              take for ever; write Exact, or PathPrefix for a path";
/// These are the bounds of `HTTPRoute`.
const MOST_HOSTNAMES: usize = 16;
const MOST_MATCHES: usize = 64;
const MOST_VALUES: usize = 16;
