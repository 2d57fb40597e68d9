//! Who plays in the demo and at which addresses: the control plane, and five workloads with a sidecar each.
//!
//! ```text
//! customer ──► web ──► orders ──► payments      intruder ──✗ payments      customer ──✗ vault (its endpoint is orders)
//! ```

use std::net::SocketAddr;

use super::ports::{NoFreePort, Ports};

pub(super) const CUSTOMER: &str = "customer";
pub(super) const WEB: &str = "web";
pub(super) const ORDERS: &str = "orders";
pub(super) const PAYMENTS: &str = "payments";
pub(super) const INTRUDER: &str = "intruder";
/// A service whose only endpoint belongs to another: a reused address.
pub(super) const VAULT: &str = "vault";

/// The trust domain of the demo.
pub(super) const TRUST_DOMAIN: &str = "shop.test";
/// The namespace that everybody is in.
pub(super) const NAMESPACE: &str = "shop";

/// The addresses of everybody.
#[derive(Debug)]
pub(super) struct Cast {
    pub(super) api: SocketAddr,
    pub(super) grpc: SocketAddr,
    pub(super) workloads: Vec<Workload>,
}

/// An application, if it has one of its own, and its sidecar.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    /// The sidecar's health and metrics.
    pub(super) admin: SocketAddr,
    /// What the sidecar protects. The customer and the intruder only call.
    pub(super) served: Option<Served>,
    /// The sidecar's outbound listeners.
    pub(super) calls: Vec<Call>,
}

/// An application and the sidecar's port in front of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served {
    pub(super) inbound: SocketAddr,
    pub(super) app: SocketAddr,
    /// Where the application tells what reached it; not behind the sidecar.
    pub(super) counter: SocketAddr,
}

/// An outbound listener.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) service: &'static str,
    pub(super) listen: SocketAddr,
}

impl Cast {
    /// Finds a free address for each of them; the control plane's usual ports if they are free.
    pub(super) fn at_free_ports(ports: &mut Ports) -> Result<Self, NoFreePort> {
        let api = ports.preferably(API_PORT)?;
        let grpc = ports.preferably(GRPC_PORT)?;
        let workloads = PLOT.iter().map(|scene| scene.workload(ports)).collect::<Result<_, _>>()?;
        Ok(Self { api, grpc, workloads })
    }

    /// Which usual ports had to be replaced, in words.
    pub(super) fn replaced_ports(&self) -> Vec<String> {
        [("API", API_PORT, self.api), ("gRPC", GRPC_PORT, self.grpc)]
            .into_iter()
            .filter(|(_, wanted, got)| got.port() != *wanted)
            .map(|(what, wanted, got)| {
                format!("port {wanted} is taken; the control plane's {what} is at {got}")
            })
            .collect()
    }

    /// One of the workloads by its constant in this module.
    pub(super) fn workload(&self, name: &str) -> &Workload {
        self.workloads.iter().find(|workload| workload.name == name).expect("the plot names every workload")
    }

    /// The outbound listener through which `caller` reaches `service`.
    pub(super) fn outbound(&self, caller: &str, service: &str) -> SocketAddr {
        let calls = &self.workload(caller).calls;
        calls
            .iter()
            .find(|call| call.service == service)
            .map(|call| call.listen)
            .expect("the plot names every call")
    }

    /// The application behind a sidecar.
    pub(super) fn served(&self, name: &str) -> Served {
        self.workload(name).served.expect("only services are asked for")
    }
}

/// `spiffe://shop.test/ns/shop/sa/<name>`.
pub(super) fn identity(name: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{name}")
}

/// One workload before it has addresses.
struct Scene {
    name: &'static str,
    serves: bool,
    calls: &'static [&'static str],
}

impl Scene {
    fn workload(&self, ports: &mut Ports) -> Result<Workload, NoFreePort> {
        let served = if self.serves {
            Some(Served { inbound: ports.free()?, app: ports.free()?, counter: ports.free()? })
        } else {
            None
        };
        let calls = self
            .calls
            .iter()
            .map(|service| Ok(Call { service, listen: ports.free()? }))
            .collect::<Result<_, NoFreePort>>()?;
        Ok(Workload { name: self.name, admin: ports.free()?, served, calls })
    }
}

const PLOT: [Scene; 5] = [
    Scene { name: CUSTOMER, serves: false, calls: &[WEB, VAULT] },
    Scene { name: WEB, serves: true, calls: &[ORDERS] },
    Scene { name: ORDERS, serves: true, calls: &[PAYMENTS] },
    Scene { name: PAYMENTS, serves: true, calls: &[] },
    Scene { name: INTRUDER, serves: false, calls: &[PAYMENTS] },
];

const API_PORT: u16 = 15_180;
const GRPC_PORT: u16 = 15_110;
