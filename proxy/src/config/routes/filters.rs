//! The filters of a rule in the file, and the step from them to typed changes. Refuses combinations of which one would undo the
//! other; what each may say is in the module of its kind.

mod mirror;
mod modifier;
mod target;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{HeaderChanges, Mirror, PathChange, PathMatch, Redirect, Rewrite, RouteMatch, file::few};
use crate::config::file::Faults as Found;

use mirror::MirrorFile;
use modifier::ModifierFile;
use target::{RedirectFile, RewriteFile};

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

const ONE_FIELD: &str = "exactly the field that `type` names is needed";
/// The bound of `HTTPRoute`.
const MOST_FILTERS: usize = 16;
