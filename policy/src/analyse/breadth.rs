//! Rules that let in anybody.

use super::{Entry, Finding, Lint, Surroundings, cover::Asked};
use crate::model::Action;

/// An Allow rule without `from` that is not limited to reading some paths.
pub(super) fn any_caller(entry: &Entry<'_>, known: &Surroundings<'_>) -> Option<Finding> {
    // A `when` may name the callers, or the reading, in its own way.
    let is_limited = entry.rule.from.is_some() || entry.rule.when.is_some();
    if entry.action() != Action::Allow || is_limited || entry.is_over(known) {
        return None;
    }
    let what = entry.form.operations.iter().flatten().find_map(excess)?;
    let why = format!("without `from` it matches any verified peer, and {what}");
    Some(entry.finding(Lint::AnyCaller, why, "name the callers in `from`, or limit it to reading some paths"))
}

/// What an operation permits beyond reading some paths.
fn excess(operation: &Asked<'_>) -> Option<&'static str> {
    let is_everything = |path: &crate::PathPattern| path.is_open() && path.segments().is_empty();
    match &operation.paths {
        None => Some("it names no paths"),
        Some(paths) if paths.iter().any(is_everything) => Some("`/**` is every path"),
        Some(_) if !operation.only_reads() => Some("not only to read"),
        Some(_) => None,
    }
}
