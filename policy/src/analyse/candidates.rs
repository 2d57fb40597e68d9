//! Which rules could cover another: found by caller, port and path, so that ten thousand rules are not compared pair by
//! pair. Hands on a superset of those that do, and never leaves one out.

use std::{cell::Cell, collections::HashMap};

use sidegate_identity::SpiffeId;

use super::{Entry, cover::Asked};
use crate::{PathPattern, limits};

/// Rules by what a rule that they cover must have.
#[derive(Default)]
pub(super) struct Candidates<'e> {
    /// The places of rules, in their order.
    places: HashMap<Key<'e>, Vec<usize>>,
    /// Comparisons that may still be made.
    left: Cell<usize>,
}

/// `None`: whoever calls, on whichever port, whatever the path.
type Key<'e> = (Option<&'e SpiffeId>, Option<u16>, Option<String>);

impl<'e> Candidates<'e> {
    pub(super) fn of(entries: &'e [Entry<'_>]) -> Self {
        let mut candidates = Self { left: Cell::new(limits::COMPARED_RULES), ..Self::default() };
        for (place, entry) in entries.iter().enumerate() {
            for caller in entry.form.callers() {
                for (port, path) in entry.form.asked() {
                    let places = candidates.places.entry((caller, port, path)).or_default();
                    if places.last() != Some(&place) {
                        places.push(place);
                    }
                }
            }
        }
        candidates
    }

    /// The first place of a rule that could cover `entry` and for which `is_it` holds.
    pub(super) fn first(&self, entry: &Entry<'_>, mut is_it: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut first: Option<usize> = None;
        for key in keys(entry) {
            for place in self.places.get(&key).into_iter().flatten().copied() {
                if first.is_some_and(|first| first <= place) || !self.may_compare() {
                    break;
                }
                if is_it(place) {
                    first = Some(place);
                    break;
                }
            }
        }
        first
    }

    /// Whether there were more comparisons than are made.
    pub(super) fn is_exhausted(&self) -> bool {
        self.left.get() == 0
    }

    fn may_compare(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }
}

/// Under which of them a rule that covers `entry` is found: it covers its first source, and its first operation.
fn keys<'k>(entry: &'k Entry<'_>) -> Vec<Key<'k>> {
    let callers = [None, entry.form.callers().into_iter().next().flatten()];
    let callers = if callers[1].is_none() { &callers[..1] } else { &callers[..] };
    let first = entry.form.operations.as_ref().and_then(|operations| operations.first());
    let ports = first.and_then(Asked::first_port).map(Some).into_iter().chain([None]);
    let path = first.and_then(|operation| operation.paths.as_ref()?.first());
    let paths: Vec<Option<String>> =
        path.map(prefixes).unwrap_or_default().into_iter().map(Some).chain([None]).collect();
    let mut keys = Vec::new();
    for caller in callers {
        for port in ports.clone() {
            keys.extend(paths.iter().map(|path| (*caller, port, path.clone())));
        }
    }
    keys
}

/// The literal segments that a pattern begins with: what it covers begins with them too.
pub(super) fn literal_prefix(pattern: &PathPattern) -> String {
    let literals = pattern.segments().iter().map_while(crate::values::Segment::literal);
    literals.fold(String::new(), |prefix, literal| prefix + "/" + literal)
}

/// Every such prefix that a covering pattern can have, the empty one included.
fn prefixes(pattern: &PathPattern) -> Vec<String> {
    prefixes_of(&literal_prefix(pattern))
}

/// A path cut at each of its slashes: `""`, `/a`, `/a/b`.
pub(super) fn prefixes_of(path: &str) -> Vec<String> {
    let cuts = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    let mut prefixes: Vec<String> = cuts.filter_map(|at| path.get(..at)).map(str::to_owned).collect();
    prefixes.dedup();
    prefixes
}
