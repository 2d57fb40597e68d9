//! One entry of `inbound`: the file's shape, and the step from it to ports. A listener for captured connections gives
//! one port for each that it declares, and what it does not declare is refused.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Forward, Inbound, Outbound, PathMode, Protocol, Upgrades,
    file::Faults,
    rates::{self, RateLimitFile},
    schema,
};

/// A port on which peers reach the application.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct InboundFile {
    /// Where peers connect, with mutual TLS. Port 0: the system chooses, the log names it.
    #[schemars(with = "schema::Address")]
    listen: String,
    /// The application; its port is what policies mean by a port. Or the word `captured`: the kernel leads here what
    /// was sent to the application's own ports, and it goes on to the same port on loopback.
    #[schemars(with = "schema::Forward")]
    forward: String,
    /// With `forward: captured`, the application's ports. A connection for another one is refused.
    ports: Option<Vec<CapturedPortFile>>,
    /// What the application speaks.
    #[serde(default)]
    protocol: Protocol,
    /// How strictly request paths are read.
    #[serde(default)]
    paths: PathMode,
    /// What a request may become, by the names of `Upgrade`; other upgrades are answered 501. `websocket` is also that of
    /// HTTP/2 (RFC 8441). HTTP itself is never upgraded to. Absent: `[websocket]`.
    upgrades: Option<Vec<String>>,
    /// How many requests it takes; those that a policy denies are not counted. Opaque connections have no requests.
    #[serde(default)]
    rate_limits: Vec<RateLimitFile>,
    /// The address that other sidecars are told to connect to; with `forward: captured` an IP address alone, since
    /// they connect to the application's ports. Absent: the listening one.
    #[schemars(with = "Option<schema::Address>")]
    advertise: Option<String>,
}

/// One of the application's own ports.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CapturedPortFile {
    /// Where peers connect, and where the application listens.
    #[schemars(range(min = 1))]
    port: u16,
    /// What the application speaks there. Absent: as the listener says.
    protocol: Option<Protocol>,
    /// How strictly request paths are read there. Absent: as the listener says.
    paths: Option<PathMode>,
}

impl InboundFile {
    pub(super) fn resolve(self, field: &str, faults: &mut Faults<'_>) -> Option<Vec<Inbound>> {
        if self.forward == CAPTURED {
            return self.resolve_captured(field, faults);
        }
        if self.ports.is_some() {
            faults.push(&format!("{field}.ports"), "only with `forward: captured`");
        }
        let listen = faults.parse(&format!("{field}.listen"), &self.listen);
        let forward = faults.parse(&format!("{field}.forward"), &self.forward);
        let advertise = match self.advertise {
            Some(text) => Some(faults.parse(&format!("{field}.advertise"), &text)?),
            None => None,
        };
        Some(vec![Inbound {
            listen: listen?,
            is_captured: false,
            forward: forward?,
            protocol: self.protocol,
            paths: self.paths,
            upgrades: Upgrades::resolve(self.upgrades, field, faults),
            rate_limits: rates::resolve(field, self.rate_limits, faults),
            advertise,
        }])
    }

    fn resolve_captured(self, field: &str, faults: &mut Faults<'_>) -> Option<Vec<Inbound>> {
        let listen: SocketAddr = faults.parse(&format!("{field}.listen"), &self.listen)?;
        if !listen.ip().is_unspecified() {
            // The kernel redirects to the address of the interface that a packet came in by.
            faults.push(
                &format!("{field}.listen"),
                format!("{listen}: captured connections arrive at every address; listen on [::] or 0.0.0.0"),
            );
        }
        let advertise: Option<IpAddr> = match self.advertise {
            Some(text) => Some(faults.parse(&format!("{field}.advertise"), &text)?),
            None => None,
        };
        let ports = self.ports.unwrap_or_default();
        if ports.is_empty() {
            faults.push(&format!("{field}.ports"), "`forward: captured` needs the application's ports");
        }
        let mut declared = BTreeSet::new();
        for CapturedPortFile { port, .. } in &ports {
            if *port == 0 || !declared.insert(*port) {
                faults.push(&format!("{field}.ports"), format!("{port} is not a port, or is there twice"));
            }
        }
        let upgrades = Upgrades::resolve(self.upgrades, field, faults);
        let rate_limits = rates::resolve(field, self.rate_limits, faults);
        let inbound = ports.into_iter().map(|CapturedPortFile { port, protocol, paths }| Inbound {
            listen,
            is_captured: true,
            forward: Forward::loopback(port),
            protocol: protocol.unwrap_or(self.protocol),
            paths: paths.unwrap_or(self.paths),
            upgrades: upgrades.clone(),
            rate_limits: rate_limits.clone(),
            advertise: advertise.map(|ip| (ip, port).into()),
        });
        Some(inbound.collect())
    }
}

/// The kernel redirects to one port.
pub(super) fn check_captured(inbound: &[Inbound], faults: &mut Faults<'_>) {
    let mut listen = inbound.iter().filter(|port| port.is_captured).map(|port| port.listen);
    let Some(first) = listen.next() else { return };
    if listen.any(|listen| listen != first) {
        faults.push("inbound", "only one listener can take captured connections");
    }
}

/// What comes in for the application may not go to a port of this sidecar's own: a forward proxy would carry it round.
pub(super) fn refuse_loops(inbound: &[Vec<Inbound>], outbound: &[Outbound], faults: &mut Faults<'_>) {
    let own = inbound.iter().flatten().map(|port| port.listen).chain(outbound.iter().map(|port| port.listen));
    let own: Vec<SocketAddr> = own.collect();
    let ports =
        inbound.iter().enumerate().flat_map(|(index, ports)| ports.iter().map(move |port| (index, port)));
    for (index, port) in ports {
        let Ok(to) = port.forward.to_string().parse::<SocketAddr>() else { continue };
        let is_at = |listen: &SocketAddr| {
            let is_everywhere = listen.ip().is_unspecified() && to.ip().is_loopback();
            listen.port() == to.port() && (listen.ip() == to.ip() || is_everywhere)
        };
        if own.iter().any(is_at) {
            faults
                .push(&format!("inbound[{index}].forward"), format!("{to} is a port of this sidecar itself"));
        }
    }
}

const CAPTURED: &str = "captured";
