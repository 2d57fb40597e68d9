//! A Compose file as far as a mesh must understand it: text in, a `Project` of `Service`s out. What could not be fenced
//! without a guess about its meaning is refused by service, all of it together.

mod env_file;
mod label;
mod ports;
mod transparent;
mod variables;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use sidegate_codes::Code;

use super::{
    problem::Problem,
    yaml::{self, Node},
};

pub(crate) use self::{
    env_file::{EnvFile, env_files},
    label::{External, Protocol, Upstream},
    ports::Published,
    transparent::{TRANSPARENT_USER, past_the_rules},
};

/// A whole file.
#[derive(Clone, Debug)]
pub(crate) struct Project {
    /// The top-level `name`.
    pub(crate) name: Option<String>,
    pub(crate) document: Node,
    /// Those that get a sidecar, in the order of the file.
    pub(crate) services: Vec<Service>,
    /// Those that are left as they are.
    pub(crate) left: Vec<String>,
}

/// A service that gets a sidecar.
#[derive(Clone, Debug, Default)]
pub(crate) struct Service {
    pub(crate) name: String,
    /// By which others may call it: its name, `container_name`, `hostname`, and its aliases on networks.
    pub(crate) names: Vec<String>,
    pub(crate) image: Option<String>,
    pub(crate) published: Vec<Published>,
    /// Ports that `expose` names.
    pub(crate) exposed: Vec<u16>,
    /// Services that it waits for or links to.
    pub(crate) depends_on: Vec<String>,
    /// `links: [service:alias]`.
    pub(crate) links: Vec<(String, String)>,
    /// The values of its environment, with defaults in the place of variables.
    pub(crate) environment: Vec<(String, String)>,
    env_files: Vec<EnvFile>,
    pub(crate) profiles: Option<Node>,
    /// `sidegate.dev/ports`.
    pub(crate) declared_ports: Option<Vec<(u16, Protocol)>>,
    /// `sidegate.dev/upstreams`.
    pub(crate) declared_upstreams: Option<Vec<Upstream>>,
    /// `sidegate.dev/mode`.
    pub(crate) mode: Mode,
    /// What it says of a network of its own, which it does not have beside a transparent sidecar.
    pub(crate) of_own_network: Vec<&'static str>,
    /// `sidegate.dev/egress`.
    pub(crate) egress: Vec<External>,
    /// It is no service of the file but this host outside of the project, for which a sidecar of its own stands.
    pub(crate) outside: Option<String>,
}

/// How its traffic comes into the sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It stands alone with its sidecar on a network without a way out.
    #[default]
    Fenced,
    /// It joins the sidecar's network, where rules of the kernel lead everything to the sidecar.
    Transparent,
}

impl Project {
    /// Reads a file; every service that cannot be meshed is named.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let document =
            yaml::parse(text).map_err(|error| vec![Problem::of_file(Code::ComposeSyntax, error)])?;
        let services = document.get("services").map(Node::entries).unwrap_or_default();
        if services.is_empty() {
            return Err(vec![Problem::of_file(Code::ComposeSyntax, "it has no services")]);
        }
        if document.get("include").is_some() {
            return Err(vec![Problem::of_file(
                Code::ComposeIndirect,
                "`include` brings in services of other files",
            )]);
        }
        let mut problems = Vec::new();
        let mut project = Self {
            name: document.get("name").and_then(Node::scalar),
            services: Vec::new(),
            left: Vec::new(),
            document: Node::Null,
        };
        for (name, node) in services {
            match Service::parse(name, node) {
                Ok(Some(service)) => project.services.push(service),
                Ok(None) => project.left.push(name.clone()),
                Err(found) => problems.extend(found),
            }
        }
        project.document = document;
        project.add_hosts_outside(&mut problems);
        if problems.is_empty() { Ok(project) } else { Err(problems) }
    }

    /// A member for each host outside that a label names, with the ports that all labels name.
    fn add_hosts_outside(&mut self, problems: &mut Vec<Problem>) {
        let mut hosts: BTreeMap<String, BTreeMap<u16, Protocol>> = BTreeMap::new();
        for service in &self.services {
            for External { host, port, protocol } in &service.egress {
                let known = hosts.entry(host.clone()).or_default().insert(*port, *protocol);
                if known.is_some_and(|known| known != *protocol) {
                    let what = format!("another service says another protocol for {host}:{port}");
                    problems.push(Problem::of_service(Code::ComposeBadLabel, &service.name, what));
                }
            }
        }
        for (host, ports) in hosts {
            let mut faults = Faults { service: &host, problems: Vec::new() };
            faults.refuse_a_name_that_does_not_fit();
            problems.append(&mut faults.problems);
            self.services.push(Service {
                name: account(&host),
                names: vec![host.clone()],
                declared_ports: Some(ports.into_iter().collect()),
                declared_upstreams: Some(Vec::new()),
                outside: Some(host),
                ..Service::default()
            });
        }
    }

    /// Adds what each `env_file` sets to its service's environment, as far as the file itself sets nothing else. `folder` is where
    /// the Compose file stands.
    pub(crate) fn read_env_files(&mut self, folder: &Path) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        for service in &mut self.services {
            let read: Result<Vec<_>, _> = service.env_files.iter().map(|file| file.read(folder)).collect();
            match read {
                Ok(files) => service.add_to_environment(files.concat()),
                Err(what) => {
                    problems.push(Problem::of_service(Code::ConfigUnreadable, &service.name, what).next(
                        "put the file there, or say that it may be missing: `env_file: [{path: FILE, required: false}]`",
                    ));
                }
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The service that others call by this name. A host outside is called by those alone whose label names it.
    pub(crate) fn called(&self, name: &str) -> Option<&Service> {
        let is = |service: &&Service| service.names.iter().any(|own| own.eq_ignore_ascii_case(name));
        self.services.iter().filter(|service| service.outside.is_none()).find(is)
    }

    /// The member for this host outside.
    pub(crate) fn outside(&self, host: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.outside.as_deref() == Some(host))
    }
}

impl Service {
    /// `None`: its label says that it is left alone.
    fn parse(name: &str, node: &Node) -> Result<Option<Self>, Vec<Problem>> {
        let labels = pairs(node.get("labels"));
        let label = |key: &str| labels.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        match label(INJECT) {
            Some("disabled") => return Ok(None),
            None | Some("enabled") => {}
            Some(other) => {
                let what = format!("label {INJECT}: {other:?} is neither enabled nor disabled");
                return Err(vec![Problem::of_service(Code::ComposeBadLabel, name, what)]);
            }
        }
        if label(SIDECAR_OF).is_some() || label(ROLE).is_some() {
            let what = "it is a part of the mesh already";
            return Err(vec![
                Problem::of_service(Code::ComposeIndirect, name, what)
                    .next("give the file that the application's services stand in, without Sidegate's"),
            ]);
        }
        let mut faults = Faults { service: name, problems: Vec::new() };
        let mode = match label(MODE) {
            None | Some("fenced") => Mode::Fenced,
            Some("transparent") => Mode::Transparent,
            Some(other) => {
                let what = format!("label {MODE}: {other:?} is neither fenced nor transparent");
                faults.add(Code::ComposeBadLabel, what);
                Mode::Fenced
            }
        };
        faults.refuse_what_no_fence_holds(node);
        if mode == Mode::Transparent {
            for (code, what) in transparent::problems(node) {
                faults.add(code, what);
            }
        }
        let service = Self {
            name: name.to_owned(),
            names: names(name, node),
            image: node.get("image").and_then(Node::scalar),
            published: faults.take(Code::ComposePort, ports::published(node.get("ports"))),
            exposed: faults.take(Code::ComposePort, ports::exposed(node.get("expose"))),
            depends_on: words(node.get("depends_on")),
            links: links(node.get("links")),
            environment: pairs(node.get("environment")),
            env_files: faults.take(Code::ComposeIndirect, env_files(node.get("env_file"))),
            profiles: node.get("profiles").cloned(),
            declared_ports: faults.take(Code::ComposeBadLabel, label(PORTS).map(label::ports).transpose()),
            declared_upstreams: faults
                .take(Code::ComposeBadLabel, label(UPSTREAMS).map(label::upstreams).transpose()),
            mode,
            of_own_network: transparent::OF_OWN_NETWORK
                .into_iter()
                .filter(|key| node.get(key).is_some())
                .collect(),
            egress: faults.take(Code::ComposeBadLabel, label::egress(label(EGRESS).unwrap_or_default())),
            outside: None,
        };
        if faults.problems.is_empty() { Ok(Some(service)) } else { Err(faults.problems) }
    }

    fn add_to_environment(&mut self, variables: Vec<(String, String)>) {
        let own: BTreeSet<String> = self.environment.iter().map(|(name, _)| name.clone()).collect();
        self.environment.extend(variables.into_iter().filter(|(name, _)| !own.contains(name)));
    }

    /// What it is called in the mesh: a DNS label.
    pub(crate) fn account(&self) -> String {
        account(&self.name)
    }
}

/// A Compose name as a DNS label: in lower case, `-` for what else Compose allows.
pub(crate) fn account(name: &str) -> String {
    let name = name.to_ascii_lowercase().replace(['_', '.'], "-");
    name.trim_matches('-').to_owned()
}

/// What is wrong with one service.
struct Faults<'a> {
    service: &'a str,
    problems: Vec<Problem>,
}

impl Faults<'_> {
    /// The value, or its default after its problem was noted.
    fn take<T: Default>(&mut self, code: Code, result: Result<T, String>) -> T {
        result.unwrap_or_else(|what| {
            self.problems.push(Problem::of_service(code, self.service, what));
            T::default()
        })
    }

    fn add(&mut self, code: Code, what: impl Into<String>) {
        self.problems.push(Problem::of_service(code, self.service, what));
    }

    fn refuse_what_no_fence_holds(&mut self, node: &Node) {
        if node.get("extends").is_some() {
            self.add(Code::ComposeIndirect, "`extends` takes a part of it from another service");
        }
        if let Some(mode) = node.get("network_mode").and_then(Node::scalar) {
            self.add(
                Code::ComposeNetworkMode,
                format!("`network_mode: {mode}` gives it a network of others"),
            );
        }
        for (network, settings) in node.get("networks").map(Node::entries).unwrap_or_default() {
            for key in ["ipv4_address", "ipv6_address"] {
                if let Some(address) = settings.get(key).and_then(Node::scalar) {
                    self.add(Code::ComposeFence, format!("`{key}: {address}` on the network {network}"));
                }
            }
        }
        let replicas = replicas(node);
        if replicas > MOST_REPLICAS {
            self.add(
                Code::ComposeFence,
                format!("{replicas} replicas; a fence has room for {MOST_REPLICAS}"),
            );
        }
        self.refuse_a_name_that_does_not_fit();
    }

    fn refuse_a_name_that_does_not_fit(&mut self) {
        if account(self.service).is_empty() || account(self.service).len() > MOST_NAME_BYTES {
            self.add(Code::ComposeBadLabel, "its name makes no DNS label of at most 48 characters");
        }
    }
}

fn replicas(node: &Node) -> u64 {
    let replicas = node.get("deploy").and_then(|deploy| deploy.get("replicas")).or_else(|| node.get("scale"));
    replicas.and_then(Node::scalar).and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Every name by which others on its networks could call it.
fn names(name: &str, node: &Node) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    names.extend(["container_name", "hostname"].into_iter().filter_map(|key| node.get(key)?.scalar()));
    for (_, settings) in node.get("networks").map(Node::entries).unwrap_or_default() {
        names.extend(
            settings.get("aliases").map(Node::items).unwrap_or_default().iter().filter_map(Node::scalar),
        );
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.to_ascii_lowercase()));
    names
}

/// The words of a list, or the keys of a map.
pub(crate) fn words(node: Option<&Node>) -> Vec<String> {
    let Some(node) = node else { return Vec::new() };
    let keys = node.entries().iter().map(|(key, _)| key.clone());
    keys.chain(node.items().iter().filter_map(Node::scalar)).collect()
}

/// `service` and `service:alias`.
fn links(node: Option<&Node>) -> Vec<(String, String)> {
    words(node)
        .into_iter()
        .map(|link| match link.split_once(':') {
            Some((service, alias)) => (service.to_owned(), alias.to_owned()),
            None => (link.clone(), link),
        })
        .collect()
}

/// A map, or a list of `KEY=VALUE`, with the defaults of its variables filled in.
pub(crate) fn pairs(node: Option<&Node>) -> Vec<(String, String)> {
    let Some(node) = node else { return Vec::new() };
    let map = node.entries().iter().filter_map(|(key, value)| Some((key.clone(), value.scalar()?)));
    let list = node
        .items()
        .iter()
        .filter_map(Node::scalar)
        .filter_map(|item| item.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())));
    map.chain(list).map(|(key, value)| (key, variables::with_defaults(&value))).collect()
}

/// The label that leaves a service alone: `disabled`.
pub(crate) const INJECT: &str = "sidegate.dev/inject";
/// The label that says what a service listens on, in place of guesses.
const PORTS: &str = "sidegate.dev/ports";
/// The label that says whom a service calls, in place of guesses.
const UPSTREAMS: &str = "sidegate.dev/upstreams";
/// The label that says how traffic comes into the sidecar; on a sidecar, how it takes it.
pub(crate) const MODE: &str = "sidegate.dev/mode";
/// The label that says which hosts outside a service may call.
const EGRESS: &str = "sidegate.dev/egress";
/// On a sidecar: whose it is.
pub(crate) const SIDECAR_OF: &str = "sidegate.dev/sidecar-of";
/// On what else Sidegate adds.
pub(crate) const ROLE: &str = "sidegate.dev/role";
/// Addresses of a /29 that are neither its own, the bridge's nor the sidecar's, in the half that is given out.
const MOST_REPLICAS: u64 = 3;
/// Leaves room for `-sidegate` and a port in 63.
const MOST_NAME_BYTES: usize = 48;

#[cfg(test)]
mod tests;
