//! How the workers see the endpoints of the services they call: a number of workers per endpoint and state, which the
//! metrics show. It changes when an endpoint comes, leaves, is ejected or is back, and never with a call.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::balance::Standing;

/// Workers by service, endpoint and state.
#[derive(Debug, Default)]
pub(crate) struct Endpoints(
    /// Held for one look at the map.
    Mutex<BTreeMap<Seen, i64>>,
);

/// A service, one of its endpoints, and the state of it.
type Seen = (Arc<str>, SocketAddr, &'static str);

impl Endpoints {
    /// One worker more (1) or less (-1) sees the endpoint so.
    pub(crate) fn add(&self, service: &Arc<str>, endpoint: SocketAddr, standing: Standing, change: i64) {
        let mut workers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(service), endpoint, standing.as_str());
        let count = workers.entry(key.clone()).or_default();
        *count += change;
        // What nobody sees any more is not shown: endpoints come and go for as long as the sidecar lives.
        if *count == 0 {
            workers.remove(&key);
        }
    }

    /// Shows them in order.
    pub(crate) fn each(
        &self,
        mut show: impl FnMut(&str, SocketAddr, &'static str, i64) -> fmt::Result,
    ) -> fmt::Result {
        let workers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        workers
            .iter()
            .try_for_each(|((service, endpoint, state), count)| show(service, *endpoint, state, *count))
    }
}
