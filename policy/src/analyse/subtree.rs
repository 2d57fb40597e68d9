//! Denied paths that were meant as prefixes. A path without `/**` is that path alone.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use super::{
    Entry, Finding, Lint, Surroundings,
    candidates::{literal_prefix, prefixes_of},
    cover::{Asked, Scope},
};
use crate::{PathPattern, model::Action};

/// The paths of all rules in force: how they begin, so that a path is compared with the few that can match it.
pub(super) struct Paths<'e, 's> {
    entries: &'e [Entry<'s>],
    allowed: HashMap<String, Vec<Place<'e>>>,
    denied: HashMap<String, Vec<Place<'e>>>,
    /// Allowed paths that are text alone, in the order of their text.
    plain: BTreeMap<&'e str, Vec<Place<'e>>>,
}

/// A path, and the place of its rule.
type Place<'e> = (usize, &'e PathPattern);

impl<'e, 's> Paths<'e, 's> {
    pub(super) fn of(entries: &'e [Entry<'s>], known: &Surroundings<'_>) -> Self {
        let mut paths =
            Self { entries, allowed: HashMap::new(), denied: HashMap::new(), plain: BTreeMap::new() };
        for (place, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.is_enforced()) {
            let begins = match entry.action() {
                Action::Require => continue,
                Action::Allow if entry.is_over(known) => continue,
                Action::Allow => &mut paths.allowed,
                Action::Deny => &mut paths.denied,
            };
            for path in paths_of(entry) {
                begins.entry(literal_prefix(path)).or_default().push((place, path));
                if entry.action() == Action::Allow && is_plain(path) {
                    paths.plain.entry(path.as_str()).or_default().push((place, path));
                }
            }
        }
        paths
    }

    /// A Deny on `/admin` beside an Allow rule that takes `/admin/` or `/administrator`, which no Deny rule names.
    pub(super) fn prefix(&self, entry: &Entry<'_>, known: &Surroundings<'_>) -> Option<Finding> {
        if entry.action() != Action::Deny {
            return None;
        }
        let scope = Scope::of(known);
        let meets = |place: usize| {
            let other = self.entries.get(place);
            other.is_some_and(|other| scope.overlap(entry.sourced.policy(), other.sourced.policy()))
        };
        paths_of(entry).filter(|path| looks_like_a_prefix(path)).find_map(|path| {
            let goes_on = self.going_on(path).filter(|(place, _)| meets(*place));
            let passed = goes_on.filter(|(_, passed)| !self.is_denied(passed, meets));
            let (place, passed) = passed.min_by_key(|(place, _)| *place)?;
            let rule = self.entries.get(place)?;
            let why = format!(
                "`{path}` is that path alone; `{passed}` is matched by {rule}, and no Deny rule names it"
            );
            let fix =
                format!("write `{path}/**` for the path and all below it, and name other paths in full");
            Some(entry.finding(Lint::PrefixWithoutBoundary, why, fix).beside(rule))
        })
    }

    /// Paths that go on where the denied one ends, each with the place of a rule that lets it in.
    fn going_on(&self, denied: &PathPattern) -> impl Iterator<Item = (usize, String)> {
        /// As many as a person would look at.
        const MOST: usize = 256;
        let below = format!("{denied}/");
        let matching = prefixes_of(&below)
            .into_iter()
            .flat_map(|prefix| self.allowed.get(&prefix).into_iter().flatten())
            .filter({
                let below = below.clone();
                move |(_, pattern)| pattern.matches(&below)
            })
            .map(move |(place, _)| (*place, below.clone()));
        let text = denied.as_str().to_owned();
        let from = (Bound::Excluded(denied.as_str()), Bound::Unbounded);
        let beside = self.plain.range::<str, _>(from).take_while(move |(path, _)| path.starts_with(&text));
        let beside =
            beside.flat_map(|(path, places)| places.iter().map(|(place, _)| (*place, (*path).to_owned())));
        matching.take(MOST).chain(beside.take(MOST))
    }

    fn is_denied(&self, path: &str, meets: impl Fn(usize) -> bool) -> bool {
        prefixes_of(path)
            .into_iter()
            .flat_map(|prefix| self.denied.get(&prefix).into_iter().flatten())
            .any(|(place, pattern)| pattern.matches(path) && meets(*place))
    }
}

fn paths_of<'e>(entry: &'e Entry<'_>) -> impl Iterator<Item = &'e PathPattern> {
    let operations = entry.form.operations.iter().flatten();
    operations.flat_map(|operation: &Asked<'_>| operation.paths.iter().flatten())
}

/// Text alone, and not a folder's path, which is one on purpose.
fn looks_like_a_prefix(path: &PathPattern) -> bool {
    let literal = |segment: &crate::values::Segment| segment.literal().is_some_and(|text| !text.is_empty());
    !path.is_open() && path.segments().iter().all(literal)
}

fn is_plain(path: &PathPattern) -> bool {
    !path.is_open() && path.segments().iter().all(|segment| segment.literal().is_some())
}
