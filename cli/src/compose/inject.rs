//! What `sidegate compose inject` writes: a plan and the settings go in; an override for Compose comes out, or one complete file.
//! Each application stands alone with its sidecar on a network without a way out, or joins it where its label says so.

pub(crate) mod application;

use std::collections::BTreeSet;

use sidegate_codes::Code;

use super::{
    file::{MODE, Mode, Project, ROLE, SIDECAR_OF},
    plan::{CONTROL_PLANE, Member, Plan, sidecar_name},
    problem::Problem,
    settings::{Fence, Settings},
    sidecar,
    yaml::Node,
};

/// Everything that is added to the application's file.
#[derive(Debug)]
struct Additions {
    services: Vec<(String, Node)>,
    networks: Vec<(String, Node)>,
    volumes: Vec<(String, Node)>,
    secrets: Vec<(String, Node)>,
}

/// The override: `docker compose -f compose.yaml -f compose.sidegate.yaml up`.
pub(crate) fn overriding(plan: &Plan, settings: &Settings) -> Result<String, Vec<Problem>> {
    let additions = Additions::of(plan, settings)?;
    let changed =
        plan.applications().map(|member| (member.service.name.clone(), application::overriding(member)));
    let services = changed.chain(additions.services).collect();
    let document = Node::map([
        ("services", Node::Map(services)),
        ("networks", Node::Map(additions.networks)),
        ("volumes", Node::Map(additions.volumes)),
        ("secrets", Node::Map(additions.secrets)),
    ]);
    Ok(format!("{HEADER}{}", document.print()))
}

/// One complete file, for tools that do not know `!override` and `!reset`.
pub(crate) fn complete(project: &Project, plan: &Plan, settings: &Settings) -> Result<String, Vec<Problem>> {
    Ok(format!("{HEADER}{}", complete_tree(project, plan, settings)?.print()))
}

/// The same as a tree.
pub(crate) fn complete_tree(
    project: &Project,
    plan: &Plan,
    settings: &Settings,
) -> Result<Node, Vec<Problem>> {
    let additions = Additions::of(plan, settings)?;
    let mut document = project.document.clone();
    document.update("services", |services| {
        for member in plan.applications() {
            services.update(&member.service.name, |service| application::change(service, member));
        }
    });
    for (section, added) in [
        ("services", additions.services),
        ("networks", additions.networks),
        ("volumes", additions.volumes),
        ("secrets", additions.secrets),
    ] {
        document.update(section, |node| added.into_iter().for_each(|(name, value)| node.set(&name, value)));
    }
    Ok(document)
}

impl Additions {
    fn of(plan: &Plan, settings: &Settings) -> Result<Self, Vec<Problem>> {
        let mut additions = Self {
            services: vec![(CONTROL_PLANE.to_owned(), control_plane(settings))],
            networks: vec![(MESH.to_owned(), mesh_network(settings))],
            volumes: ["sidegate-state", "sidegate-trust"].map(|name| (name.to_owned(), Node::Null)).into(),
            secrets: Vec::new(),
        };
        let mut problems = Vec::new();
        for member in &plan.members {
            let name = &member.service.name;
            let Some(fence) = settings.fence(name) else {
                problems.push(Problem::of_service(
                    Code::ComposeStale,
                    name,
                    "it has no fence and no join token yet",
                ));
                continue;
            };
            let token = format!("./.sidegate/tokens/{}", member.service.account());
            additions.services.push((sidecar_name(name), sidecar_service(member, &fence, settings)));
            if member.service.outside.is_none() && member.service.mode == Mode::Fenced {
                additions.networks.push((sidecar_name(name), fence_network(&fence)));
            }
            additions.volumes.push((sidecar_name(name), Node::Null));
            additions.secrets.push((sidecar_name(name), Node::map([("file", Node::text(token))])));
        }
        if problems.is_empty() { Ok(additions) } else { Err(problems) }
    }
}

fn sidecar_service(member: &Member, fence: &Fence, settings: &Settings) -> Node {
    let name = &member.service.name;
    let own = sidecar_name(name);
    let is_transparent = member.service.mode == Mode::Transparent;
    let mut service = Node::Null;
    if is_transparent {
        service.set("image", Node::text(&settings.capture_image));
        service.set("command", Node::texts(sidecar::CAPTURE));
        confine(&mut service, "0:0");
        // For the rules, and for becoming somebody else. The sidecar has none of them.
        service.set("cap_add", Node::texts(["NET_ADMIN", "SETGID", "SETUID"]));
    } else {
        service.set("image", Node::text(&settings.proxy_image));
        confine(&mut service, &settings.user);
    }
    service.set("labels", labels(member));
    service.set("depends_on", Node::map([(CONTROL_PLANE, healthy())]));
    service.set(
        "environment",
        Node::map([("SIDEGATE_CONFIG", Node::text(sidecar::config(member, fence, settings)))]),
    );
    let token = Node::map([("source", Node::text(&own)), ("target", Node::text(sidecar::TOKEN))]);
    service.set("secrets", Node::List(vec![token]));
    service.set(
        "volumes",
        Node::texts([format!("{own}:{}", sidecar::CACHE), format!("sidegate-trust:{}:ro", sidecar::TRUST)]),
    );
    service.set("networks", networks(member, fence));
    let hosts = hosts(member, settings);
    if is_transparent && !hosts.is_empty() {
        service.set("extra_hosts", Node::texts(hosts));
    }
    if let Some(entries) = member.ports_of_sidecar().filter(|entries| !entries.is_empty()) {
        service.set("ports", Node::List(entries));
    }
    if let Some(profiles) = &member.service.profiles {
        service.set("profiles", profiles.clone());
    }
    service.set("healthcheck", healthcheck(&["/sidegate-proxy", "healthcheck"], "5s"));
    service
}

fn labels(member: &Member) -> Node {
    let mut labels = match &member.service.outside {
        None => Node::map([(SIDECAR_OF, Node::text(&member.service.name))]),
        Some(_) => Node::map([(ROLE, Node::text("egress"))]),
    };
    if member.service.mode == Mode::Transparent {
        labels.set(MODE, Node::text("transparent"));
    }
    labels
}

/// The mesh and, around a fenced application, the fence, where the names of its upstreams are the sidecar's.
fn networks(member: &Member, fence: &Fence) -> Node {
    let mut networks = Node::map([(MESH, Node::map([("ipv4_address", address(fence.mesh))]))]);
    if member.service.outside.is_none() && member.service.mode == Mode::Fenced {
        let mut on_fence = Node::map([("ipv4_address", address(fence.sidecar))]);
        let aliases = member.aliases();
        if !aliases.is_empty() {
            on_fence.set("aliases", Node::texts(aliases));
        }
        networks.set(&sidecar_name(&member.service.name), on_fence);
    }
    networks
}

/// Where a transparent application finds its upstreams: at the sidecars of these, which it never reaches itself.
fn hosts(member: &Member, settings: &Settings) -> Vec<String> {
    let mut hosts = BTreeSet::new();
    for call in &member.calls {
        if let Some(fence) = settings.fence(&call.to) {
            hosts.extend(call.hosts.iter().map(|host| format!("{host}:{}", fence.mesh)));
        }
    }
    hosts.into_iter().collect()
}

fn control_plane(settings: &Settings) -> Node {
    let mut service = Node::map([("image", Node::text(&settings.control_plane_image))]);
    confine(&mut service, IMAGE_USER);
    service.set("labels", Node::map([(ROLE, Node::text("control-plane"))]));
    service.set(
        "volumes",
        Node::texts([
            "./.sidegate:/etc/sidegate:ro",
            "sidegate-state:/var/lib/sidegate",
            &format!("sidegate-trust:{}", sidecar::TRUST),
        ]),
    );
    let mesh = Node::map([("ipv4_address", address(settings.mesh_network().control_plane))]);
    service.set("networks", Node::map([(MESH, mesh)]));
    service.set("healthcheck", healthcheck(&["/sidegate", "control-plane", "healthcheck"], "1s"));
    service
}

/// No privilege, no writable file system, not root.
fn confine(service: &mut Node, user: &str) {
    service.set("user", Node::text(user));
    service.set("read_only", Node::Bool(true));
    service.set("cap_drop", Node::texts(["ALL"]));
    service.set("security_opt", Node::texts(["no-new-privileges:true"]));
    service.set("restart", Node::text("unless-stopped"));
}

/// Each check is a process that the engine starts in the container: with many sidecars these are most of what a machine has to do
/// while they start. Until the first that succeeds, none that fails counts, however slow the machine is.
fn healthcheck(command: &[&str], interval: &str) -> Node {
    let test = ["CMD"].into_iter().chain(command.iter().copied());
    Node::map([
        ("test", Node::texts(test)),
        ("interval", Node::text(interval)),
        ("timeout", Node::text("30s")),
        ("retries", Node::Number("10".to_owned())),
        ("start_period", Node::text("5m")),
    ])
}

/// `internal` takes away the way out, `inhibit_ipv4` the host's own address on the bridge.
fn fence_network(fence: &Fence) -> Node {
    Node::map([
        ("internal", Node::Bool(true)),
        ("driver", Node::text("bridge")),
        ("driver_opts", Node::map([("com.docker.network.bridge.inhibit_ipv4", Node::text("true"))])),
        ("ipam", ipam(&fence.subnet, fence.gateway, &fence.range)),
    ])
}

fn mesh_network(settings: &Settings) -> Node {
    let mesh = settings.mesh_network();
    Node::map([("driver", Node::text("bridge")), ("ipam", ipam(&mesh.subnet, mesh.gateway, &mesh.range))])
}

fn ipam(subnet: &str, gateway: std::net::Ipv4Addr, range: &str) -> Node {
    let block = Node::map([
        ("subnet", Node::text(subnet)),
        ("gateway", address(gateway)),
        ("ip_range", Node::text(range)),
    ]);
    Node::map([("config", Node::List(vec![block]))])
}

fn healthy() -> Node {
    Node::map([("condition", Node::text("service_healthy"))])
}

fn address(address: std::net::Ipv4Addr) -> Node {
    Node::text(address.to_string())
}

/// The network of all sidecars.
pub(crate) const MESH: &str = "sidegate-mesh";
/// Whom the images run as.
pub(crate) const IMAGE_USER: &str = "65532:65532";
const HEADER: &str =
    "# Written by `sidegate compose inject`: run it again after a change of the application's file.\n";
