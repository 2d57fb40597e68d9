//! Ways out of the mesh: the destinations that rules of egress name, as far as the evaluator lets a workload go there.

use std::{net::IpAddr, sync::Arc};

use sidegate_control_plane::config::EgressDefault;
use sidegate_identity::SpiffeId;
use sidegate_policy::{Egress, EgressDestination, HostPattern, IpBlock, Mode, OneOf};

use super::{Rest, Way};
use crate::policy::{
    called::Called,
    files::{Mesh, Policies},
    now,
    outside::{self, As, Destination, End, Target, kinds},
};

/// Where the caller may go: one way for each name or block that a rule has, at each of its ports.
pub(super) fn ways(caller: &Called, read: &Policies, mesh: &Mesh, asked: &Rest) -> Vec<Way> {
    let workload = caller.workload(mesh.root_namespace.as_deref());
    let policies: Vec<_> = outside::selecting(&read.set, &workload).collect();
    let egress = read.set.compile_egress(&workload);
    let mut ways: Vec<Way> = Vec::new();
    for (sourced, rule, _) in outside::rules(&policies) {
        if sourced.policy().spec.mode == Mode::Shadow {
            continue;
        }
        for (named, destinations) in rule.to.iter().flat_map(samples).take(MOST) {
            if asked.is_http() && !destinations.iter().all(is_http) {
                continue;
            }
            let way = destinations.iter().find_map(|destination| way(caller, &named, destination, &egress));
            // What an earlier rule lets out already is that rule's.
            ways.extend(way.filter(|way| !ways.iter().any(|other| other.is_as(way))));
        }
    }
    ways
}

/// How the caller may go to a destination that was asked for, if it may.
pub(super) fn ways_to(target: &Target, caller: &Called, read: &Policies, mesh: &Mesh) -> Vec<Way> {
    let workload = caller.workload(mesh.root_namespace.as_deref());
    let policies: Vec<_> = outside::selecting(&read.set, &workload).collect();
    let egress = read.set.compile_egress(&workload);
    let rules: Vec<_> = outside::rules(&policies).into_iter().map(|(_, rule, _)| rule).collect();
    let ports: Vec<u16> = match target.port {
        Some(port) => vec![port],
        None => {
            rules.iter().flat_map(|rule| rule.to.iter()).flat_map(|to| to.ports.iter().copied()).collect()
        }
    };
    let (names, addresses) = match &target.end {
        End::Name(name) => {
            ([As::Host, As::Sni].map(|how| Some((how, name.clone()))).to_vec(), kinds::addresses(&rules))
        }
        End::Address(ip) => (vec![None], vec![*ip]),
    };
    let mut ways: Vec<Way> = Vec::new();
    for port in ports {
        for name in &names {
            let of = |ip: &IpAddr| Destination { name: name.clone(), ip: *ip, port, in_mesh: false };
            let way = addresses.iter().find_map(|ip| way(caller, &target.to_string(), &of(ip), &egress));
            ways.extend(way.filter(|way| !ways.iter().any(|other| other.is_as(way))));
        }
    }
    ways
}

/// Whether what no rule names leaves as well.
pub(super) fn is_open(mesh: &Mesh) -> bool {
    mesh.egress == EgressDefault::Allow
}

fn way(caller: &Called, named: &str, destination: &Destination, egress: &Egress) -> Option<Way> {
    let identity: &SpiffeId = &caller.identity;
    let decision = destination.judge(egress, EgressDefault::Deny, identity, now()).decision;
    let (Some(policy), Some(rule), Some(at)) = (decision.policy, decision.rule, decision.source) else {
        return None;
    };
    Some(Way {
        caller: identity.to_string(),
        called: named.to_owned(),
        example: destination.to_string(),
        policy: Arc::clone(policy),
        rule: Arc::clone(rule),
        at: Arc::clone(at),
    })
}

/// Each name or block of a destination at each port, and what to try for it.
fn samples(to: &EgressDestination) -> Vec<(String, Vec<Destination>)> {
    let of_blocks = to.ip_blocks.iter().flat_map(|blocks| blocks.iter().flat_map(addresses_of));
    let addresses: Vec<IpAddr> = match &to.ip_blocks {
        Some(_) => of_blocks.collect(),
        None => kinds::SOMEWHERE.to_vec(),
    };
    let named = |how: As, list: &Option<OneOf<HostPattern>>| {
        let patterns = list.iter().flat_map(|list| list.iter()).map(ToString::to_string);
        patterns
            .map(|text| (Some((how, text.replacen('*', "a", 1))), text, addresses.clone()))
            .collect::<Vec<_>>()
    };
    let mut ends = [named(As::Host, &to.hosts), named(As::Sni, &to.sni)].concat();
    if ends.is_empty() {
        let blocks = to.ip_blocks.iter().flat_map(|blocks| blocks.iter());
        ends.extend(blocks.map(|block| (None, block.to_string(), addresses_of(block))));
    }
    let at = |port: u16, (name, text, addresses): &(Option<(As, String)>, String, Vec<IpAddr>)| {
        let one = |ip: &IpAddr| Destination { name: name.clone(), ip: *ip, port, in_mesh: false };
        let shown = if text.contains(':') { format!("[{text}]:{port}") } else { format!("{text}:{port}") };
        (shown, addresses.iter().map(one).collect())
    };
    ends.iter().flat_map(|end| to.ports.iter().map(move |port| at(*port, end))).collect()
}

/// Of the block: an address of the public Internet first.
fn addresses_of(block: &IpBlock) -> Vec<IpAddr> {
    let mut held: Vec<IpAddr> =
        sidegate_policy::address_kinds([*block]).into_iter().filter(|ip| block.contains(*ip)).collect();
    held.sort_by_key(|ip| !sidegate_policy::is_public(*ip));
    held
}

fn is_http(destination: &Destination) -> bool {
    matches!(&destination.name, Some((As::Host, _)))
}

/// Of one rule: enough for any that a person wrote.
const MOST: usize = 256;
