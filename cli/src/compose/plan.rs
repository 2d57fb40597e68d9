//! The mesh that a Compose file asks for: a `Project` goes in, each service's own ports and the ports of others that it calls
//! come out, with a line for every guess. Two upstreams that a sidecar could not tell apart are refused.

use std::collections::{BTreeMap, BTreeSet};

use sidegate_codes::Code;

use super::{
    file::{Mode, Project, Protocol, Service},
    guess::{self, Reference},
    problem::Problem,
    yaml::Node,
};

/// The whole mesh.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) members: Vec<Member>,
    /// What was guessed or left out, a line each.
    pub(crate) notes: Vec<String>,
}

/// A service with its sidecar.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) service: Service,
    /// Where the application listens, in rising order.
    pub(crate) ports: Vec<Port>,
    /// In the order in which they were found.
    pub(crate) calls: Vec<Call>,
}

/// A port of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
    /// What the mesh calls this port: a service is one port of an application.
    pub(crate) mesh_name: String,
}

/// A port of another application that a service calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// The called service's name in the file.
    pub(crate) to: String,
    pub(crate) port: Port,
    /// The names that it is called by.
    pub(crate) hosts: Vec<String>,
}

impl Plan {
    /// Plans the mesh, or says what stands in its way.
    pub(crate) fn of(project: &Project) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let references = project.services.iter().map(|service| {
            guess::references(project, service).unwrap_or_else(|unknown| {
                let what = format!("its label calls {unknown:?}, which is no service with a sidecar");
                problems.push(Problem::of_service(Code::ComposeBadLabel, &service.name, what));
                Vec::new()
            })
        });
        let references: Vec<Vec<Reference>> = references.collect();
        let all: Vec<&Reference> = references.iter().flatten().collect();
        let ports: BTreeMap<_, _> =
            project.services.iter().map(|service| (service.name.clone(), ports(service, &all))).collect();
        let mut notes = Vec::new();
        let members: Vec<_> = project
            .services
            .iter()
            .zip(&references)
            .map(|(service, references)| {
                let calls = calls(project, references, &ports);
                note(project, service, references, &ports, &mut notes);
                Member { service: service.clone(), ports: ports[&service.name].clone(), calls }
            })
            .collect();
        problems.extend(name_clashes(project, &members));
        problems.extend(members.iter().flat_map(ambiguities));
        problems.extend(members.iter().filter_map(unmovable_port));
        if problems.is_empty() { Ok(Self { members, notes }) } else { Err(problems) }
    }

    /// The members that are services of the file.
    pub(crate) fn applications(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.service.outside.is_none())
    }

    /// Who calls a service, by the names of the file.
    pub(crate) fn callers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Member> {
        self.members.iter().filter(move |member| member.calls.iter().any(|call| call.to == name))
    }
}

impl Member {
    /// The calls of one port together: one listener of the sidecar.
    pub(crate) fn calls_by_port(&self) -> BTreeMap<u16, Vec<&Call>> {
        let mut by_port: BTreeMap<u16, Vec<&Call>> = BTreeMap::new();
        for call in &self.calls {
            by_port.entry(call.port.number).or_default().push(call);
        }
        by_port
    }

    /// The names of all its upstreams.
    pub(crate) fn aliases(&self) -> BTreeSet<String> {
        self.calls.iter().flat_map(|call| call.hosts.iter().cloned()).collect()
    }

    /// `ports` as the sidecar has them. A transparent one cannot listen where its application does: it takes other ports.
    pub(crate) fn ports_of_sidecar(&self) -> Option<Vec<Node>> {
        let entries = self.service.published.iter();
        match self.service.mode {
            Mode::Fenced => Some(entries.map(|published| published.entry.clone()).collect()),
            Mode::Transparent => {
                entries.map(|published| published.leading_to(|port| self.listens_for(port))).collect()
            }
        }
    }

    /// Where the sidecar takes what is published of this port of the application.
    pub(crate) fn listens_for(&self, port: u16) -> u16 {
        match self.service.mode {
            Mode::Fenced => port,
            // Next to each other for ports that are: a range stays one.
            Mode::Transparent => (FIRST_PUBLISHED..)
                .zip(self.published())
                .find(|(_, published)| *published == port)
                .map_or(port, |(listen, _)| listen),
        }
    }

    /// The container's ports that are published.
    pub(crate) fn published(&self) -> BTreeSet<u16> {
        self.service.published.iter().flat_map(|entry| entry.ports.iter().copied()).collect()
    }
}

/// What a service listens on: as its label says, or all that the file hints at.
fn ports(service: &Service, references: &[&Reference]) -> Vec<Port> {
    let mut found: BTreeMap<u16, Protocol> = BTreeMap::new();
    if let Some(declared) = &service.declared_ports {
        found.extend(declared.iter().copied());
    } else {
        let published = service.published.iter().flat_map(|entry| entry.ports.iter());
        found.extend(published.chain(&service.exposed).map(|port| (*port, Protocol::Auto)));
        for reference in references.iter().filter(|reference| reference.to == service.name) {
            if let Some(port) = reference.port {
                // The first that says more than `auto` is believed.
                let protocol = found.entry(port).or_default();
                if *protocol == Protocol::Auto {
                    *protocol = reference.protocol;
                }
            }
        }
        if let Some((port, protocol)) = service.image.as_deref().and_then(guess::port_of_image)
            && (found.is_empty() || found.contains_key(&port))
        {
            found.insert(port, protocol);
        }
    }
    let is_one = found.len() == 1;
    let mesh_name =
        |number| if is_one { service.account() } else { format!("{}-{number}", service.account()) };
    found
        .into_iter()
        .map(|(number, protocol)| Port { number, protocol, mesh_name: mesh_name(number) })
        .collect()
}

/// Each port that is called, once. A reference without a port means all of them, unless another one names some.
fn calls(project: &Project, references: &[Reference], ports: &BTreeMap<String, Vec<Port>>) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    for reference in references {
        let of_same = || references.iter().filter(|other| other.to == reference.to);
        let numbers: BTreeSet<u16> = of_same().filter_map(|other| other.port).collect();
        for port in &ports[&reference.to] {
            let is_called = numbers.is_empty() || numbers.contains(&port.number);
            let is_known = calls.iter().any(|call| call.to == reference.to && call.port == *port);
            if is_called && !is_known {
                let called = project.services.iter().find(|service| service.name == reference.to);
                let names = called.map(|to| to.names.clone()).unwrap_or_default();
                let aliases = of_same().filter_map(|other| other.alias.clone());
                let hosts: BTreeSet<_> = names.into_iter().chain(aliases).collect();
                calls.push(Call {
                    to: reference.to.clone(),
                    port: port.clone(),
                    hosts: hosts.into_iter().collect(),
                });
            }
        }
    }
    calls
}

fn note(
    project: &Project,
    service: &Service,
    references: &[Reference],
    ports: &BTreeMap<String, Vec<Port>>,
    notes: &mut Vec<String>,
) {
    let name = &service.name;
    if let Some(host) = &service.outside {
        notes.push(format!("{name} leads outside, to {host}"));
        return;
    }
    let own = &ports[name];
    let listed =
        own.iter().map(|port| format!("{}/{}", port.number, port.protocol.word())).collect::<Vec<_>>();
    let listens = if own.is_empty() { "nothing".to_owned() } else { listed.join(", ") };
    notes.push(format!("{name} listens on {listens}"));
    for reference in references {
        let to = &reference.to;
        let port = reference.port.map(|port| format!(":{port}")).unwrap_or_default();
        let unknown =
            if ports[to].is_empty() { ", whose port nothing says: label sidegate.dev/ports" } else { "" };
        notes.push(format!("{name} calls {to}{port} ({}){unknown}", reference.source));
    }
    for left in service.depends_on.iter().filter(|name| project.left.contains(name)) {
        notes.push(format!(
            "{name} depends on {left}, which has no sidecar: it is not reachable from the fence"
        ));
    }
}

/// Names that would mean two things.
fn name_clashes(project: &Project, members: &[Member]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut taken: BTreeMap<String, &str> = BTreeMap::new();
    for member in members {
        let name = &member.service.name;
        let mesh_names = member.ports.iter().map(|port| port.mesh_name.clone());
        let own: BTreeSet<_> = mesh_names.chain([member.service.account()]).collect();
        for mesh_name in own {
            if let Some(other) = taken.insert(mesh_name.clone(), name) {
                let what = format!("in the mesh it would be called {mesh_name}, as {other} is");
                problems.push(
                    Problem::of_service(Code::ComposeBadLabel, name, what).next("rename one of the two"),
                );
            }
        }
        if member.ports.len() > MOST_PORTS {
            let what =
                format!("it has {} ports; a sidecar listens for at most {MOST_PORTS}", member.ports.len());
            problems.push(Problem::of_service(Code::ComposePort, name, what));
        }
    }
    let added =
        members.iter().map(|member| sidecar_name(&member.service.name)).chain([CONTROL_PLANE.to_owned()]);
    let services = project.document.get("services").map(Node::entries).unwrap_or_default();
    for name in added.filter(|name| services.iter().any(|(service, _)| service == name)) {
        let what = "the name is Sidegate's own";
        problems.push(Problem::of_service(Code::ComposeBadLabel, &name, what).next("rename the service"));
    }
    problems
}

/// A published port that cannot move away from the application's.
fn unmovable_port(member: &Member) -> Option<Problem> {
    if member.ports_of_sidecar().is_some() {
        return None;
    }
    let what = "a published port of a transparent service is a variable";
    Some(Problem::of_service(Code::ComposePort, &member.service.name, what))
}

/// Upstreams that neither a port, nor a host, nor a server name tells apart.
fn ambiguities(member: &Member) -> Vec<Problem> {
    let mut problems = Vec::new();
    // Captured connections go by the address that they were sent to.
    if member.service.mode == Mode::Transparent {
        return problems;
    }
    for (port, calls) in member.calls_by_port() {
        let opaque: Vec<_> = calls.iter().filter(|call| call.port.protocol == Protocol::Tcp).collect();
        if let [first, second, ..] = opaque[..] {
            let what = format!("{} and {} are both opaque on port {port}", first.to, second.to);
            problems.push(Problem::of_service(Code::ComposeAmbiguous, &member.service.name, what));
        }
        let mut hosts: BTreeMap<String, &str> = BTreeMap::new();
        for call in calls {
            for host in &call.hosts {
                if let Some(other) = hosts.insert(host.to_ascii_lowercase(), &call.to) {
                    let what = format!("{other} and {} are both called {host} on port {port}", call.to);
                    problems.push(Problem::of_service(Code::ComposeAmbiguous, &member.service.name, what));
                }
            }
        }
    }
    problems
}

/// The sidecar of a service, its fence and its token.
pub(crate) fn sidecar_name(service: &str) -> String {
    format!("{service}-sidegate")
}

/// The control plane's service.
pub(crate) const CONTROL_PLANE: &str = "sidegate-control-plane";
/// Above every port that a sidecar has for itself.
const FIRST_PUBLISHED: u16 = 15130;
/// 15106 and on, below the control plane's own.
const MOST_PORTS: usize = 8;

#[cfg(test)]
mod tests;
