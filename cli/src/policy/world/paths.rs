//! Paths, one for each set of patterns that some path matches: found by walking all patterns at once, segment by segment, so that
//! what two patterns share (`/a/{x}` and `/{y}/b` share `/a/b`) is found too.

use std::collections::{BTreeSet, HashSet};

/// A pattern, taken apart. Its text is one that the policy reader took.
struct Pattern<'t> {
    segments: Vec<&'t str>,
    is_open: bool,
}

struct Walk<'t> {
    patterns: Vec<Pattern<'t>>,
    seen: HashSet<Vec<usize>>,
    found: Vec<String>,
    steps: usize,
}

/// The paths, and whether there is one for each set. With `within`, those that this pattern matches.
pub(super) fn of(patterns: &BTreeSet<String>, within: Option<&str>) -> (Vec<String>, bool) {
    let mut walk = Walk {
        patterns: patterns.iter().map(String::as_str).chain(within).map(Pattern::of).collect(),
        seen: HashSet::new(),
        found: Vec::new(),
        steps: 0,
    };
    let all: Vec<usize> = (0..walk.patterns.len()).collect();
    walk.step("", 0, &all, within.map(|_| patterns.len()));
    let is_complete = walk.steps < MOST_STEPS;
    (walk.found, is_complete)
}

impl<'t> Pattern<'t> {
    fn of(text: &'t str) -> Self {
        let path = text.strip_prefix('/').unwrap_or(text);
        match path.strip_suffix("**") {
            Some("") => Self { segments: Vec::new(), is_open: true },
            Some(before) => {
                Self { segments: before.trim_end_matches('/').split('/').collect(), is_open: true }
            }
            None => Self { segments: path.split('/').collect(), is_open: false },
        }
    }

    /// Whether the path may go on with `segment` at this depth.
    fn takes(&self, depth: usize, segment: &str) -> bool {
        match self.segments.get(depth) {
            Some(expected) if expected.starts_with('{') => !segment.is_empty(),
            Some(expected) => *expected == segment,
            None => self.is_open,
        }
    }

    /// Whether a path of this depth, all of whose segments it has taken, is matched.
    fn ends_at(&self, depth: usize) -> bool {
        depth == self.segments.len() || self.is_open && depth > self.segments.len()
    }
}

impl Walk<'_> {
    fn step(&mut self, before: &str, depth: usize, alive: &[usize], within: Option<usize>) {
        let expected = |index: &usize| self.patterns[*index].segments.get(depth).copied();
        let literals: BTreeSet<&str> =
            alive.iter().filter_map(expected).filter(|segment| !segment.starts_with('{')).collect();
        let other = std::iter::successors(Some(OTHER.to_owned()), |name| Some(format!("{name}-")))
            .find(|name| !literals.contains(name.as_str()));
        let mut choices: Vec<String> = literals.into_iter().map(str::to_owned).chain(other).collect();
        if !choices.iter().any(String::is_empty) {
            choices.push(String::new());
        }
        for segment in choices {
            self.steps += 1;
            if self.steps >= MOST_STEPS {
                return;
            }
            let taking: Vec<usize> =
                alive.iter().copied().filter(|index| self.patterns[*index].takes(depth, &segment)).collect();
            if within.is_some_and(|within| !taking.contains(&within)) {
                continue;
            }
            let path = format!("{before}/{segment}");
            let matched: Vec<usize> =
                taking.iter().copied().filter(|index| self.patterns[*index].ends_at(depth + 1)).collect();
            let is_within = within.is_none_or(|within| matched.contains(&within));
            if is_within && self.seen.insert(matched) {
                self.found.push(path.clone());
            }
            // Behind the last segment of every pattern nothing is told apart any more.
            let goes_on = taking.iter().any(|index| self.patterns[*index].segments.len() > depth + 1);
            if goes_on && !segment.is_empty() {
                self.step(&path, depth + 1, &taking, within);
            }
        }
    }
}

/// A segment that no pattern names.
const OTHER: &str = "other";
/// Segments tried: a set of ten thousand paths takes about twice as many.
const MOST_STEPS: usize = 200_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(patterns: &[&str], within: Option<&str>) -> Vec<String> {
        let patterns = patterns.iter().map(|text| (*text).to_owned()).collect();
        let (mut paths, is_complete) = of(&patterns, within);
        assert!(is_complete);
        paths.sort();
        paths
    }

    #[test]
    fn there_is_one_path_for_each_set_of_patterns_that_some_path_matches() {
        assert_eq!(paths(&[], None), ["/other"]);
        assert_eq!(paths(&["/a"], None), ["/a", "/other"]);
        assert_eq!(paths(&["/a/{x}", "/{y}/b"], None), ["/a", "/a/b", "/a/other", "/other/b"]);
        assert_eq!(paths(&["/a/**", "/a/b"], None), ["/a", "/a/b", "/other"]);
        assert_eq!(paths(&["/a", "/a/"], None), ["/a", "/a/", "/a/other"]);
        assert_eq!(paths(&["/**"], None), ["/other"]);
        assert_eq!(paths(&["/other"], None), ["/other", "/other-"]);
    }

    #[test]
    fn within_a_pattern_only_its_own_paths_are_found() {
        assert_eq!(paths(&["/a/{x}", "/a/b"], Some("/a/{x}")), ["/a/b", "/a/other"]);
        assert_eq!(paths(&["/c"], Some("/a/**")), ["/a"]);
    }

    #[test]
    fn what_would_take_too_long_is_not_finished_and_says_so() {
        let patterns: BTreeSet<String> = (0..18)
            .map(|index| {
                (0..18).map(|at| if at == index { "/a".to_owned() } else { format!("/{{x{at}}}") }).collect()
            })
            .collect();
        assert!(!of(&patterns, None).1);
    }
}
