//! The filters of a rule in the file, and the step from them to typed changes. Refuses changes of fields that frame,
//! address or vouch for a message, and combinations of which one would undo the other.

use http::{HeaderName, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    HeaderChanges, Mirror, PathChange, PathMatch, Redirect, Rewrite, RouteMatch, Share,
    file::{few, header, once, percent},
};
use crate::{
    config::{PathMode, file::Faults as Found, schema, services},
    http::{canonical_host, is_changeable, normalize},
};

/// What is changed, copied or answered: `type` says which, and the field of that name says how.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct FilterFile {
    /// Which field of this filter is filled in.
    r#type: FilterKind,
    /// Changes the header fields of the request.
    request_header_modifier: Option<ModifierFile>,
    /// Changes the header fields of the answer.
    response_header_modifier: Option<ModifierFile>,
    /// Tells the application to ask elsewhere.
    request_redirect: Option<RedirectFile>,
    /// Sends the request under another host or path.
    #[serde(rename = "urlRewrite")]
    url_rewrite: Option<RewriteFile>,
    /// Sends a copy of the request to another service, and drops the answer.
    request_mirror: Option<MirrorFile>,
}

/// Which filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "filter")]
enum FilterKind {
    /// `requestHeaderModifier`
    RequestHeaderModifier,
    /// `responseHeaderModifier`
    ResponseHeaderModifier,
    /// `requestRedirect`
    RequestRedirect,
    /// `urlRewrite`
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    /// `requestMirror`
    RequestMirror,
}

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

/// What is changed for one backend alone: `type` says which, and the field of that name says how.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct BackendFilterFile {
    /// Which field of this filter is filled in.
    r#type: BackendFilterKind,
    /// Changes the header fields of the request.
    request_header_modifier: Option<ModifierFile>,
    /// Changes the header fields of the answer.
    response_header_modifier: Option<ModifierFile>,
}

/// Which filter of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "backend-filter")]
enum BackendFilterKind {
    /// `requestHeaderModifier`
    RequestHeaderModifier,
    /// `responseHeaderModifier`
    ResponseHeaderModifier,
}

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

/// What the filters of a rule come to.
#[derive(Debug, Default)]
pub(super) struct Filters {
    pub(super) request_headers: HeaderChanges,
    pub(super) response_headers: HeaderChanges,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) rewrite: Rewrite,
    pub(super) redirect: Option<Redirect>,
}

/// The filters of a rule with these `matches`.
pub(super) fn resolve(
    field: &str,
    list: Vec<FilterFile>,
    matches: &[RouteMatch],
    namespace: &str,
    faults: &mut Found<'_>,
) -> Filters {
    few(field, list.len(), MOST_FILTERS, faults);
    let kinds: Vec<FilterKind> = list.iter().map(|filter| filter.r#type).collect();
    let count = |kind| kinds.iter().filter(|other| **other == kind).count();
    for kind in [
        FilterKind::RequestHeaderModifier,
        FilterKind::ResponseHeaderModifier,
        FilterKind::RequestRedirect,
        FilterKind::UrlRewrite,
    ] {
        if count(kind) > 1 {
            faults.push(field, format!("{kind:?} stands twice"));
        }
    }
    let sends = count(FilterKind::UrlRewrite) + count(FilterKind::RequestMirror);
    if count(FilterKind::RequestRedirect) > 0 && sends > 0 {
        faults.push(field, "a rule that redirects sends nothing on: neither rewritten nor mirrored");
    }
    let mut filters = Filters::default();
    faults.each(field, list, |filter, field, faults| filter.add_to(&mut filters, field, namespace, faults));
    let by_prefix = |path: &Option<PathChange>| matches!(path, Some(PathChange::Prefix(_)));
    let replaces = by_prefix(&filters.rewrite.path)
        || filters.redirect.as_ref().is_some_and(|redirect| by_prefix(&redirect.path));
    if replaces && matches.iter().any(|one| matches!(one.path, PathMatch::Exact(_))) {
        faults.push(field, "ReplacePrefixMatch has no prefix to replace where a match is by Exact");
    }
    filters
}

/// The filters of a backend: what else changes in the fields of the request, and of the answer.
pub(super) fn of_backend(
    field: &str,
    list: Vec<BackendFilterFile>,
    faults: &mut Found<'_>,
) -> (HeaderChanges, HeaderChanges) {
    let (mut request, mut response) = (None, None);
    faults.each(field, list, |filter, field, faults| {
        let kind = filter.r#type;
        let (changes, into) = match filter {
            BackendFilterFile {
                r#type: BackendFilterKind::RequestHeaderModifier,
                request_header_modifier: Some(modifier),
                response_header_modifier: None,
            } => (modifier.resolve(&format!("{field}.requestHeaderModifier"), faults), &mut request),
            BackendFilterFile {
                r#type: BackendFilterKind::ResponseHeaderModifier,
                request_header_modifier: None,
                response_header_modifier: Some(modifier),
            } => (modifier.resolve(&format!("{field}.responseHeaderModifier"), faults), &mut response),
            _ => {
                faults.push(field, ONE_FIELD);
                return None;
            }
        };
        if into.replace(changes).is_some() {
            faults.push(field, format!("{kind:?} stands twice"));
        }
        Some(())
    });
    (request.unwrap_or_default(), response.unwrap_or_default())
}

impl FilterFile {
    fn add_to(
        self,
        filters: &mut Filters,
        field: &str,
        namespace: &str,
        faults: &mut Found<'_>,
    ) -> Option<()> {
        let filled = [
            self.request_header_modifier.is_some(),
            self.response_header_modifier.is_some(),
            self.request_redirect.is_some(),
            self.url_rewrite.is_some(),
            self.request_mirror.is_some(),
        ];
        let at = |part: &str| format!("{field}.{part}");
        match self {
            _ if filled.iter().filter(|filled| **filled).count() != 1 => {}
            Self {
                r#type: FilterKind::RequestHeaderModifier,
                request_header_modifier: Some(modifier),
                ..
            } => {
                filters.request_headers = modifier.resolve(&at("requestHeaderModifier"), faults);
                return Some(());
            }
            Self {
                r#type: FilterKind::ResponseHeaderModifier,
                response_header_modifier: Some(modifier),
                ..
            } => {
                filters.response_headers = modifier.resolve(&at("responseHeaderModifier"), faults);
                return Some(());
            }
            Self { r#type: FilterKind::RequestRedirect, request_redirect: Some(redirect), .. } => {
                filters.redirect = Some(redirect.resolve(&at("requestRedirect"), faults)?);
                return Some(());
            }
            Self { r#type: FilterKind::UrlRewrite, url_rewrite: Some(rewrite), .. } => {
                filters.rewrite = rewrite.resolve(&at("urlRewrite"), faults)?;
                return Some(());
            }
            Self { r#type: FilterKind::RequestMirror, request_mirror: Some(mirror), .. } => {
                filters.mirrors.push(mirror.resolve(&at("requestMirror"), namespace, faults)?);
                return Some(());
            }
            _ => {}
        }
        faults.push(field, ONE_FIELD);
        None
    }
}

impl ModifierFile {
    fn resolve(self, field: &str, faults: &mut Found<'_>) -> HeaderChanges {
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

impl RedirectFile {
    fn resolve(self, field: &str, faults: &mut Found<'_>) -> Option<Redirect> {
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
    fn resolve(self, field: &str, faults: &mut Found<'_>) -> Option<Rewrite> {
        if self.hostname.is_none() && self.path.is_none() {
            faults.push(field, "neither `hostname` nor `path`");
        }
        let hostname = hostname(&format!("{field}.hostname"), self.hostname, faults);
        let path = path(&format!("{field}.path"), self.path, faults);
        Some(Rewrite { hostname: hostname?, path: path? })
    }
}

impl ChangeFile {
    fn resolve(self, field: &str, faults: &mut Found<'_>) -> Option<PathChange> {
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

impl MirrorFile {
    fn resolve(self, field: &str, namespace: &str, faults: &mut Found<'_>) -> Option<Mirror> {
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

fn changeable(field: &str, name: &str, faults: &mut Found<'_>) -> Option<()> {
    if is_changeable(&name.to_ascii_lowercase()) {
        return Some(());
    }
    let message =
        format!("{name:?} frames or addresses the message, belongs to one hop, or speaks of the caller");
    faults.push(field, message);
    None
}

const fn found() -> u16 {
    302
}

const fn hundred() -> u32 {
    100
}

const ONE_FIELD: &str = "exactly the field that `type` names is needed";
/// These are the bounds of `HTTPRoute`.
const MOST_FILTERS: usize = 16;
const MOST_CHANGES: usize = 48;
