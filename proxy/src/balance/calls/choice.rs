//! Which endpoint the next call goes to: one whose ejection is over first, then by the rules of the service, among those
//! that are in and not full.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use tokio::time::Instant;

use super::{Calls, Followed, Picked, is_over};
use crate::{
    balance::{Key, endpoint::Endpoint, outliers::Standing},
    config::Balance,
    error::{Breaker, Error},
};

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

impl Pick<'_> {
    fn allows(&self, endpoint: SocketAddr) -> bool {
        self.only.is_none_or(|only| only == endpoint) && !self.tried.contains(&endpoint)
    }
}

impl Calls {
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
            return Ok(Picked::new(self, endpoint, now));
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
                Ok(Picked::new(self, endpoint, now))
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
}

fn cheaper<'f>(first: &'f Rc<Endpoint>, second: &'f Rc<Endpoint>, now: Instant) -> &'f Rc<Endpoint> {
    if second.cost(now) < first.cost(now) { second } else { first }
}
