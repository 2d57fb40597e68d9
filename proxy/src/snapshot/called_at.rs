//! Services by the addresses at which an application calls them: what says where a captured connection was going. An
//! address that two services claim, which run under different identities, is nobody's: whom to expect there is in doubt.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{Service, Services};
use crate::config::{self, Protocol, ServiceName};

/// Services by address.
#[derive(Clone, Debug, Default)]
pub(crate) struct CalledAt {
    claims: Arc<HashMap<SocketAddr, Claim>>,
    /// Of all of them.
    hosts: Arc<HashSet<IpAddr>>,
}

/// A service that is called at an address.
#[derive(Clone, Debug)]
pub(crate) struct Called {
    pub(crate) name: ServiceName,
    pub(crate) service: Arc<Service>,
    /// What it is declared to speak.
    pub(crate) protocol: Protocol,
    /// The address, if it is one of the endpoints: the application has chosen it.
    pub(crate) chosen: Option<SocketAddr>,
}

#[derive(Clone, Debug)]
enum Claim {
    By(Called),
    InDoubt,
}

impl Called {
    fn of(name: &ServiceName, service: &Arc<Service>, protocol: Protocol) -> Self {
        Self { name: name.clone(), service: Arc::clone(service), protocol, chosen: None }
    }

    fn at(self, endpoint: SocketAddr) -> Self {
        Self { chosen: Some(endpoint), ..self }
    }
}

impl CalledAt {
    /// What the file says of addresses comes before what endpoints say of themselves. An address of a service that is
    /// not known yet is in doubt, and free for nothing else.
    pub(super) fn new(services: &Services, said: &BTreeMap<ServiceName, config::Service>) -> Self {
        let mut table = HashMap::new();
        for (name, said) in said {
            let called = services.get(name).map(|service| Called::of(name, service, said.protocol));
            for address in &said.addresses {
                claim(&mut table, *address, called.clone(), is_same_service);
            }
        }
        let mut endpoints = HashMap::new();
        for (name, service) in services.iter() {
            let protocol = said.get(name).map_or(Protocol::Auto, |said| said.protocol);
            let called = Called::of(name, service, protocol);
            for address in service.endpoints.iter() {
                claim(&mut endpoints, *address, Some(called.clone().at(*address)), is_same_peer);
            }
        }
        for (address, of_endpoint) in endpoints {
            table.entry(address).or_insert(of_endpoint);
        }
        let hosts = table.keys().map(SocketAddr::ip).collect();
        Self { claims: Arc::new(table), hosts: Arc::new(hosts) }
    }

    /// Whether anything of the mesh is at `ip`, on whatever port.
    pub(crate) fn has_workload_at(&self, ip: IpAddr) -> bool {
        self.hosts.contains(&ip)
    }

    /// Whether `address` belongs to the mesh, even if it is in doubt to whom.
    pub(crate) fn is_claimed(&self, address: SocketAddr) -> bool {
        self.claims.contains_key(&address)
    }

    /// The service that is called at `address`, if there is no doubt.
    pub(crate) fn get(&self, address: SocketAddr) -> Option<&Called> {
        match self.claims.get(&address)? {
            Claim::By(called) => Some(called),
            Claim::InDoubt => None,
        }
    }
}

/// One claim is good, another that says the same does no harm, and everything else leaves the address in doubt.
fn claim(
    table: &mut HashMap<SocketAddr, Claim>,
    address: SocketAddr,
    called: Option<Called>,
    is_same: fn(&Called, &Called) -> bool,
) {
    match (table.entry(address), called) {
        (Entry::Vacant(free), called) => {
            free.insert(called.map_or(Claim::InDoubt, Claim::By));
        }
        (Entry::Occupied(taken), Some(called)) if matches!(taken.get(), Claim::By(first) if is_same(first, &called)) =>
            {}
        (Entry::Occupied(mut taken), _) => {
            taken.insert(Claim::InDoubt);
        }
    }
}

/// At an endpoint it is enough to expect the same there.
fn is_same_peer(one: &Called, other: &Called) -> bool {
    one.service.identities == other.service.identities && one.protocol == other.protocol
}

fn is_same_service(one: &Called, other: &Called) -> bool {
    is_same_peer(one, other) && one.service.endpoints == other.service.endpoints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(list: &[(&str, &str, &[&str])]) -> Services {
        let service = |identity: &str, endpoints: &[&str]| Service {
            endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(),
            identities: [format!("spiffe://shop.test/ns/shop/sa/{identity}").parse().unwrap()].into(),
            tls: None,
            resilience: Arc::default(),
            routes: None,
        };
        let entry = |(name, identity, endpoints): &(&str, &str, &[&str])| {
            (format!("shop/{name}").parse().unwrap(), Arc::new(service(identity, endpoints)))
        };
        Arc::new(list.iter().map(entry).collect())
    }

    fn said(name: &str, address: &str) -> BTreeMap<ServiceName, config::Service> {
        let service =
            config::Service { addresses: vec![address.parse().unwrap()], ..config::Service::default() };
        [(format!("shop/{name}").parse().unwrap(), service)].into()
    }

    fn called(table: &CalledAt, address: &str) -> Option<(String, bool)> {
        let called = table.get(address.parse().unwrap())?;
        Some((called.name.to_string(), called.chosen.is_some()))
    }

    #[test]
    fn a_service_is_found_at_its_addresses_and_at_its_endpoints() {
        let services = services(&[("a", "a", &["10.0.0.1:80", "[fd00::1]:80"])]);
        let table = CalledAt::new(&services, &said("a", "10.96.0.1:80"));
        assert_eq!(called(&table, "10.96.0.1:80"), Some(("shop/a".to_owned(), false)));
        assert_eq!(called(&table, "10.0.0.1:80"), Some(("shop/a".to_owned(), true)));
        assert_eq!(called(&table, "[fd00::1]:80"), Some(("shop/a".to_owned(), true)));
        assert_eq!(called(&table, "10.0.0.1:81"), None);
        assert_eq!(called(&table, "10.0.0.2:80"), None);
    }

    #[test]
    fn an_address_that_services_of_different_identities_claim_is_nobodys() {
        let endpoints: &[&str] = &["10.0.0.1:80"];
        let table =
            CalledAt::new(&services(&[("a", "a", endpoints), ("b", "b", endpoints)]), &BTreeMap::new());
        assert_eq!(called(&table, "10.0.0.1:80"), None);
        let table =
            CalledAt::new(&services(&[("a", "a", endpoints), ("b", "a", endpoints)]), &BTreeMap::new());
        assert_eq!(called(&table, "10.0.0.1:80"), Some(("shop/a".to_owned(), true)));
    }

    #[test]
    fn the_address_of_a_service_that_is_not_known_yet_is_nobodys_and_not_free() {
        let table = CalledAt::new(&services(&[]), &said("a", "10.96.0.1:80"));
        assert_eq!(called(&table, "10.96.0.1:80"), None);
        assert!(table.is_claimed("10.96.0.1:80".parse().unwrap()));
        assert!(!table.is_claimed("10.96.0.2:80".parse().unwrap()));
    }

    #[test]
    fn what_the_file_says_of_an_address_comes_before_an_endpoint_that_claims_it() {
        let services = services(&[("a", "a", &["10.0.0.1:80"]), ("b", "b", &["10.96.0.1:80"])]);
        let table = CalledAt::new(&services, &said("a", "10.96.0.1:80"));
        assert_eq!(called(&table, "10.96.0.1:80"), Some(("shop/a".to_owned(), false)));
    }
}
