//! Whether two rules have no request in common. "Yes" is certain; "no" may only mean that it is not obvious.

use super::cover::{Asked, Callers, Form};
use crate::{
    model::OneOf,
    values::{HostPattern, IpBlock, PathPattern},
};

impl Form<'_> {
    /// Whether nothing that one matches can be matched by the other.
    pub(super) fn is_apart(&self, other: &Self) -> bool {
        all_apart(self.peers.as_deref(), other.peers.as_deref(), Callers::is_apart)
            || all_apart(self.operations.as_deref(), other.operations.as_deref(), Asked::is_apart)
            || matches!((self.jwt, other.jwt), (Some(one), Some(other)) if one.is_apart(other))
    }
}

impl Callers<'_> {
    fn is_apart(&self, other: &Self) -> bool {
        let (one, two) = (self.peer, other.peer);
        let nested = |a: &IpBlock, b: &IpBlock| a.covers(b) || b.covers(a);
        if all_apart(one.ip_blocks.as_deref(), two.ip_blocks.as_deref(), |a, b| !nested(a, b))
            || differ(one.trust_domains.as_ref(), two.trust_domains.as_ref())
            || differ(one.namespaces.as_ref(), two.namespaces.as_ref())
        {
            return true;
        }
        match (&self.listed, &other.listed) {
            (Some(mine), Some(theirs)) => mine.is_disjoint(theirs),
            (Some(mine), None) => mine.iter().all(|id| other.takes(id) == Some(false)),
            (None, Some(theirs)) => theirs.iter().all(|id| self.takes(id) == Some(false)),
            (None, None) => false,
        }
    }
}

impl Asked<'_> {
    fn is_apart(&self, other: &Self) -> bool {
        let methods = match (&self.methods, &other.methods) {
            (Some(mine), Some(theirs)) => mine.is_disjoint(theirs),
            _ => false,
        };
        let (one, two) = (self.operation, other.operation);
        let is_tls_and_http = |a: &Self, b: &Self| a.operation.sni.is_some() && b.operation.asks_http();
        methods
            || is_tls_and_http(self, other)
            || is_tls_and_http(other, self)
            || differ(one.ports.as_ref(), two.ports.as_ref())
            || all_apart(self.paths.as_deref(), other.paths.as_deref(), PathPattern::is_apart)
            || all_apart(one.hosts.as_deref(), two.hosts.as_deref(), HostPattern::is_apart)
            || all_apart(one.sni.as_deref(), two.sni.as_deref(), HostPattern::is_apart)
    }
}

/// A list that is left out is everything.
fn all_apart<T>(one: Option<&[T]>, other: Option<&[T]>, is_apart: impl Fn(&T, &T) -> bool) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.iter().all(|a| other.iter().all(|b| is_apart(a, b))),
        _ => false,
    }
}

fn differ<T: PartialEq>(one: Option<&OneOf<T>>, other: Option<&OneOf<T>>) -> bool {
    all_apart(one.map(|it| &**it), other.map(|it| &**it), |a, b| a != b)
}
