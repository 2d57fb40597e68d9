//! Denied paths that were meant as prefixes. A path without `/**` is that path alone.

use super::{
    Entry, Finding, Lint, Surroundings,
    cover::{Asked, Scope},
};
use crate::{PathPattern, model::Action};

/// A Deny on `/admin` beside an Allow rule that takes `/admin/` or `/administrator`, which no Deny rule names.
pub(super) fn prefix(entry: &Entry<'_>, entries: &[Entry<'_>], known: &Surroundings<'_>) -> Option<Finding> {
    if entry.action() != Action::Deny {
        return None;
    }
    let scope = Scope::of(known);
    let meets = |other: &&Entry<'_>| scope.overlap(entry.sourced.policy(), other.sourced.policy());
    let (denied, allowed): (Vec<&Entry<'_>>, Vec<_>) = entries
        .iter()
        .filter(meets)
        .filter(|other| other.action() != Action::Require && other.is_enforced())
        .filter(|other| other.action() == Action::Deny || !other.is_over(known))
        .partition(|other| other.action() == Action::Deny);
    let is_denied = |path: &str| denied.iter().copied().flat_map(paths).any(|it| it.matches(path));
    paths(entry).filter(|path| looks_like_a_prefix(path)).find_map(|path| {
        let (rule, passed) = allowed.iter().find_map(|rule| {
            let passed = paths(rule).find_map(|pattern| continuation(path, pattern));
            Some((*rule, passed.filter(|passed| !is_denied(passed))?))
        })?;
        let why = format!(
            "`{path}` is that path alone; `{passed}` is matched by {rule}, and no Deny rule names it"
        );
        let fix = format!("write `{path}/**` for the path and all below it, and name other paths in full");
        Some(entry.finding(Lint::PrefixWithoutBoundary, why, fix).beside(rule))
    })
}

fn paths<'e>(entry: &'e Entry<'_>) -> impl Iterator<Item = &'e PathPattern> {
    let operations = entry.form.operations.iter().flatten();
    operations.flat_map(|operation: &Asked<'_>| operation.paths.iter().flatten())
}

/// Text alone, and not a folder's path, which is one on purpose.
fn looks_like_a_prefix(path: &PathPattern) -> bool {
    let literal = |segment: &crate::values::Segment| segment.literal().is_some_and(|text| !text.is_empty());
    !path.is_open() && path.segments().iter().all(literal)
}

/// A path that goes on where the denied one ends, and that the pattern matches.
fn continuation(denied: &PathPattern, pattern: &PathPattern) -> Option<String> {
    let below = format!("{denied}/");
    if pattern.matches(&below) {
        return Some(below);
    }
    let is_text = !pattern.is_open() && pattern.segments().iter().all(|segment| segment.literal().is_some());
    let goes_on = pattern.as_str() != denied.as_str() && pattern.as_str().starts_with(denied.as_str());
    (is_text && goes_on).then(|| pattern.as_str().to_owned())
}
