//! What a service may not have that joins its sidecar's network: a network of its own, and whatever leads past the rules of the
//! kernel there. Each with its code.

use sidegate_codes::Code;

use super::{replicas, words};
use crate::compose::yaml::Node;

/// Why a service cannot join its sidecar.
pub(super) fn problems(node: &Node) -> Vec<(Code, String)> {
    let mut problems = past_the_rules(node);
    for key in NOT_OF_THE_SIDECAR {
        if node.get(key).is_some() {
            let what = format!("`{key}` is the sidecar's to have, whose network it joins");
            problems.push((Code::ComposeNetworkMode, what));
        }
    }
    if replicas(node) > 1 {
        problems.push((Code::ComposeFence, "replicas would share one network and its ports".to_owned()));
    }
    problems
}

/// What an application has that leads past the rules of the kernel in its own network.
pub(crate) fn past_the_rules(node: &Node) -> Vec<(Code, String)> {
    let mut problems = Vec::new();
    if node.get("privileged").is_some_and(|privileged| *privileged != Node::Bool(false)) {
        problems.push((Code::PrivilegedContainer, "`privileged` is past every rule".to_owned()));
    }
    for name in words(node.get("cap_add")) {
        let bare = name.to_ascii_uppercase();
        if PAST_RULES.contains(&bare.strip_prefix("CAP_").unwrap_or(&bare)) {
            problems.push((Code::BypassCapability, format!("`cap_add: {name}`")));
        }
    }
    let user = node.get("user").and_then(Node::scalar).unwrap_or_default();
    let (id, _) = TRANSPARENT_USER.split_once(':').unwrap_or((TRANSPARENT_USER, ""));
    if user.split(':').next() == Some(id) {
        problems.push((Code::SidecarsUser, format!("`user: {user}`")));
    }
    problems
}

/// Whom a transparent sidecar runs as, and nobody else.
pub(crate) const TRANSPARENT_USER: &str = "15100:15100";
/// Taken away from the application, or moved to the sidecar.
pub(super) const OF_OWN_NETWORK: [&str; 6] =
    ["networks", "ports", "links", "expose", "hostname", "domainname"];
const NOT_OF_THE_SIDECAR: [&str; 6] =
    ["extra_hosts", "dns", "dns_search", "dns_opt", "mac_address", "external_links"];
const PAST_RULES: [&str; 6] = ["ALL", "NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE"];
