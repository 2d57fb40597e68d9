//! The sidecar's configuration for one service, as `SIDEGATE_CONFIG` holds it. It listens for its application on the fence alone and
//! for peers and published ports on the mesh alone: nobody else on either network can speak in its name.

use std::fmt::Write as _;

use super::{
    plan::{CONTROL_PLANE, Call, Member},
    settings::{Fence, Settings},
};

/// The configuration as text.
pub(crate) fn config(member: &Member, fence: &Fence, settings: &Settings) -> String {
    let mut text = format!(
        "trustDomain: {}\n\
         workload: {{namespace: {}, serviceAccount: {}}}\n\
         controlPlane: {{address: \"{CONTROL_PLANE}:15110\", trustBundle: {TRUST}/root.pem, joinToken: /run/secrets/{TOKEN}}}\n\
         cache: {CACHE}/cache\n\
         admin: {{listen: \"127.0.0.1:15120\"}}\n",
        settings.trust_domain,
        settings.project,
        member.service.account(),
    );
    inbound(&mut text, member, fence);
    outbound(&mut text, member, fence);
    services(&mut text, member);
    text
}

fn inbound(text: &mut String, member: &Member, fence: &Fence) {
    if !member.ports.is_empty() {
        text.push_str("inbound:\n");
    }
    for (listen, port) in (FIRST_INBOUND..).zip(&member.ports) {
        let _ = writeln!(
            text,
            "- {{listen: \"{}:{listen}\", forward: \"{}:{}\", protocol: {}}}",
            fence.mesh,
            member.service.name,
            port.number,
            port.protocol.word()
        );
    }
}

fn outbound(text: &mut String, member: &Member, fence: &Fence) {
    let published = member.published();
    let (calls, own) = (member.calls_by_port(), member.ports.iter());
    if calls.is_empty() && published.is_empty() {
        return;
    }
    text.push_str("outbound:\n");
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
    for port in own.filter(|port| published.contains(&port.number)) {
        let _ =
            writeln!(text, "- {{listen: \"{}:{}\", service: {}}}", fence.mesh, port.number, port.mesh_name);
    }
}

/// Every service that a port leads to, described once.
fn services(text: &mut String, member: &Member) {
    let mut lines: Vec<String> = member.calls.iter().map(service).collect();
    let published = member.published();
    for port in member.ports.iter().filter(|port| published.contains(&port.number)) {
        lines.push(format!("- {{name: {}, protocol: {}}}", port.mesh_name, port.protocol.word()));
    }
    if !lines.is_empty() {
        let _ = writeln!(text, "services:\n{}", lines.join("\n"));
    }
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

/// Where the control plane's root certificate is.
pub(crate) const TRUST: &str = "/var/lib/sidegate-trust";
/// What the sidecar finds its join token under, in /run/secrets.
pub(crate) const TOKEN: &str = "join-token";
/// What the sidecar keeps over a restart.
pub(crate) const CACHE: &str = "/var/lib/sidegate";
const FIRST_INBOUND: u16 = 15106;
