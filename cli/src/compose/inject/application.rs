//! What becomes of an application's own service: an override for it, or the service changed in place. Fenced, it keeps one network
//! with nobody but its sidecar; transparent, it has none and joins its sidecar's.

use super::healthy;
use crate::compose::{
    file::{Mode, Service},
    plan::{Member, sidecar_name},
    yaml::Node,
};

/// What an override says of it.
pub(super) fn overriding(member: &Member) -> Node {
    let service = &member.service;
    let sidecar = sidecar_name(&service.name);
    let mut changed = match service.mode {
        Mode::Fenced => Node::map([("networks", fence_alone(service).tagged("!override"))]),
        Mode::Transparent => Node::map([
            ("network_mode", Node::text(format!("service:{sidecar}"))),
            ("cap_drop", Node::texts(DROPPED)),
        ]),
    };
    changed.set("depends_on", Node::map([(&*sidecar, awaited(service.mode))]));
    for key in taken(service) {
        changed.set(key, Node::Null.tagged("!reset"));
    }
    changed
}

/// The service as one complete file has it.
pub(super) fn change(node: &mut Node, member: &Member) {
    let service = &member.service;
    let sidecar = sidecar_name(&service.name);
    for key in taken(service) {
        node.remove(key);
    }
    match service.mode {
        Mode::Fenced => node.set("networks", fence_alone(service)),
        Mode::Transparent => {
            node.set("network_mode", Node::text(format!("service:{sidecar}")));
            node.update("cap_drop", |dropped| {
                let mut all = dropped.items().to_vec();
                all.extend(
                    DROPPED.map(Node::text).into_iter().filter(|name| !dropped.items().contains(name)),
                );
                *dropped = Node::List(all);
            });
        }
    }
    node.update("depends_on", |depends_on| {
        if let Node::List(names) = depends_on {
            let started = || Node::map([("condition", Node::text("service_started"))]);
            let entries = names.iter().filter_map(|name| Some((name.scalar()?, started())));
            *depends_on = Node::Map(entries.collect());
        }
        depends_on.set(&sidecar, awaited(service.mode));
    });
}

/// What is no longer its own.
fn taken(service: &Service) -> impl Iterator<Item = &'static str> {
    let is_taken = |key: &&str| match service.mode {
        Mode::Fenced => ["ports", "links"].contains(key),
        Mode::Transparent => true,
    };
    service.of_own_network.clone().into_iter().filter(move |key| is_taken(key))
}

/// Who joins another's network loses it when that one starts again: Compose starts both.
fn awaited(mode: Mode) -> Node {
    let mut awaited = healthy();
    if mode == Mode::Transparent {
        awaited.set("restart", Node::Bool(true));
    }
    awaited
}

fn fence_alone(service: &Service) -> Node {
    Node::map([(&*sidecar_name(&service.name), Node::Null)])
}

/// Packet sockets are past every rule, and whoever administers the network changes the rules.
pub(crate) const DROPPED: [&str; 2] = ["NET_ADMIN", "NET_RAW"];
