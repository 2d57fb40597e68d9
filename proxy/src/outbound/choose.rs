//! Which service the application means: a port and what was asked of it go in, one service of that port comes out. A
//! host that stands for none of them is refused, and so is the address of a captured connection; no name is ever looked
//! up here.

use std::net::SocketAddr;

use super::Way;
use crate::{
    config::{LeadsTo, Protocol, ServiceName},
    error::Error,
    orig_dst::OrigDst,
    snapshot::{Route, Service, Snapshot},
    upstream::peer::Reach,
    worker::Worker,
};

/// The service that is meant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chosen<'a> {
    pub(super) name: &'a ServiceName,
    pub(super) service: &'a Service,
    /// The endpoint that the application has called itself, if it has.
    pub(super) only: Option<SocketAddr>,
}

impl<'a> Chosen<'a> {
    /// With the means of `worker`.
    pub(super) fn reach(&self, worker: &'a Worker) -> Reach<'a> {
        let Self { name, service, only } = *self;
        let Worker { balancer, pool, .. } = worker;
        Reach { name: name.as_str(), service, only, balancer, pool, per_try: None, retries: None }
    }
}

/// For an HTTP request to `host`.
pub(super) fn by_host<'a>(snapshot: &'a Snapshot, way: Way, host: &str) -> Result<Chosen<'a>, Error> {
    let route = &snapshot.outbound[way.port];
    let Some(table) = route.port.leads_to.by_host() else { return nameless(snapshot, way) };
    let index = table.find(host).ok_or_else(|| Error::UnknownHost(host.to_owned()))?;
    if table.protocol(index) == Protocol::Tcp {
        return Err(Error::ProtocolMismatch { declared: "tcp", seen: "http" });
    }
    nth(route, index)
}

/// For TLS of the application's own, by its server name. What is inside stays between the application and that service:
/// a host in there leads nowhere else.
pub(super) fn by_server_name<'a>(route: &'a Route, name: &str) -> Result<Chosen<'a>, Error> {
    let Some(table) = route.port.leads_to.by_host() else { return nth(route, 0) };
    let index = table.find(name).ok_or_else(|| Error::UnknownHost(name.to_owned()))?;
    match table.protocol(index) {
        Protocol::Auto | Protocol::Tcp => nth(route, index),
        Protocol::Http | Protocol::Http2 => Err(Error::ProtocolMismatch { declared: "http", seen: "TLS" }),
    }
}

/// For bytes that name nobody.
pub(super) fn nameless(snapshot: &Snapshot, way: Way) -> Result<Chosen<'_>, Error> {
    let route = &snapshot.outbound[way.port];
    match &route.port.leads_to {
        LeadsTo::One(_) => nth(route, 0),
        LeadsTo::ByHost(table) | LeadsTo::Proxy(table) => {
            nth(route, table.only_tcp().ok_or(Error::Nameless)?)
        }
        LeadsTo::Captured => by_address(snapshot, way.captured),
    }
}

/// For a captured connection, whatever it carries.
fn by_address(snapshot: &Snapshot, captured: Option<OrigDst>) -> Result<Chosen<'_>, Error> {
    let original =
        captured.ok_or_else(|| Error::NotCaptured("its port was not a captured one".to_owned()))?;
    let unknown = || Error::UnknownDestination(original.address());
    let called = snapshot.called_at.get(original.address()).ok_or_else(unknown)?;
    Ok(Chosen { name: &called.name, service: &called.service, only: called.chosen })
}

/// The service at `index` of those that the port leads to.
pub(super) fn nth(route: &Route, index: usize) -> Result<Chosen<'_>, Error> {
    let name = &route.port.leads_to.services()[index];
    let service = route.services[index].as_deref().ok_or_else(|| Error::UnknownService(name.to_string()))?;
    Ok(Chosen { name, service, only: None })
}
