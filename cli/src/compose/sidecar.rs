//! The sidecar's configuration for one service, as `SIDEGATE_CONFIG` holds it. It listens for its application on the fence alone, or
//! takes what the kernel leads to it, and for peers and published ports on the mesh alone: nobody else can speak in its name.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    file::Mode,
    plan::{CONTROL_PLANE, Call, Member},
    settings::{Fence, Settings},
};

/// The configuration as text.
pub(crate) fn config(member: &Member, fence: &Fence, settings: &Settings) -> String {
    let mut text = format!(
        "trustDomain: {}\n\
         workload: {{namespace: {}, serviceAccount: {}}}\n\
         controlPlane: {{address: \"{CONTROL_PLANE}:15110\", trustBundle: {TRUST}/root.pem, joinToken: /run/secrets/{TOKEN}}}\n\
         cache: {CACHE}/{}\n\
         admin: {{listen: \"127.0.0.1:15120\"}}\n",
        settings.trust_domain,
        settings.project,
        member.service.account(),
        match member.service.mode {
            Mode::Fenced => "cache",
            // Another user's.
            Mode::Transparent => "cache-transparent",
        },
    );
    inbound(&mut text, member, fence);
    outbound(&mut text, member, fence);
    services(&mut text, member, settings);
    if member.service.mode == Mode::Transparent {
        capture(&mut text, member);
    }
    text
}

/// What comes in by a published port is the sidecar's own affair.
fn capture(text: &mut String, member: &Member) {
    let published = member.published();
    let ports: Vec<_> = published.iter().map(|port| member.listens_for(*port).to_string()).collect();
    if ports.is_empty() {
        text.push_str("capture: {}\n");
    } else {
        let _ = writeln!(text, "capture: {{inbound: {{exclude: [{{ports: [{}]}}]}}}}", ports.join(", "));
    }
}

fn inbound(text: &mut String, member: &Member, fence: &Fence) {
    if !member.ports.is_empty() {
        text.push_str("inbound:\n");
    }
    let host = match (&member.service.outside, member.service.mode) {
        (Some(outside), _) => outside.as_str(),
        (None, Mode::Fenced) => member.service.name.as_str(),
        (None, Mode::Transparent) => LOOPBACK,
    };
    for (listen, port) in (FIRST_INBOUND..).zip(&member.ports) {
        let _ = writeln!(
            text,
            "- {{listen: \"{}:{listen}\", forward: \"{}:{}\", protocol: {}}}",
            fence.mesh,
            host,
            port.number,
            port.protocol.word()
        );
    }
}

fn outbound(text: &mut String, member: &Member, fence: &Fence) {
    let published = member.published();
    let is_transparent = member.service.mode == Mode::Transparent;
    let calls = if is_transparent { BTreeMap::new() } else { member.calls_by_port() };
    let is_idle = member.ports.is_empty() && calls.is_empty();
    if calls.is_empty() && published.is_empty() && !is_transparent && !is_idle {
        return;
    }
    text.push_str("outbound:\n");
    // A service that neither listens nor calls has a sidecar too, which needs a port to be one. Nothing is led to this.
    if is_transparent || is_idle {
        let _ = writeln!(text, "- {{listen: \"{LOOPBACK}:15101\", captured: {{}}}}");
    }
    for (port, calls) in calls {
        let leads_to = match &calls[..] {
            [call] => format!("service: {}", call.port.mesh_name),
            several => {
                let names: Vec<_> = several.iter().map(|call| call.port.mesh_name.as_str()).collect();
                format!("services: [{}]", names.join(", "))
            }
        };
        let _ = writeln!(text, "- {{listen: \"{}:{port}\", {leads_to}}}", fence.sidecar);
    }
    // What comes in by a published port is a call to the service itself, and judged as one.
    for port in member.ports.iter().filter(|port| published.contains(&port.number)) {
        let listen = member.listens_for(port.number);
        let _ = writeln!(text, "- {{listen: \"{}:{listen}\", service: {}}}", fence.mesh, port.mesh_name);
    }
}

/// Every service that a port leads to, described once.
fn services(text: &mut String, member: &Member, settings: &Settings) {
    let mut lines: Vec<String> = match member.service.mode {
        Mode::Fenced => member.calls.iter().map(service).collect(),
        Mode::Transparent => member.calls.iter().filter_map(|call| service_at(call, settings)).collect(),
    };
    let published = member.published();
    for port in member.ports.iter().filter(|port| published.contains(&port.number)) {
        lines.push(format!("- {{name: {}, protocol: {}}}", port.mesh_name, port.protocol.word()));
    }
    if !lines.is_empty() {
        let _ = writeln!(text, "services:\n{}", lines.join("\n"));
    }
}

/// By its address: the application finds it under its name in the sidecar's hosts.
fn service_at(call: &Call, settings: &Settings) -> Option<String> {
    let Call { to, port, .. } = call;
    let address = settings.fence(to)?.mesh;
    Some(format!(
        "- {{name: {}, protocol: {}, addresses: [\"{address}:{}\"]}}",
        port.mesh_name,
        port.protocol.word(),
        port.number
    ))
}

fn service(call: &Call) -> String {
    let hosts: Vec<_> = call.hosts.iter().map(|host| format!("\"{host}\"")).collect();
    format!(
        "- {{name: {}, protocol: {}, hosts: [{}]}}",
        call.port.mesh_name,
        call.port.protocol.word(),
        hosts.join(", ")
    )
}

/// What a transparent sidecar is started as: rules first, then itself, without a privilege.
pub(crate) const CAPTURE: [&str; 2] = ["capture", "run"];
/// Where the control plane's root certificate is.
pub(crate) const TRUST: &str = "/var/lib/sidegate-trust";
/// What the sidecar finds its join token under, in /run/secrets.
pub(crate) const TOKEN: &str = "join-token";
/// What the sidecar keeps over a restart.
pub(crate) const CACHE: &str = "/var/lib/sidegate";
const FIRST_INBOUND: u16 = 15106;
const LOOPBACK: &str = "127.0.0.1";
