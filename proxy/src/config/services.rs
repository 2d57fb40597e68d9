//! The services that outbound ports lead to, as the file speaks of them: a list goes in, a table by name comes out. A
//! name that stands twice, or a target that the control plane tells, is a fault.

use std::collections::{BTreeMap, btree_map::Entry};

use schemars::JsonSchema;
use serde::Deserialize;
use sidegate_identity::SpiffeId;

use super::{
    Host, Protocol, Service, ServiceName, Target,
    file::Faults,
    outbound::Known,
    resilience::{self, BalanceFile, BreakersFile, OutliersFile, RetriesFile, TimeoutsFile},
    routes::{self, RouteFile},
    schema,
};

/// A service that outbound ports lead to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ServiceFile {
    /// What outbound ports call it.
    #[schemars(with = "schema::Name")]
    name: String,
    /// The hosts by which the application names it where a port leads to several services: names, addresses, and
    /// wildcards for names with at least one label more. Absent: `name.namespace`, and `name` too if it is one of the
    /// workload's own namespace.
    #[schemars(with = "Option<Vec<schema::Host>>")]
    hosts: Option<Vec<String>>,
    /// What it speaks.
    #[serde(default)]
    protocol: Protocol,
    /// Whom an endpoint must prove to be; one that proves none of these is refused. Needed without a control plane,
    /// refused with one.
    #[schemars(with = "Option<Vec<schema::Id>>")]
    identities: Option<Vec<String>>,
    /// The inbound ports of the service's sidecars. Needed without a control plane, refused with one.
    #[schemars(with = "Option<Vec<schema::Address>>")]
    endpoints: Option<Vec<String>>,
    /// Where the application calls the service, beside its endpoints: a captured connection to one of these goes to an
    /// endpoint of the service.
    #[serde(default)]
    #[schemars(with = "Vec<schema::Address>")]
    addresses: Vec<String>,
    /// What becomes of its requests. Absent: they are sent to it as they are.
    #[serde(default)]
    routes: Vec<RouteFile>,
    /// Which endpoint a call goes to.
    #[serde(default)]
    balance: BalanceFile,
    /// When an endpoint gets no calls for a while. Each worker judges by what it has seen itself.
    #[serde(default)]
    outliers: OutliersFile,
    /// What may be open at once, per worker. What is over a bound is refused at once with 503.
    #[serde(default)]
    breakers: BreakersFile,
    /// What may take how long. None may be above its bound in `limits`, which is its default.
    #[serde(default)]
    timeouts: TimeoutsFile,
    /// What is tried again, and how often.
    #[serde(default)]
    retries: RetriesFile,
}

/// A fault has been told.
pub(super) struct Faulty;

/// The table of `services`, each said once.
pub(super) fn resolve(
    list: Vec<ServiceFile>,
    namespace: &str,
    in_files: bool,
    faults: &mut Faults<'_>,
) -> BTreeMap<ServiceName, Service> {
    let mut services = BTreeMap::new();
    faults.each("services", list, |service, field, faults| {
        let name = name(&format!("{field}.name"), &service.name, namespace, faults);
        let target = target(field, service.identities, service.endpoints, in_files, faults);
        let hosts = service.hosts.map(|hosts| {
            faults.each(&format!("{field}.hosts"), hosts, |text, field, faults| faults.parse(field, &text))
        });
        let addresses =
            faults.each(&format!("{field}.addresses"), service.addresses, |text, field, faults| {
                faults.parse(field, &text)
            });
        let routes = routes::resolve(field, service.routes, namespace, faults);
        let resilience = resilience::resolve(
            field,
            service.balance,
            service.outliers,
            service.breakers,
            service.timeouts,
            service.retries,
            faults,
        );
        let (name, target, resilience) = (name?, target.ok()?, resilience?);
        let hosts = hosts.unwrap_or_else(|| Host::of(&name, namespace));
        match services.entry(name) {
            Entry::Vacant(free) => {
                let protocol = service.protocol;
                free.insert(Service { target, hosts, protocol, routes, resilience, addresses });
            }
            Entry::Occupied(taken) => {
                faults.push(field, format!("{} is described a second time", taken.key()));
            }
        }
        Some(())
    });
    services
}

/// A service without a namespace is one of the workload's own.
pub(super) fn name(field: &str, text: &str, namespace: &str, faults: &mut Faults<'_>) -> Option<ServiceName> {
    let name = parse_name(text, namespace).map_err(|error| format!("{text:?}: {error}"));
    faults.take(field, name)
}

/// The same without a word about what is wrong.
pub(super) fn parse_name(text: &str, namespace: &str) -> Result<ServiceName, String> {
    if text.contains('/') { text.parse() } else { format!("{namespace}/{text}").parse() }
}

/// Where a service is and who it must be: said here without a control plane, and by it otherwise.
pub(super) fn target(
    field: &str,
    identities: Option<Vec<String>>,
    endpoints: Option<Vec<String>>,
    in_files: bool,
    faults: &mut Faults<'_>,
) -> Result<Option<Target>, Faulty> {
    match (in_files, identities, endpoints) {
        (true, Some(identities), Some(endpoints)) => Ok(Some(Target {
            identities: faults.each(&format!("{field}.identities"), identities, |text, field, faults| {
                faults.take(field, SpiffeId::parse(&text))
            }),
            endpoints: faults.each(&format!("{field}.endpoints"), endpoints, |text, field, faults| {
                faults.parse(field, &text)
            }),
        })),
        (true, ..) => {
            faults.push(field, "without a control plane `identities` and `endpoints` are needed");
            Err(Faulty)
        }
        (false, None, None) => Ok(None),
        (false, ..) => {
            faults.push(field, "`identities` and `endpoints` come from the control plane; remove them here");
            Err(Faulty)
        }
    }
}

/// Enters what a port says of its service. Ports may say the same of one service; two that differ are a fault.
pub(super) fn add(
    field: &str,
    name: ServiceName,
    target: Option<Target>,
    known: &mut Known<'_>,
    faults: &mut Faults<'_>,
) {
    match known.services.entry(name) {
        Entry::Vacant(free) => {
            let hosts = Host::of(free.key(), known.namespace);
            free.insert(Service { target, hosts, ..Service::default() });
        }
        Entry::Occupied(taken) if taken.get().target == target => {}
        Entry::Occupied(taken) => {
            faults.push(field, format!("{} is described a second time, and otherwise", taken.key()));
        }
    }
}

/// A service that a port names among others. The control plane may know one of which this file says nothing.
pub(super) fn find<'a>(
    field: &str,
    name: &ServiceName,
    known: &'a mut Known<'_>,
    faults: &mut Faults<'_>,
) -> Option<&'a Service> {
    if known.in_files && !known.services.contains_key(name) {
        faults.push(field, format!("{name} is not described: add it to `services`"));
        return None;
    }
    let namespace = known.namespace;
    Some(
        known
            .services
            .entry(name.clone())
            .or_insert_with_key(|name| Service { hosts: Host::of(name, namespace), ..Service::default() }),
    )
}
