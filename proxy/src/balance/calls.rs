//! The calls of one worker to one service: what is in flight, waits and is open, and what the calls say of their endpoints.
//! An ejected endpoint whose time is over is tried by one call; where too many are ejected, ejections are ignored.

mod choice;
mod picked;

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use hashbrown::HashMap;
use tokio::time::Instant;

pub(crate) use choice::Pick;
pub(crate) use picked::{ConnectionSlot, PendingSlot, Picked};

use super::{
    Random,
    endpoint::Endpoint,
    latency,
    outliers::{Outcome, Standing, Why},
};
use crate::{
    config::Resilience,
    error::{Breaker, Error},
    resilience::Budget,
    snapshot::Service,
    telemetry::{
        Metrics,
        metrics::{BreakerLabels, EjectionLabels},
    },
};

/// The calls to one service.
#[derive(Debug)]
pub(crate) struct Calls {
    name: Arc<str>,
    followed: RefCell<Followed>,
    in_flight: Cell<usize>,
    pending: Cell<usize>,
    connections: Cell<usize>,
    /// Of the endpoints, those that get no calls.
    ejected: Cell<usize>,
    next: Cell<usize>,
    budget: Budget,
    random: Rc<Random>,
    metrics: Arc<Metrics>,
}

/// What is in force for the service; the borrows of it last for no await.
#[derive(Debug)]
struct Followed {
    listed: Arc<[SocketAddr]>,
    rules: Arc<Resilience>,
    endpoints: Vec<Rc<Endpoint>>,
}

impl Calls {
    pub(super) fn new(name: Arc<str>, random: Rc<Random>, metrics: Arc<Metrics>) -> Self {
        let followed = Followed { listed: Arc::new([]), rules: Arc::default(), endpoints: Vec::new() };
        Self {
            name,
            followed: RefCell::new(followed),
            in_flight: Cell::new(0),
            pending: Cell::new(0),
            connections: Cell::new(0),
            ejected: Cell::new(0),
            next: Cell::new(0),
            budget: Budget::new(Instant::now()),
            random,
            metrics,
        }
    }

    /// Takes what is in force for the service. An endpoint that stays keeps what is known of it; a new one is assumed
    /// to answer as the others do, so that it gets its share and no rush.
    pub(super) fn follow(&self, service: &Service) {
        let mut followed = self.followed.borrow_mut();
        if !Arc::ptr_eq(&followed.rules, &service.resilience) {
            followed.rules = Arc::clone(&service.resilience);
        }
        if Arc::ptr_eq(&followed.listed, &service.endpoints) {
            return;
        }
        let now = Instant::now();
        let assumed = mean_latency(&followed.endpoints, now);
        let mut known: HashMap<SocketAddr, Rc<Endpoint>> =
            followed.endpoints.drain(..).map(|endpoint| (endpoint.address, endpoint)).collect();
        let mut listed: Vec<SocketAddr> = service.endpoints.to_vec();
        listed.sort_unstable();
        listed.dedup();
        let endpoint = |address| match known.remove(&address) {
            Some(endpoint) => endpoint,
            None => Rc::new(Endpoint::new(address, assumed, &self.name, &self.metrics, now)),
        };
        followed.endpoints = listed.into_iter().map(endpoint).collect();
        followed.listed = Arc::clone(&service.endpoints);
        self.recount(&followed);
    }

    /// Where what becomes of them is counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What is left for another try.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The service's name.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// For waits that must not come in step.
    pub(crate) fn random(&self) -> &Random {
        &self.random
    }

    fn refused(&self, breaker: Breaker) -> Error {
        self.metrics.breakers.add(BreakerLabels { service: Arc::clone(&self.name), breaker });
        Error::BreakerOpen { service: self.name.to_string(), breaker }
    }

    fn judge(&self, endpoint: &Endpoint, is_trial: bool, outcome: Outcome, now: Instant) {
        let followed = self.followed.borrow();
        let outliers = &followed.rules.outliers;
        let why = endpoint.health.count(outcome, outliers, now);
        match (endpoint.health.standing.get(), outcome, why) {
            (Standing::In, Outcome::Failed, Some(why)) if self.may_eject(&followed) => {
                self.eject(endpoint, &followed, why, now);
            }
            (Standing::Out(_) | Standing::Probing, Outcome::Failed, _) if is_trial => {
                self.eject(endpoint, &followed, Why::Probe, now);
            }
            (from @ (Standing::Out(_) | Standing::Probing), Outcome::Answered, _) if is_trial => {
                endpoint.health.restore(now);
                endpoint.moved(from);
                self.recount(&followed);
                tracing::info!(service = %self.name, endpoint = %endpoint.address, "endpoint is back");
            }
            _ => {}
        }
    }

    fn may_eject(&self, followed: &Followed) -> bool {
        let count = followed.endpoints.len();
        !is_over(self.ejected.get() + 1, count, followed.rules.outliers.max_ejected_percent)
    }

    fn eject(&self, endpoint: &Endpoint, followed: &Followed, why: Why, now: Instant) {
        let from = endpoint.health.standing.get();
        let time = endpoint.health.eject(&followed.rules.outliers, self.random.share(), now);
        endpoint.moved(from);
        self.recount(followed);
        let (service, reason) = (Arc::clone(&self.name), why.as_str());
        self.metrics.ejections.add(EjectionLabels { service, endpoint: endpoint.address, reason });
        let seconds = time.as_secs_f64();
        let endpoint = endpoint.address;
        tracing::warn!(service = %self.name, %endpoint, reason, seconds, "endpoint ejected");
    }

    fn recount(&self, followed: &Followed) {
        self.ejected.set(followed.endpoints.iter().filter(|endpoint| !endpoint.is_in()).count());
    }
}

fn mean_latency(endpoints: &[Rc<Endpoint>], now: Instant) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "endpoints are far below 2^53")]
    let count = endpoints.len() as f64;
    let sum: f64 = endpoints.iter().map(|endpoint| endpoint.latency.nanos(now)).sum();
    if endpoints.is_empty() { latency::DEFAULT } else { sum / count }
}

/// Whether `part` is more than `percent` of `whole`.
fn is_over(part: usize, whole: usize, percent: u32) -> bool {
    part.saturating_mul(100) > whole.saturating_mul(usize::try_from(percent).unwrap_or(usize::MAX))
}
