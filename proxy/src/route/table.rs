//! The rules of a service in the form that finds one: by host, then by path, then by what is left to compare. Which rule
//! decides is as Gateway API says (`HTTPRouteSpec.hostnames`, `HTTPRouteRule.matches`), and costs no more for more paths.

use std::{cmp::Reverse, sync::Arc};

use hashbrown::HashMap;
use http::HeaderMap;

use super::query;
use crate::{
    config::{Host, PathMatch, RouteMatch, RouteRule},
    rate::Limiter,
};

/// What is asked of a request, in its checked form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
}

/// A rule that matches a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matched<'a> {
    pub(crate) rule: &'a Arc<RouteRule>,
    /// Bytes of the path that the match was by; all of them where it was exact.
    pub(crate) prefix: usize,
    /// How many requests it takes. `None`: any number.
    pub(crate) limiter: Option<&'a Limiter>,
}

/// The rules of a service.
#[derive(Debug)]
pub(crate) struct RouteTable {
    rules: Vec<Limited>,
    /// The more specific host first; `None`, which is any, last.
    hosts: Vec<(Option<Host>, Paths)>,
}

/// A rule with its rate limit, if it has one.
#[derive(Debug)]
struct Limited {
    rule: Arc<RouteRule>,
    limiter: Option<Arc<Limiter>>,
}

/// The matches of one host, by path.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<str>, Vec<Place>>,
    prefixes: HashMap<Box<str>, Vec<Place>>,
    longest_prefix: usize,
}

/// A match of a rule; the more specific ones stand first.
#[derive(Clone, Copy, Debug)]
struct Place {
    rule: usize,
    condition: usize,
}

impl RouteTable {
    /// `None`: there are no rules.
    pub(crate) fn compile(
        rules: &[Arc<RouteRule>],
        mut limiter: impl FnMut(&RouteRule) -> Option<Arc<Limiter>>,
    ) -> Option<Self> {
        if rules.is_empty() {
            return None;
        }
        let with_limits = rules.iter().map(|rule| Limited { rule: Arc::clone(rule), limiter: limiter(rule) });
        let mut table = Self { rules: with_limits.collect(), hosts: Vec::new() };
        for (index, rule) in rules.iter().enumerate() {
            let any = rule.hostnames.is_empty().then_some(None);
            for host in rule.hostnames.iter().map(Some).chain(any) {
                let paths = table.paths_of(host);
                for (condition, one) in rule.matches.iter().enumerate() {
                    paths.add(&one.path, Place { rule: index, condition });
                }
            }
        }
        // One exact host at most is a request's, so lengths count among wildcards alone.
        table.hosts.sort_by_key(|(host, _)| {
            let rank = host.as_ref().map(Host::parts);
            Reverse(rank.map_or((false, false, 0), |(name, is_wildcard)| (true, !is_wildcard, name.len())))
        });
        for (_, paths) in &mut table.hosts {
            paths.sort(rules);
        }
        Some(table)
    }

    /// The rule for a request; `None`: none matches.
    pub(crate) fn find(&self, asking: &Asking<'_>) -> Option<Matched<'_>> {
        let hosts = self.hosts.iter().filter(|(host, _)| is_host(host.as_ref(), asking.host));
        hosts.map(|(_, paths)| paths).find_map(|paths| paths.find(asking, &self.rules))
    }

    fn paths_of(&mut self, host: Option<&Host>) -> &mut Paths {
        let known = self.hosts.iter().position(|(other, _)| other.as_ref() == host);
        let index = known.unwrap_or_else(|| {
            self.hosts.push((host.cloned(), Paths::default()));
            self.hosts.len() - 1
        });
        &mut self.hosts[index].1
    }
}

impl Paths {
    fn add(&mut self, path: &PathMatch, place: Place) {
        let (paths, path) = match path {
            PathMatch::Exact(path) => (&mut self.exact, path),
            PathMatch::Prefix(path) => {
                self.longest_prefix = self.longest_prefix.max(path.len());
                (&mut self.prefixes, path)
            }
        };
        paths.entry(path.as_str().into()).or_default().push(place);
    }

    fn sort(&mut self, rules: &[Arc<RouteRule>]) {
        for places in self.exact.values_mut().chain(self.prefixes.values_mut()) {
            places.sort_by_key(|place| {
                let one = &rules[place.rule].matches[place.condition];
                let specific = (one.method.is_some(), one.headers.len(), one.query.len());
                (Reverse(specific), place.rule, place.condition)
            });
        }
    }

    fn find<'a>(&self, asking: &Asking<'_>, rules: &'a [Limited]) -> Option<Matched<'a>> {
        let first = |places: &Vec<Place>, prefix| {
            let is_right = |place: &&Place| holds(&rules[place.rule].rule.matches[place.condition], asking);
            let Limited { rule, limiter } = &rules[places.iter().find(is_right)?.rule];
            Some(Matched { rule, prefix, limiter: limiter.as_deref() })
        };
        let path = asking.path;
        let exact = self.exact.get(path).and_then(|places| first(places, path.len()));
        exact.or_else(|| self.boundaries(path).find_map(|end| first(self.prefixes.get(&path[..end])?, end)))
    }

    /// Where a prefix of `path` may end, the longest first: at its own end, before each slash, and before everything.
    fn boundaries(&self, path: &str) -> impl Iterator<Item = usize> {
        let before = |end: usize| (end > 0).then(|| path[..end].rfind('/').unwrap_or(0));
        let longest = self.longest_prefix;
        std::iter::successors(Some(path.len()), move |end| before(*end)).filter(move |end| *end <= longest)
    }
}

/// Whether a request is for one of `hostnames`, none of them being any, and holds one of `matches`.
pub(crate) fn is_matched(hostnames: &[Host], matches: &[RouteMatch], asking: &Asking<'_>) -> bool {
    (hostnames.is_empty() || hostnames.iter().any(|host| is_host(Some(host), asking.host)))
        && matches.iter().any(|one| is_path(&one.path, asking.path) && holds(one, asking))
}

fn is_path(path: &PathMatch, asked: &str) -> bool {
    match path {
        PathMatch::Exact(path) => path == asked,
        PathMatch::Prefix(prefix) => {
            asked.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    }
}

fn is_host(host: Option<&Host>, asked: &str) -> bool {
    match host.map(Host::parts) {
        None => true,
        Some((name, false)) => name == asked,
        Some((name, true)) => {
            asked.strip_suffix(name).is_some_and(|before| before.len() > 1 && before.ends_with('.'))
        }
    }
}

/// Whatever of a match its path does not say.
fn holds(one: &RouteMatch, asking: &Asking<'_>) -> bool {
    one.method.as_ref().is_none_or(|method| method.as_str() == asking.method)
        && one.headers.iter().all(|(name, value)| {
            let mut values = asking.headers.get_all(name).iter();
            values.next() == Some(value) && values.next().is_none()
        })
        && one.query.iter().all(|(name, value)| query::has(asking.query.unwrap_or_default(), name, value))
}

#[cfg(test)]
mod tests;
