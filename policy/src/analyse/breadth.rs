//! Rules that let in anybody.

use super::{Entry, Finding, Lint, Surroundings, cover::Asked};
use crate::model::{Action, Peer};

/// An Allow rule for callers that nobody named, which is not limited to reading some paths.
pub(super) fn excessive(entry: &Entry<'_>, known: &Surroundings<'_>) -> Option<Finding> {
    // A `jwt` names who asks, and a `when` may name the callers, or the reading, in its own way.
    let is_named = entry.rule.jwt.is_some() || entry.rule.when.is_some();
    if entry.action() != Action::Allow || is_named || entry.is_over(known) {
        return None;
    }
    let (lint, whom) = match &entry.rule.from {
        None => (Lint::AnyCaller, "without `from` it matches any verified peer".to_owned()),
        Some(peers) => (Lint::WholeDomain, peers.iter().find_map(whole_domain)?),
    };
    let what = match &entry.form.operations {
        // Without `to`, the source alone limits it.
        None => Some("it names no operation"),
        Some(operations) => operations.iter().find_map(excess),
    }?;
    let fix = "name the callers in `from`, or limit it to reading some paths";
    Some(entry.finding(lint, format!("{whom}, and {what}"), fix))
}

/// A source that takes every identity of some trust domains, from wherever it calls.
fn whole_domain(peer: &Peer) -> Option<String> {
    let Peer { principals, service_accounts, namespaces, trust_domains, ip_blocks } = peer;
    let is_everywhere =
        ip_blocks.as_ref().is_none_or(|blocks| blocks.iter().any(|block| block.to_string().ends_with("/0")));
    let is_named = principals.is_some() || service_accounts.is_some() || namespaces.is_some();
    (is_everywhere && !is_named).then(|| match trust_domains {
        Some(domains) => {
            let domains: Vec<String> = domains.iter().map(ToString::to_string).collect();
            format!("it matches every identity of {}", domains.join(" and "))
        }
        None => "`ipBlocks` of every address names no caller".to_owned(),
    })
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
