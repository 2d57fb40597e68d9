//! Another host and path in the file, for a redirect or a rewrite, and the step from them to typed ones. Refuses what is not in
//! its plain form, which every port reads alike.

use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::ONE_FIELD;
use crate::{
    config::{
        PathMode,
        file::Faults as Found,
        routes::{PathChange, Redirect, Rewrite},
    },
    http::{canonical_host, normalize},
};

/// Where the application is told to ask. What is absent stays as it was asked; the query always does.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct RedirectFile {
    /// `http` or `https`.
    scheme: Option<String>,
    /// A host without a port.
    hostname: Option<String>,
    /// Another path.
    path: Option<ChangeFile>,
    /// A port. Absent: that of `scheme` if there is one, else the one that was asked.
    #[schemars(range(min = 1))]
    port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "found")]
    status_code: u16,
}

/// A host and path in place of those that were asked for. The called service's policy judges these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct RewriteFile {
    /// A host without a port.
    hostname: Option<String>,
    /// Another path.
    path: Option<ChangeFile>,
}

/// Another path; the field that `type` names holds it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct ChangeFile {
    /// Which field of this change is filled in.
    r#type: ChangeKind,
    /// This path in place of the whole.
    replace_full_path: Option<String>,
    /// This path in place of the prefix that matched; empty or `/`: nothing in its place. Every match of the rule must
    /// be by `PathPrefix`.
    replace_prefix_match: Option<String>,
}

/// How a path is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "path-change")]
enum ChangeKind {
    /// `replaceFullPath`
    ReplaceFullPath,
    /// `replacePrefixMatch`
    ReplacePrefixMatch,
}

impl RedirectFile {
    pub(super) fn resolve(self, field: &str, faults: &mut Found<'_>) -> Option<Redirect> {
        let at = |part: &str| format!("{field}.{part}");
        let scheme = match self.scheme.as_deref() {
            None => None,
            Some("http") => Some("http"),
            Some("https") => Some("https"),
            Some(other) => {
                faults.push(&at("scheme"), format!("{other:?} is neither http nor https"));
                None
            }
        };
        if self.port == Some(0) {
            faults.push(&at("port"), "there is no port 0");
        }
        let status = StatusCode::from_u16(self.status_code).ok();
        let status = status.filter(|status| matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308));
        if status.is_none() {
            faults.push(&at("statusCode"), format!("{} is not 301, 302, 303, 307 or 308", self.status_code));
        }
        let hostname = hostname(&at("hostname"), self.hostname, faults);
        let path = path(&at("path"), self.path, faults);
        Some(Redirect { scheme, hostname: hostname?, port: self.port, path: path?, status: status? })
    }
}

impl RewriteFile {
    pub(super) fn resolve(self, field: &str, faults: &mut Found<'_>) -> Option<Rewrite> {
        if self.hostname.is_none() && self.path.is_none() {
            faults.push(field, "neither `hostname` nor `path`");
        }
        let hostname = hostname(&format!("{field}.hostname"), self.hostname, faults);
        let path = path(&format!("{field}.path"), self.path, faults);
        Some(Rewrite { hostname: hostname?, path: path? })
    }
}

impl ChangeFile {
    pub(super) fn resolve(self, field: &str, faults: &mut Found<'_>) -> Option<PathChange> {
        match (self.r#type, self.replace_full_path, self.replace_prefix_match) {
            (ChangeKind::ReplaceFullPath, Some(path), None) => {
                Some(PathChange::Full(plain(&format!("{field}.replaceFullPath"), path, faults)?))
            }
            (ChangeKind::ReplacePrefixMatch, None, Some(path)) if path.is_empty() => {
                Some(PathChange::Prefix(path))
            }
            (ChangeKind::ReplacePrefixMatch, None, Some(path)) => {
                let mut path = plain(&format!("{field}.replacePrefixMatch"), path, faults)?;
                if path.ends_with('/') {
                    path.pop();
                }
                Some(PathChange::Prefix(path))
            }
            _ => {
                faults.push(field, ONE_FIELD);
                None
            }
        }
    }
}

/// `Some(None)`: nothing is said.
#[expect(clippy::option_option, reason = "a fault and an absence are two things")]
fn hostname(field: &str, text: Option<String>, faults: &mut Found<'_>) -> Option<Option<String>> {
    let Some(text) = text else { return Some(None) };
    let host = canonical_host(&text);
    if host.is_none() {
        faults.push(field, format!("{text:?} is not a host such as payments.shop, without a port"));
    }
    host.map(Some)
}

/// `Some(None)`: nothing is said.
#[expect(clippy::option_option, reason = "a fault and an absence are two things")]
fn path(field: &str, change: Option<ChangeFile>, faults: &mut Found<'_>) -> Option<Option<PathChange>> {
    match change {
        None => Some(None),
        Some(change) => change.resolve(field, faults).map(Some),
    }
}

/// A path that is canonical for every port, however strictly it reads paths.
fn plain(field: &str, path: String, faults: &mut Found<'_>) -> Option<String> {
    let wrong = match normalize(&path, PathMode::Strict) {
        Ok(canonical) if canonical == path => return Some(path),
        Ok(canonical) => format!("{path:?} is not in its plain form: write {canonical:?}"),
        Err(error) => format!("{path:?}: {error}"),
    };
    faults.push(field, wrong);
    None
}

const fn found() -> u16 {
    302
}
