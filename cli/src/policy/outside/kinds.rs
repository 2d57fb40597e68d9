//! The destinations outside that rules of egress tell apart: one of each kind, so that two sets which agree on all of them agree
//! on every destination. Receives the rules that select a workload; hands on who may be meant by it, and where to.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use sidegate_identity::{SpiffeId, TrustDomain};
use sidegate_policy::{EgressRule, EgressSource, address_kinds, is_public};

use super::{As, Destination, blocks};
use crate::policy::world;

/// An address that anybody in the world means the same host by, and that is nobody's: those of documentation.
pub(crate) const SOMEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7))];

/// The workloads of a namespace that sources tell apart, where it is not known who the workload is.
pub(crate) fn identities(rules: &[&EgressRule], namespace: &str, local: &TrustDomain) -> Vec<SpiffeId> {
    let sources: Vec<&EgressSource> =
        rules.iter().flat_map(|rule| rule.from.iter().flat_map(|from| from.iter())).collect();
    let principals = sources.iter().flat_map(|it| it.principals.iter().flat_map(|list| list.iter().cloned()));
    let mut identities: BTreeSet<SpiffeId> = principals.collect();
    let mut add = |namespace: &str, account: &str| {
        identities.extend(SpiffeId::for_workload(local, namespace, account).ok());
    };
    for account in sources.iter().flat_map(|it| it.service_accounts.iter().flat_map(|list| list.iter())) {
        add(account.namespace.as_str(), account.name.as_str());
    }
    for named in sources.iter().flat_map(|it| it.namespaces.iter().flat_map(|list| list.iter())) {
        add(named.as_str(), world::ANYBODY);
    }
    add(namespace, world::ANYBODY);
    identities.into_iter().collect()
}

/// One destination of each kind; at most `most`, and whether that is all. Those of the public Internet come first.
pub(crate) fn destinations(rules: &[&EgressRule], most: usize) -> (Vec<Destination>, bool) {
    let to = || rules.iter().flat_map(|rule| rule.to.iter());
    let hosts = world::hosts(to().flat_map(|to| to.hosts.iter().flat_map(|list| list.iter())));
    let names = world::hosts(to().flat_map(|to| to.sni.iter().flat_map(|list| list.iter())));
    let hosts = hosts.into_iter().map(|name| Some((As::Host, name)));
    let names: Vec<_> =
        hosts.chain(names.into_iter().map(|name| Some((As::Sni, name)))).chain([None]).collect();
    let mut ports: BTreeSet<u16> = to().flat_map(|to| to.ports.iter().copied()).collect();
    let unnamed = (1..=u16::MAX).find(|port| !ports.contains(port));
    ports.extend(unnamed);
    let mut destinations = Vec::new();
    for ip in addresses(rules) {
        for in_mesh in [false, true] {
            for name in &names {
                if destinations.len() >= most {
                    return (destinations, false);
                }
                let one = |port: &u16| Destination { name: name.clone(), ip, port: *port, in_mesh };
                destinations.extend(ports.iter().map(one));
            }
        }
    }
    (destinations, true)
}

/// One address of each kind that the rules' blocks tell apart, those of the public Internet first.
pub(crate) fn addresses(rules: &[&EgressRule]) -> Vec<IpAddr> {
    let kinds = address_kinds(blocks(rules.iter().copied()));
    let (public, other): (Vec<IpAddr>, Vec<IpAddr>) = kinds.into_iter().partition(|ip| is_public(*ip));
    SOMEWHERE.into_iter().chain(public).chain(other).collect()
}
