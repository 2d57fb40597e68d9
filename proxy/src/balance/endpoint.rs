//! One endpoint, as one worker sees it: what is in flight and open there, how soon it answers, whether it gets calls.

use std::{cell::Cell, net::SocketAddr, sync::Arc};

use tokio::time::Instant;

use super::{
    hash,
    latency::Latency,
    outliers::{Health, Standing},
};
use crate::telemetry::Metrics;

/// One endpoint of a service.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    pub(super) hash: u64,
    pub(super) in_flight: Cell<usize>,
    pub(super) connections: Cell<usize>,
    pub(super) latency: Latency,
    pub(super) health: Health,
    service: Arc<str>,
    metrics: Arc<Metrics>,
}

impl Endpoint {
    pub(super) fn new(
        address: SocketAddr,
        latency: f64,
        service: &Arc<str>,
        metrics: &Arc<Metrics>,
        now: Instant,
    ) -> Self {
        metrics.endpoints.add(service, address, Standing::In, 1);
        Self {
            address,
            hash: hash::of_endpoint(address),
            in_flight: Cell::new(0),
            connections: Cell::new(0),
            latency: Latency::assumed(latency, now),
            health: Health::new(now),
            service: Arc::clone(service),
            metrics: Arc::clone(metrics),
        }
    }

    pub(super) fn is_in(&self) -> bool {
        self.health.standing.get() == Standing::In
    }

    /// What one more call costs here: how long it takes, for each that is on its way.
    pub(super) fn cost(&self, now: Instant) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "calls in flight are far below 2^53")]
        let in_flight = self.in_flight.get() as f64;
        self.latency.nanos(now) * (in_flight + 1.0)
    }

    /// Shows a change of its standing.
    pub(super) fn moved(&self, from: Standing) {
        self.metrics.endpoints.add(&self.service, self.address, from, -1);
        self.metrics.endpoints.add(&self.service, self.address, self.health.standing.get(), 1);
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.metrics.endpoints.add(&self.service, self.address, self.health.standing.get(), -1);
    }
}
