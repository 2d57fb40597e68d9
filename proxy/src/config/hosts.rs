//! The hosts of services: exact names and wildcards in, one table per outbound port out. A host that would lead to two
//! services of one port does not get in.

use std::{fmt, str::FromStr};

use hashbrown::HashMap;

use super::{Protocol, Service, ServiceName};
use crate::http::canonical_host;

/// A host by which an application names a service: `payments.shop`, `10.0.0.7`, `[fd00::7]`, or `*.payments.shop`, which
/// is every name of at least one label more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// As requests are read: lower case, no trailing dot. Of a wildcard, what follows its dot.
    name: Box<str>,
    is_wildcard: bool,
}

/// Services of which a host chooses one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByHost {
    services: Vec<ServiceName>,
    /// What each of them is declared to speak.
    protocols: Vec<Protocol>,
    exact: HashMap<Box<str>, usize>,
    wildcards: HashMap<Box<str>, usize>,
}

impl Host {
    /// Its name, canonical, and whether names below that are meant instead.
    pub(crate) fn parts(&self) -> (&str, bool) {
        (&self.name, self.is_wildcard)
    }

    /// What a service is called without a word of the file's: `name.namespace`, and in its own namespace `name` too.
    pub(super) fn of(service: &ServiceName, namespace: &str) -> Vec<Self> {
        let (of, name) = service.parts();
        let bare = (of == namespace).then(|| name.to_owned());
        let hosts = bare.into_iter().chain([format!("{name}.{of}")]);
        // A name that is no host is reached by `hosts` alone.
        hosts.filter_map(|host| host.parse().ok()).collect()
    }
}

impl ByHost {
    /// Lets the hosts of `service` lead to it, or says why not.
    pub(super) fn add(&mut self, name: ServiceName, service: &Service) -> Result<(), String> {
        if self.services.contains(&name) {
            return Err(format!("{name} stands here twice"));
        }
        if service.hosts.is_empty() {
            return Err(format!("{name} has no host: give it `hosts` in `services`"));
        }
        if let Some((host, other)) = service.hosts.iter().find_map(|host| Some((host, self.taken(host)?))) {
            return Err(format!("{host} is a host of {name} and of {other}"));
        }
        let index = self.services.len();
        for host in &service.hosts {
            self.table(host.is_wildcard).insert(host.name.clone(), index);
        }
        self.services.push(name);
        self.protocols.push(service.protocol);
        Ok(())
    }

    /// The services, in the order of the file.
    pub fn services(&self) -> &[ServiceName] {
        &self.services
    }

    /// The index of the service that `host` means. An exact name counts before a wildcard, and of wildcards the longest.
    /// `host` is in the canonical form of a request's authority.
    pub(crate) fn find(&self, host: &str) -> Option<usize> {
        if let Some(index) = self.exact.get(host) {
            return Some(*index);
        }
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(index) = self.wildcards.get(parent) {
                return Some(*index);
            }
            rest = parent;
        }
        None
    }

    /// Whether the service at `index` is declared to speak HTTP, bytes that are not looked into, or nothing of the kind.
    pub(crate) fn protocol(&self, index: usize) -> Protocol {
        self.protocols.get(index).copied().unwrap_or_default()
    }

    /// The index of the one service that is declared to speak bytes that are not looked into; `None` if there is none
    /// or more than one.
    pub(crate) fn only_tcp(&self) -> Option<usize> {
        let mut declared = self.protocols.iter().enumerate().filter(|(_, spoken)| **spoken == Protocol::Tcp);
        match (declared.next(), declared.next()) {
            (Some((index, _)), None) => Some(index),
            _ => None,
        }
    }

    fn table(&mut self, of_wildcards: bool) -> &mut HashMap<Box<str>, usize> {
        if of_wildcards { &mut self.wildcards } else { &mut self.exact }
    }

    fn taken(&self, host: &Host) -> Option<&ServiceName> {
        let table = if host.is_wildcard { &self.wildcards } else { &self.exact };
        self.services.get(*table.get(&host.name)?)
    }
}

impl FromStr for Host {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (is_wildcard, name) = match text.strip_prefix("*.") {
            Some(parent) => (true, parent),
            None => (false, text),
        };
        match canonical_host(name) {
            Some(name) if !(is_wildcard && name.starts_with('[')) => {
                Ok(Self { name: name.into_boxed_str(), is_wildcard })
            }
            _ => Err("not a host such as payments.shop, *.payments.shop or [fd00::7], without a port"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_wildcard { "*." } else { "" })?;
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[&str]) -> Vec<Host> {
        list.iter().map(|host| host.parse().unwrap()).collect()
    }

    fn table(services: &[(&str, &[&str])]) -> Result<ByHost, String> {
        let mut table = ByHost::default();
        for (name, list) in services {
            let service = Service { hosts: hosts(list), ..Service::default() };
            table.add(name.parse().unwrap(), &service)?;
        }
        Ok(table)
    }

    #[test]
    fn a_service_is_called_by_its_name_and_outside_of_its_namespace_with_it() {
        let of = |namespace| Host::of(&"shop/Payments".parse().unwrap(), namespace);
        assert_eq!(of("shop"), hosts(&["payments", "payments.shop"]));
        assert_eq!(of("bank"), hosts(&["payments.shop"]));
    }

    #[test]
    fn an_exact_host_counts_before_a_wildcard_and_a_longer_wildcard_before_a_shorter() {
        let table = table(&[
            ("shop/a", &["a.test", "[fd00:0::7]", "10.0.0.7"]),
            ("shop/b", &["*.test"]),
            ("shop/c", &["*.c.test", "C.d.test."]),
        ])
        .unwrap();
        for (host, want) in [
            ("a.test", Some(0)),
            ("b.test", Some(1)),
            ("x.a.test", Some(1)),
            ("c.test", Some(1)),
            ("x.c.test", Some(2)),
            ("y.x.c.test", Some(2)),
            ("c.d.test", Some(2)),
            ("[fd00::7]", Some(0)),
            ("10.0.0.7", Some(0)),
            ("test", None),
            ("atest", None),
            ("xc.tests", None),
            ("a.test.evil", None),
            ("[fd00::8]", None),
            ("", None),
        ] {
            assert_eq!(table.find(host), want, "{host}");
        }
    }

    #[test]
    fn a_host_leads_to_one_service_of_a_port() {
        for (services, message) in [
            (&[("shop/a", &["a"][..]), ("shop/b", &["A."])][..], "a is a host of shop/b and of shop/a"),
            (&[("shop/a", &["*.a"]), ("shop/b", &["*.a"])], "*.a is a host of shop/b and of shop/a"),
            (&[("shop/a", &["a"]), ("shop/a", &["b"])], "shop/a stands here twice"),
            (&[("shop/a", &[])], "shop/a has no host: give it `hosts` in `services`"),
        ] {
            assert_eq!(table(services).unwrap_err(), message);
        }
        assert!(table(&[("shop/a", &["a"]), ("shop/b", &["*.a"])]).is_ok(), "these two never meet");
    }

    #[test]
    fn what_no_request_could_name_is_no_host() {
        for text in ["", "*", "*.", "a:80", "*.[::1]", "::1", "a/b", "a..b", "x.*.test", "*x.test", "ä"] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }
}
