//! The calls of one worker to one service: what is in flight, waits and is open, and to which endpoint the next goes.
//! An ejected endpoint whose time is over is tried by one call; where too many are ejected, ejections are ignored.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use hashbrown::HashMap;
use http::StatusCode;
use tokio::time::Instant;

use super::{
    Key, Random,
    endpoint::Endpoint,
    latency,
    outliers::{Outcome, Standing, Why},
};
use crate::{
    config::{Balance, Failures, Resilience},
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

/// What a call asks of the choice.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pick<'a> {
    /// What it is hashed by, if it is.
    pub(crate) key: Option<Key>,
    /// Endpoints that are left out.
    pub(crate) tried: &'a [SocketAddr],
    /// The endpoint that the caller has chosen itself: no other will do.
    pub(crate) only: Option<SocketAddr>,
    /// Whether an ejected endpoint is better than none.
    pub(crate) ejected_too: bool,
}

/// A chosen endpoint; counted there until dropped.
#[derive(Debug)]
pub(crate) struct Picked {
    calls: Rc<Calls>,
    endpoint: Rc<Endpoint>,
    since: Instant,
    /// The endpoint was ejected: this call decides whether it is back.
    is_trial: bool,
    is_told: Cell<bool>,
    /// The endpoint's failures in a row before this call was answered.
    failed_before: Cell<Option<u32>>,
}

/// An open connection to an endpoint; counted until dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    calls: Rc<Calls>,
    endpoint: Rc<Endpoint>,
}

/// A call that waits for a connection; counted until dropped.
#[derive(Debug)]
pub(crate) struct PendingSlot(Rc<Calls>);

impl Pick<'_> {
    fn allows(&self, endpoint: SocketAddr) -> bool {
        self.only.is_none_or(|only| only == endpoint) && !self.tried.contains(&endpoint)
    }
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

    /// An endpoint for one more call, or why there is none.
    pub(crate) fn pick(self: &Rc<Self>, pick: Pick<'_>) -> Result<Picked, Error> {
        let followed = self.followed.borrow();
        let rules = &*followed.rules;
        if followed.endpoints.is_empty() {
            return Err(Error::NoEndpoints(self.name.to_string()));
        }
        if self.in_flight.get() >= rules.breakers.requests {
            return Err(self.refused(Breaker::Requests));
        }
        let now = Instant::now();
        if let Some(endpoint) = self.due(&followed, pick, now) {
            let from = endpoint.health.standing.replace(Standing::Probing);
            endpoint.moved(from);
            return Ok(self.picked(endpoint, now));
        }
        let ignores_ejections = self.ignores_ejections(&followed, pick);
        let is_left =
            |endpoint: &Endpoint| (ignores_ejections || endpoint.is_in()) && pick.allows(endpoint.address);
        let may = |endpoint: &Endpoint| {
            is_left(endpoint) && endpoint.in_flight.get() < rules.breakers.endpoint_requests
        };
        match self.choose(&followed, pick.key, may, now) {
            Some(endpoint) => {
                if ignores_ejections {
                    self.metrics.ejections_ignored.add(Arc::clone(&self.name));
                }
                Ok(self.picked(endpoint, now))
            }
            None if followed.endpoints.iter().any(|endpoint| is_left(endpoint)) => {
                Err(self.refused(Breaker::EndpointRequests))
            }
            None if self.ejected.get() > 0 => Err(Error::AllEjected(self.name.to_string())),
            None => Err(Error::NoEndpoints(self.name.to_string())),
        }
    }

    /// An ejected endpoint whose time is over.
    fn due<'f>(&self, followed: &'f Followed, pick: Pick<'_>, now: Instant) -> Option<&'f Rc<Endpoint>> {
        if self.ejected.get() == 0 {
            return None;
        }
        followed.endpoints.iter().find(|endpoint| match endpoint.health.standing.get() {
            Standing::Out(until) => until <= now && pick.allows(endpoint.address),
            Standing::In | Standing::Probing => false,
        })
    }

    /// Endpoints may have left since others were ejected, or a call may have found the rest out of reach. What has failed
    /// is then better than nothing, unless the rules say that all may be ejected.
    fn ignores_ejections(&self, followed: &Followed, pick: Pick<'_>) -> bool {
        let most = followed.rules.outliers.max_ejected_percent;
        most < 100 && (pick.ejected_too || is_over(self.ejected.get(), followed.endpoints.len(), most))
    }

    fn choose<'f>(
        &self,
        followed: &'f Followed,
        key: Option<Key>,
        may: impl Fn(&Endpoint) -> bool,
        now: Instant,
    ) -> Option<&'f Rc<Endpoint>> {
        let endpoints = &followed.endpoints;
        match (&followed.rules.balance, key) {
            (Balance::RoundRobin, _) => {
                let next = self.next.get();
                let (before, after) = endpoints.split_at_checked(next).unwrap_or((&[], endpoints));
                let mut turn = after.iter().chain(before).enumerate();
                let (passed, endpoint) = turn.find(|(_, endpoint)| may(endpoint))?;
                self.next.set((next + passed + 1) % endpoints.len());
                Some(endpoint)
            }
            (Balance::Hash(_), Some(key)) => self.by_hash(endpoints, key, may),
            (Balance::Latency | Balance::Hash(_), _) => self.of_two(endpoints, may, now),
        }
    }

    /// The endpoint that wants the key most, among those that have no more than a quarter over the mean in flight: a
    /// popular key spills over to its next choice instead of drowning its first.
    fn by_hash<'f>(
        &self,
        endpoints: &'f [Rc<Endpoint>],
        key: Key,
        may: impl Fn(&Endpoint) -> bool,
    ) -> Option<&'f Rc<Endpoint>> {
        let serving = endpoints.len().saturating_sub(self.ejected.get()).max(1);
        let most = ((self.in_flight.get() + 1) * 5).div_ceil(serving * 4);
        let wants_most = |bound: usize| {
            let free = endpoints.iter().filter(|endpoint| endpoint.in_flight.get() < bound && may(endpoint));
            free.max_by_key(|endpoint| key.score(endpoint.hash))
        };
        wants_most(most).or_else(|| wants_most(usize::MAX))
    }

    /// Of two at random the cheaper one: nearly as good as the cheapest of all, and callers that see the same do not
    /// all run to the same endpoint.
    fn of_two<'f>(
        &self,
        endpoints: &'f [Rc<Endpoint>],
        may: impl Fn(&Endpoint) -> bool,
        now: Instant,
    ) -> Option<&'f Rc<Endpoint>> {
        let count = endpoints.len();
        let first = self.random.below(count);
        let second = (first + 1 + self.random.below(count.saturating_sub(1))) % count.max(1);
        let (first, second) = (endpoints.get(first)?, endpoints.get(second)?);
        match (may(first), may(second)) {
            (true, true) => Some(cheaper(first, second, now)),
            (true, false) => Some(first),
            (false, true) => Some(second),
            // Rare: most endpoints are out, tried or full.
            (false, false) => {
                let left = || endpoints.iter().filter(|endpoint| may(endpoint));
                let count = left().count();
                let first = left().nth(self.random.below(count))?;
                let second = left().nth(self.random.below(count))?;
                Some(cheaper(first, second, now))
            }
        }
    }

    fn picked(self: &Rc<Self>, endpoint: &Rc<Endpoint>, since: Instant) -> Picked {
        raise(&self.in_flight);
        raise(&endpoint.in_flight);
        Picked {
            calls: Rc::clone(self),
            endpoint: Rc::clone(endpoint),
            since,
            is_trial: !endpoint.is_in(),
            is_told: Cell::new(false),
            failed_before: Cell::new(None),
        }
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

impl Picked {
    /// Where it is.
    pub(crate) fn endpoint(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// It was chosen a while ago, and is sent now.
    pub(crate) fn begin_again(&mut self) {
        self.since = Instant::now();
    }

    /// An answer has begun.
    pub(crate) fn answered(&self, status: StatusCode) {
        let is_failure = match self.calls.followed.borrow().rules.outliers.failures {
            Failures::Gateway => matches!(status.as_u16(), 502..=504),
            Failures::ServerErrors => status.is_server_error(),
        };
        self.ended(if is_failure { Outcome::Failed } else { Outcome::Answered });
    }

    /// It ended so. Not told: it ended for a reason that says nothing of the endpoint.
    pub(crate) fn ended(&self, outcome: Outcome) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.since);
        match outcome {
            Outcome::Answered => self.endpoint.latency.answered(took, now),
            Outcome::Failed => self.endpoint.latency.failed(took, now),
        }
        self.is_told.set(true);
        let failed_before = (outcome == Outcome::Answered).then(|| self.endpoint.health.failures_in_a_row());
        self.failed_before.set(failed_before);
        self.calls.judge(&self.endpoint, self.is_trial, outcome, now);
    }

    /// The answer that had begun ended before its end: the endpoint failed after all.
    pub(crate) fn broke_off(&self) {
        if let Some(failed_before) = self.failed_before.take() {
            self.endpoint.health.take_back(failed_before);
            self.calls.judge(&self.endpoint, self.is_trial, Outcome::Failed, Instant::now());
        }
    }

    /// A place for one more connection, or a refusal.
    pub(crate) fn connection(&self) -> Result<ConnectionSlot, Error> {
        let breakers = &self.calls.followed.borrow().rules.breakers;
        if self.calls.connections.get() >= breakers.connections {
            return Err(self.calls.refused(Breaker::Connections));
        }
        if self.endpoint.connections.get() >= breakers.endpoint_connections {
            return Err(self.calls.refused(Breaker::EndpointConnections));
        }
        raise(&self.calls.connections);
        raise(&self.endpoint.connections);
        Ok(ConnectionSlot { calls: Rc::clone(&self.calls), endpoint: Rc::clone(&self.endpoint) })
    }

    /// A place among the calls that wait, or a refusal.
    pub(crate) fn pending(&self) -> Result<PendingSlot, Error> {
        if self.calls.pending.get() >= self.calls.followed.borrow().rules.breakers.pending {
            return Err(self.calls.refused(Breaker::Pending));
        }
        raise(&self.calls.pending);
        Ok(PendingSlot(Rc::clone(&self.calls)))
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        lower(&self.calls.in_flight);
        lower(&self.endpoint.in_flight);
        // A probe that says nothing, because its caller left: the next call is another.
        let standing = &self.endpoint.health.standing;
        if self.is_trial && !self.is_told.get() && standing.get() == Standing::Probing {
            standing.set(Standing::Out(Instant::now()));
            self.endpoint.moved(Standing::Probing);
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        lower(&self.calls.connections);
        lower(&self.endpoint.connections);
    }
}

impl Drop for PendingSlot {
    fn drop(&mut self) {
        lower(&self.0.pending);
    }
}

fn cheaper<'f>(first: &'f Rc<Endpoint>, second: &'f Rc<Endpoint>, now: Instant) -> &'f Rc<Endpoint> {
    if second.cost(now) < first.cost(now) { second } else { first }
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

fn raise(count: &Cell<usize>) {
    count.set(count.get().saturating_add(1));
}

fn lower(count: &Cell<usize>) {
    count.set(count.get().saturating_sub(1));
}
