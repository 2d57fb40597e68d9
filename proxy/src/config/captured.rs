//! What a captured outbound listener is told beside its address: where the application may go past the mesh. A
//! pass-through without a name, a range and a port is a fault.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Outbound, file::Faults, schema};

/// An outbound listener to which the kernel leads what the application sends anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapturedOutbound {
    /// Where the application's bytes may go as they are.
    pub passthrough: Vec<Passthrough>,
}

/// Addresses outside of the mesh that are reached in plaintext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passthrough {
    /// As logs and the ledger show it.
    pub name: String,
    /// Where they are.
    pub cidrs: Vec<IpNet>,
    /// Their ports.
    pub ports: Vec<u16>,
}

/// A listener to which the kernel leads what the application sends anywhere.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct CapturedFile {
    /// Addresses outside of the mesh that the application reaches as it would without a sidecar: in plaintext, unless
    /// it encrypts by itself. Absent: none. A known service is always reached over mutual TLS.
    #[serde(default)]
    passthrough: Vec<PassthroughFile>,
}

/// Addresses outside of the mesh that are reached in plaintext.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PassthroughFile {
    /// What logs and the ledger call it, as the rule that let it through.
    name: String,
    /// Where they are.
    #[schemars(with = "Vec<schema::Cidr>")]
    cidrs: Vec<String>,
    /// Their ports.
    #[schemars(inner(range(min = 1)))]
    ports: Vec<u16>,
}

/// The kernel redirects to one port, of either family.
pub(super) fn check(outbound: &[Outbound], faults: &mut Faults<'_>) {
    let mut ports = outbound.iter().filter(|port| port.is_captured()).map(|port| port.listen.port());
    let Some(first) = ports.next() else { return };
    if ports.any(|port| port != first) {
        faults.push("outbound", "captured listeners must have one and the same port");
    }
}

impl CapturedOutbound {
    /// The pass-through that `address` belongs to, if any.
    pub(crate) fn passes(&self, address: SocketAddr) -> Option<&Passthrough> {
        self.passthrough.iter().find(|one| {
            one.ports.contains(&address.port()) && one.cidrs.iter().any(|net| net.contains(&address.ip()))
        })
    }
}

impl CapturedFile {
    /// The kernel redirects to loopback, so a listener at another address would take nothing but strangers.
    pub(super) fn resolve(
        self,
        field: &str,
        listen: Option<IpAddr>,
        faults: &mut Faults<'_>,
    ) -> CapturedOutbound {
        if listen.is_some_and(|ip| !ip.is_loopback()) {
            faults.push(
                &format!("{field}.listen"),
                "captured connections arrive on loopback; listen on 127.0.0.1 or [::1]",
            );
        }
        let passthrough =
            faults.each(&format!("{field}.captured.passthrough"), self.passthrough, PassthroughFile::resolve);
        let names: BTreeSet<&str> = passthrough.iter().map(|one| one.name.as_str()).collect();
        if names.len() != passthrough.len() {
            faults.push(&format!("{field}.captured.passthrough"), "a name is there twice");
        }
        CapturedOutbound { passthrough }
    }
}

impl PassthroughFile {
    fn resolve(self, field: &str, faults: &mut Faults<'_>) -> Option<Passthrough> {
        if self.name.is_empty() || self.name.len() > LONGEST_NAME {
            faults.push(&format!("{field}.name"), format!("has not 1 to {LONGEST_NAME} bytes"));
            return None;
        }
        if self.cidrs.is_empty() || self.ports.is_empty() || self.ports.contains(&0) {
            faults.push(field, "needs cidrs, and ports that are not 0");
            return None;
        }
        let cidrs = faults.each(&format!("{field}.cidrs"), self.cidrs, |text, field, faults| {
            faults.parse::<IpNet>(field, &text)
        });
        Some(Passthrough { name: self.name, cidrs, ports: self.ports })
    }
}

/// It is a label of metrics.
const LONGEST_NAME: usize = 64;
