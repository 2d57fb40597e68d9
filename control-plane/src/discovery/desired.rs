//! What the mesh wants one sidecar to have: its settings, the policies that select its workload, the services that it
//! calls, every bundle. Where the control plane does not know, what the sidecar holds stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use sidegate_identity::SpiffeId;
use sidegate_proto::v1::Resource;

use crate::{
    config::{Service, ServiceName},
    mesh::Mesh,
    proxies::Endpoints,
    resource::{self, POLICY_PREFIX, Renewal},
};

/// What a sidecar is to hold, by resource name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Desired {
    pub(crate) set: BTreeMap<String, Arc<Resource>>,
    /// Neither sent nor removed.
    pub(crate) withheld: BTreeSet<String>,
    /// No policy is known: those that are held stay.
    pub(crate) policies_unknown: bool,
}

impl Desired {
    /// What one mesh alone decides: settings, quarantine, bundles, policies. `None`: the identity is no service of the mesh. An
    /// identity that several services share gets the labels of the first of them in `mesh.yaml`. `renewal` is the
    /// certificate that is to be renewed now, if the sidecar uses it.
    pub(crate) fn of_mesh(mesh: &Mesh, identity: &SpiffeId, renewal: Option<&Renewal>) -> Option<Self> {
        let workload = mesh.config.workload(identity)?;
        let mut desired = Self { policies_unknown: mesh.policies.is_none(), ..Self::default() };
        desired.add(Arc::new(resource::settings(&mesh.config, workload, renewal)));
        desired.add(mesh.quarantine.resource.clone());
        desired.add(mesh.trust.resource.clone());
        desired.add_all(mesh.foreign.iter().map(|foreign| foreign.resource.clone()));
        desired.add_all(mesh.selected.get(identity)?.iter().cloned());
        Some(desired)
    }

    /// Adds the services that the sidecar calls, with the endpoints of now. A name that the mesh does not have is
    /// left out.
    ///
    /// `may_keep` says whether a service stays as the sidecar holds it: soon after a start its own sidecars, or some of
    /// them, may not have found back yet, and the endpoints of now would be none or too few.
    pub(crate) fn with_services(
        mut self,
        mesh: &Mesh,
        endpoints: &Endpoints,
        services: &BTreeSet<ServiceName>,
        may_keep: impl Fn(&str) -> bool,
    ) -> Self {
        for service in services.iter().filter_map(|name| mesh.config.service(name)) {
            let name = resource::service_name(&service.name);
            if may_keep(&name) {
                self.withheld.insert(name);
            } else {
                self.add(Arc::new(resource::service(service, &endpoints_of(service, endpoints))));
            }
        }
        self
    }

    /// Whether a resource that is not wanted stays where it is held.
    pub(crate) fn keeps(&self, name: &str) -> bool {
        self.withheld.contains(name) || (self.policies_unknown && name.starts_with(POLICY_PREFIX))
    }

    fn add(&mut self, resource: Arc<Resource>) {
        self.set.insert(resource.name.clone(), resource);
    }

    fn add_all(&mut self, resources: impl IntoIterator<Item = Arc<Resource>>) {
        resources.into_iter().for_each(|resource| self.add(resource));
    }
}

/// Those that are configured and those that sidecars of the service's own identity registered for its port. A service
/// without a port is reached on the first listener of each sidecar.
fn endpoints_of(service: &Service, registered: &Endpoints) -> BTreeSet<SocketAddr> {
    let registered = registered.get(&service.identity).into_iter().flat_map(|endpoints| endpoints.iter());
    let reached = registered.filter(|endpoint| match service.port {
        Some(port) => endpoint.port == port.get(),
        None => endpoint.is_first,
    });
    service.endpoints.iter().copied().chain(reached.map(|endpoint| endpoint.address)).collect()
}
