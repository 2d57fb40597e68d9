//! What a captured outbound listener is told beside its address: nothing so far. Where the application may go past the mesh
//! is for policies to say.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Outbound, file::Faults};

/// A listener to which the kernel leads what the application sends anywhere. It has no fields.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CapturedFile {}

/// The kernel redirects to one port, of either family.
pub(super) fn check(outbound: &[Outbound], faults: &mut Faults<'_>) {
    let mut ports = outbound.iter().filter(|port| port.is_captured()).map(|port| port.listen.port());
    let Some(first) = ports.next() else { return };
    if ports.any(|port| port != first) {
        faults.push("outbound", "captured listeners must have one and the same port");
    }
}

impl CapturedFile {
    /// The kernel redirects to loopback, so a listener at another address would take nothing but strangers.
    pub(super) fn check(field: &str, listen: Option<IpAddr>, faults: &mut Faults<'_>) {
        if listen.is_some_and(|ip| !ip.is_loopback()) {
            faults.push(
                &format!("{field}.listen"),
                "captured connections arrive on loopback; listen on 127.0.0.1 or [::1]",
            );
        }
    }
}
