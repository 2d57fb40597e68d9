//! The choices of the hot path that a bench makes as the path does, and that nobody outside of this crate makes otherwise: the
//! rule for a request, and the endpoint for a call. No more of either is shown.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use http::{HeaderMap, StatusCode};

use crate::{
    balance::{Balancer, Calls, Key, Pick},
    config::{Balance, Resilience, RouteRule},
    route::{Asking, RouteTable},
    snapshot::Service,
};

/// The routes of a service.
#[derive(Debug)]
pub struct Routes(RouteTable);

/// The endpoints of a service, as one worker sees them.
#[derive(Debug)]
pub struct Endpoints {
    calls: Rc<Calls>,
    balance: Balance,
}

impl Routes {
    /// `None`: there are no rules.
    pub fn of(rules: &[Arc<RouteRule>]) -> Option<Self> {
        RouteTable::compile(rules, |_| None).map(Self)
    }

    /// The name of the rule for a request whose path is in its canonical form.
    pub fn rule(&self, method: &str, host: &str, path: &str, headers: &HeaderMap) -> Option<&str> {
        let asking = Asking { method, host, path, query: None, headers };
        self.0.find(&asking).map(|matched| &*matched.rule.name)
    }
}

impl Endpoints {
    /// Endpoints that have not been called yet.
    pub fn of(addresses: &[SocketAddr], rules: Resilience) -> Self {
        let balance = rules.balance.clone();
        let service = Service {
            endpoints: addresses.into(),
            identities: [].into(),
            tls: None,
            resilience: Arc::new(rules),
            routes: None,
        };
        Self { calls: Balancer::new(7, Arc::default()).calls("shop/payments", &service), balance }
    }

    /// Chooses the endpoint for a call with these header fields, and lets the call be answered at once.
    pub fn call(&self, headers: &HeaderMap) -> Option<SocketAddr> {
        let key = match &self.balance {
            Balance::Hash(by) => Key::of(by, headers, IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Balance::Latency | Balance::RoundRobin => None,
        };
        let picked = self.calls.pick(Pick { key, ..Pick::default() }).ok()?;
        picked.answered(StatusCode::OK);
        Some(picked.endpoint())
    }
}
