//! Outbound ports, as the file speaks of them: each leads to one service, or to several of which the application's own
//! words choose. A port that says both, or that could never choose, is a fault.

use std::{collections::BTreeMap, net::SocketAddr};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    ByHost, LeadsTo, Outbound, PathMode, Protocol, Service, ServiceName, Upgrades, captured::CapturedFile,
    file::Faults, schema, services,
};

/// A port on which the application reaches its upstreams. One of `service`, `services`, `proxy` and `captured` says which.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct OutboundFile {
    /// Where the application connects, in plaintext. Port 0: the system chooses, the log names it.
    #[schemars(with = "schema::Address")]
    listen: String,
    /// The one service behind it, whatever host the application names.
    #[schemars(with = "Option<schema::Name>")]
    service: Option<String>,
    /// The services behind it, of which the application's own words choose: a request goes to the one that has its
    /// `Host` or `:authority` among its `hosts`, TLS of the application's own to the one that has its server name (SNI).
    /// Any other host is refused. Bytes that name none go to the one that is declared `protocol: tcp`.
    #[schemars(with = "Option<Vec<schema::Name>>")]
    services: Option<Vec<String>>,
    /// The services behind it, for clients that are told to use a proxy (`HTTP_PROXY`): chosen as with `services`, and
    /// `CONNECT` opens a tunnel to the one that has the named host among its `hosts`. Any other host is refused, unless
    /// an `EgressPolicy` lets it leave the mesh.
    #[schemars(with = "Option<Vec<schema::Name>>")]
    proxy: Option<Vec<String>>,
    /// The kernel leads here what the application sends anywhere, and it goes on to the service that is called at the
    /// address it was sent to: one of its endpoints, or one of the `addresses` that the file's `services` names. Any
    /// other address is refused, unless an `EgressPolicy` lets it leave the mesh. Written `captured: {}`.
    captured: Option<CapturedFile>,
    /// What the application speaks. Absent: what the service is declared to speak.
    #[serde(default)]
    protocol: Protocol,
    /// How strictly request paths are read.
    #[serde(default)]
    paths: PathMode,
    /// What a request may become, by the names of `Upgrade`; other upgrades are answered 501. `websocket` is also that of
    /// HTTP/2 (RFC 8441). HTTP itself is never upgraded to. Absent: `[websocket]`.
    upgrades: Option<Vec<String>>,
    /// Whom an endpoint must prove to be; one that proves none of these is refused. With `service` and `endpoints`, in
    /// place of an entry in the file's `services`.
    #[schemars(with = "Option<Vec<schema::Id>>")]
    identities: Option<Vec<String>>,
    /// The inbound ports of the service's sidecars. With `service` and `identities`, in place of an entry in the file's
    /// `services`.
    #[schemars(with = "Option<Vec<schema::Address>>")]
    endpoints: Option<Vec<String>>,
}

/// What ports may lead to.
pub(super) struct Known<'a> {
    /// The workload's own namespace.
    pub(super) namespace: &'a str,
    /// Without a control plane.
    pub(super) in_files: bool,
    /// As the table of `services` says; ports add to it.
    pub(super) services: &'a mut BTreeMap<ServiceName, Service>,
}

/// The ports. What they say of services is entered before a port is read that only names them.
pub(super) fn resolve(
    mut list: Vec<OutboundFile>,
    known: &mut Known<'_>,
    faults: &mut Faults<'_>,
) -> Vec<Outbound> {
    for (index, port) in list.iter_mut().enumerate() {
        port.describe(&format!("outbound[{index}]"), known, faults);
    }
    faults.each("outbound", list, |port, field, faults| port.resolve(field, known, faults))
}

impl OutboundFile {
    /// Enters what the port itself says of its service.
    fn describe(&mut self, field: &str, known: &mut Known<'_>, faults: &mut Faults<'_>) {
        let name = self.service.as_deref().and_then(|text| services::parse_name(text, known.namespace).ok());
        let has_entry = name.as_ref().is_some_and(|name| known.services.contains_key(name));
        let (identities, endpoints) = (self.identities.take(), self.endpoints.take());
        if identities.is_none() && endpoints.is_none() && (has_entry || self.service.is_none()) {
            return;
        }
        if self.service.is_none() {
            let message =
                "`identities` and `endpoints` go with `service`; several are described in `services`";
            faults.push(field, message);
            return;
        }
        let target = services::target(field, identities, endpoints, known.in_files, faults);
        if let (Some(name), Ok(target)) = (name, target) {
            services::add(field, name, target, known, faults);
        }
    }

    fn resolve(self, field: &str, known: &mut Known<'_>, faults: &mut Faults<'_>) -> Option<Outbound> {
        let listen = faults.parse(&format!("{field}.listen"), &self.listen);
        let mut protocol = self.protocol;
        let leads_to = match (self.service, self.services, self.proxy, self.captured) {
            (Some(service), None, None, None) => {
                let field = format!("{field}.service");
                let service = services::name(&field, &service, known.namespace, faults)?;
                protocol = agreed(&field, protocol, &service, known, faults);
                LeadsTo::One(service)
            }
            (None, Some(list), None, None) => {
                LeadsTo::ByHost(by_host(&format!("{field}.services"), list, protocol, known, faults))
            }
            (None, None, Some(list), None) => {
                LeadsTo::Proxy(by_host(&format!("{field}.proxy"), list, protocol, known, faults))
            }
            (None, None, None, Some(CapturedFile {})) => {
                CapturedFile::check(field, listen.map(|address: SocketAddr| address.ip()), faults);
                LeadsTo::Captured
            }
            _ => {
                faults
                    .push(field, "one of `service`, `services`, `proxy` and `captured`, and no two of them");
                return None;
            }
        };
        let upgrades = Upgrades::resolve(self.upgrades, field, faults);
        Some(Outbound { listen: listen?, leads_to, protocol, paths: self.paths, upgrades })
    }
}

fn by_host(
    field: &str,
    list: Vec<String>,
    protocol: Protocol,
    known: &mut Known<'_>,
    faults: &mut Faults<'_>,
) -> ByHost {
    if list.is_empty() {
        faults.push(field, "no service: nothing could be reached");
    }
    if protocol == Protocol::Tcp {
        faults
            .push(field, "a port that looks into nothing cannot choose: `protocol: tcp` goes with `service`");
    }
    let mut table = ByHost::default();
    faults.each(field, list, |text, field, faults| {
        let name = services::name(field, &text, known.namespace, faults)?;
        let service = services::find(field, &name, known, faults)?;
        let added = table.add(name.clone(), service);
        faults.take(field, added)?;
        agreed(field, protocol, &name, known, faults);
        Some(())
    });
    table
}

/// What a port and its service are declared to speak, which may not be two things. Outbound, both versions of HTTP are
/// one: the far sidecar speaks to its application as it must.
fn agreed(
    field: &str,
    port: Protocol,
    service: &ServiceName,
    known: &Known<'_>,
    faults: &mut Faults<'_>,
) -> Protocol {
    let declared = known.services.get(service).map_or(Protocol::Auto, |service| service.protocol);
    match (port, declared) {
        (Protocol::Auto, declared) => declared,
        (port, Protocol::Auto) => port,
        (port, declared) => {
            if (port == Protocol::Tcp) != (declared == Protocol::Tcp) {
                faults.push(field, format!("{service} is declared to speak otherwise than this port"));
            }
            port
        }
    }
}
