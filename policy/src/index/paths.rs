//! The rules of one caller on one port, found by the path of the request: a tree whose edges are segments. Receives
//! candidates with their patterns; hands on the lists of those whose pattern matches.

use std::{mem, sync::Arc};

use hashbrown::HashMap;

use super::{Candidate, Clause};
use crate::{Condition, values::Segment};

/// Candidates by what they ask of HTTP. Every list is in the order of candidates.
#[derive(Debug, Default)]
pub(super) struct PathIndex {
    /// Ask for nothing: also for opaque connections.
    plain: Vec<Candidate>,
    /// Ask for something, but for no path.
    pathless: Vec<Candidate>,
    paths: Option<Node>,
    /// All that ask for something: what an opaque connection leaves in doubt.
    doubtful: Vec<Candidate>,
}

/// What patterns have in common, and where they part.
#[derive(Debug, Default)]
struct Node {
    /// Segments that all of them begin with: one comparison each, where a branch costs a lookup.
    prefix: Vec<Arc<str>>,
    literals: HashMap<Arc<str>, Node>,
    /// Behind any one segment that is not empty.
    any: Option<Box<Node>>,
    /// Whose pattern ends here.
    here: Vec<Candidate>,
    /// Whose pattern ends here in `/**`.
    open: Vec<Candidate>,
}

impl PathIndex {
    pub(super) fn add(&mut self, candidate: Candidate) {
        let clause = Arc::clone(&candidate.clause);
        if clause.asks_http()
            || clause.jwt.is_some()
            || clause.when.as_ref().is_some_and(Condition::asks_http)
        {
            self.doubtful.push(candidate.clone());
        }
        match &clause.path {
            Some(pattern) => self.paths.get_or_insert_with(|| Node::before(pattern.segments())).add(
                pattern.segments(),
                pattern.is_open(),
                candidate,
            ),
            None if clause.asks_http() => self.pathless.push(candidate),
            None => self.plain.push(candidate),
        }
    }

    /// Shows `visit` every list that can hold a match; `path` is that of the request, `None` for an opaque connection.
    pub(super) fn visit_matches<'i>(&'i self, path: Option<&str>, visit: &mut impl FnMut(&'i [Candidate])) {
        visit(&self.plain);
        if let Some(path) = path {
            visit(&self.pathless);
            // A path without its slash, such as the `*` of OPTIONS, has no segments that a pattern could match.
            if let (Some(root), Some(segments)) = (&self.paths, path.strip_prefix('/')) {
                root.visit(Some(segments), visit);
            }
        }
    }

    pub(super) fn doubtful(&self) -> &[Candidate] {
        &self.doubtful
    }
}

impl Node {
    /// A node for a pattern alone: all of the literals ahead are its prefix.
    fn before(segments: &[Segment]) -> Self {
        let prefix = segments.iter().map_while(Segment::literal).cloned().collect();
        Self { prefix, ..Self::default() }
    }

    fn add(&mut self, segments: &[Segment], open: bool, candidate: Candidate) {
        match self.past_prefix(segments).split_first() {
            None if open => self.open.push(candidate),
            None => self.here.push(candidate),
            Some((first, rest)) => {
                let child = match first {
                    Segment::Literal(literal) => {
                        self.literals.entry(Arc::clone(literal)).or_insert_with(|| Self::before(rest))
                    }
                    Segment::Any => self.any.get_or_insert_with(|| Box::new(Self::before(rest))),
                };
                child.add(rest, open, candidate);
            }
        }
    }

    /// The segments of a pattern behind the prefix, which is cut where the pattern leaves it.
    fn past_prefix<'s>(&mut self, segments: &'s [Segment]) -> &'s [Segment] {
        let same = |(literal, segment): &(&Arc<str>, &Segment)| segment.literal() == Some(*literal);
        let shared = self.prefix.iter().zip(segments).take_while(same).count();
        let mut left = self.prefix.drain(shared..);
        if let Some(first) = left.next() {
            let prefix = left.collect();
            let shared = mem::take(&mut self.prefix);
            let below = Self { prefix, ..mem::take(self) };
            self.prefix = shared;
            self.literals.insert(first, below);
        }
        segments.get(shared..).unwrap_or_default()
    }

    /// Goes down every branch that the segments match. Each node has one way to it, so even a set written to make
    /// this slow costs one visit of each of its nodes.
    fn visit<'i>(&'i self, mut segments: Option<&str>, visit: &mut impl FnMut(&'i [Candidate])) {
        for literal in &self.prefix {
            match segments.map(split_segment) {
                Some((first, rest)) if *first == **literal => segments = rest,
                _ => return,
            }
        }
        visit(&self.open);
        let Some(segments) = segments else {
            return visit(&self.here);
        };
        if self.literals.is_empty() && self.any.is_none() {
            return;
        }
        let (first, rest) = split_segment(segments);
        if let Some(node) = self.literals.get(first) {
            node.visit(rest, visit);
        }
        if let Some(node) = self.any.as_deref().filter(|_| !first.is_empty()) {
            node.visit(rest, visit);
        }
    }
}

/// The first segment and what follows its slash. Segments are short: counting their bytes is faster than a search
/// that is made for long texts.
fn split_segment(segments: &str) -> (&str, Option<&str>) {
    let slash = segments.bytes().position(|byte| byte == b'/');
    match slash.and_then(|slash| segments.split_at_checked(slash)) {
        Some((first, rest)) => (first, rest.get(1..)),
        None => (segments, None),
    }
}

impl Clause {
    /// Whether a request without HTTP leaves it in doubt, whatever its `jwt` and `when` say.
    pub(crate) fn asks_http(&self) -> bool {
        self.methods.is_some() || self.hosts.is_some() || self.path.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;
    use crate::{
        compile::CompiledRule,
        model::{Mode, Rule},
        values::PathPattern,
    };

    /// Few words and every shape, so that prefixes are shared, cut, and cut again.
    fn pattern() -> impl Strategy<Value = PathPattern> {
        let end = select(&["", "/", "/**"]);
        (vec(select(&["a", "b", "{}"]), 0..6), end).prop_map(|(segments, end)| {
            let named = segments.iter().enumerate().map(|(index, segment)| match *segment {
                "{}" => format!("/{{x{index}}}"),
                literal => format!("/{literal}"),
            });
            let text: String = named.collect::<String>() + end;
            let text = if text.is_empty() { "/" } else { &text };
            text.parse().unwrap()
        })
    }

    fn path() -> impl Strategy<Value = String> {
        vec(select(&["a", "b", "c", "", "**", "{x0}"]), 0..7).prop_map(|segments| segments.join("/"))
    }

    fn candidate(rank: usize, pattern: &PathPattern) -> Candidate {
        let name: crate::Name = "r".parse().unwrap();
        let rule = CompiledRule {
            order: rank,
            policy: "p".into(),
            mode: Mode::Enforce,
            name: name.shared(),
            source: "s".into(),
            rule: Rule { name, from: None, to: None, jwt: None, when: None, rego: None, expires: None },
        };
        Candidate {
            rank,
            clause: Arc::new(Clause { path: Some(pattern.clone()), ..Clause::unconditional(Arc::new(rule)) }),
            peer: None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_tree_finds_exactly_the_patterns_that_match_each_once_and_in_order(
            patterns in vec(pattern(), 0..12), path in path(),
        ) {
            let mut index = PathIndex::default();
            for (rank, pattern) in patterns.iter().enumerate() {
                index.add(candidate(rank, pattern));
            }
            let mut found = Vec::new();
            index.visit_matches(Some(&path), &mut |list| {
                let ranks = list.iter().map(|candidate| candidate.rank);
                assert!(ranks.clone().is_sorted());
                found.extend(ranks);
            });
            found.sort_unstable();
            let matching = patterns.iter().enumerate().filter(|(_, pattern)| pattern.matches(&path));
            let wanted: Vec<usize> = matching.map(|(rank, _)| rank).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
