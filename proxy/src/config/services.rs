//! The services that outbound ports lead to, as the file speaks of them: a list goes in, a table by name comes out. A
//! name that stands twice, or a target that the control plane tells, is a fault.

use std::collections::{BTreeMap, btree_map::Entry};

use schemars::JsonSchema;
use serde::Deserialize;
use sidegate_identity::SpiffeId;

use super::{Service, ServiceName, Target, file::Faults, schema};

/// A service that outbound ports lead to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ServiceFile {
    /// What outbound ports call it.
    #[schemars(with = "schema::Name")]
    name: String,
    /// Whom an endpoint must prove to be; one that proves none of these is refused. Needed without a control plane,
    /// refused with one.
    #[schemars(with = "Option<Vec<schema::Id>>")]
    identities: Option<Vec<String>>,
    /// The inbound ports of the service's sidecars. Needed without a control plane, refused with one.
    #[schemars(with = "Option<Vec<schema::Address>>")]
    endpoints: Option<Vec<String>>,
}

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
        let service = described(field, service.identities, service.endpoints, in_files, faults)?;
        say(field, name?, service, &mut services, faults)
    });
    services
}

/// A service without a namespace is one of the workload's own.
pub(super) fn name(field: &str, text: &str, namespace: &str, faults: &mut Faults<'_>) -> Option<ServiceName> {
    if text.contains('/') {
        faults.parse(field, text)
    } else {
        faults.parse(field, &format!("{namespace}/{text}"))
    }
}

/// Where a service is and who it must be: said here without a control plane, and by it otherwise.
pub(super) fn described(
    field: &str,
    identities: Option<Vec<String>>,
    endpoints: Option<Vec<String>>,
    in_files: bool,
    faults: &mut Faults<'_>,
) -> Option<Service> {
    match (in_files, identities, endpoints) {
        (true, Some(identities), Some(endpoints)) => {
            let target = Target {
                identities: faults.each(&format!("{field}.identities"), identities, |text, field, faults| {
                    faults.take(field, SpiffeId::parse(&text))
                }),
                endpoints: faults.each(&format!("{field}.endpoints"), endpoints, |text, field, faults| {
                    faults.parse(field, &text)
                }),
            };
            Some(Service { target: Some(target) })
        }
        (true, ..) => {
            faults.push(field, "without a control plane `identities` and `endpoints` are needed");
            None
        }
        (false, None, None) => Some(Service { target: None }),
        (false, ..) => {
            faults.push(field, "`identities` and `endpoints` come from the control plane; remove them here");
            None
        }
    }
}

/// Enters what the file says of a service. Ports may say the same of one service; two that differ are a fault.
pub(super) fn say(
    field: &str,
    name: ServiceName,
    service: Service,
    services: &mut BTreeMap<ServiceName, Service>,
    faults: &mut Faults<'_>,
) -> Option<()> {
    match services.entry(name) {
        Entry::Vacant(free) => {
            free.insert(service);
            Some(())
        }
        Entry::Occupied(taken) if taken.get() == &service && service.target.is_some() => Some(()),
        Entry::Occupied(taken) => {
            faults.push(field, format!("{} is described a second time, and otherwise", taken.key()));
            None
        }
    }
}
