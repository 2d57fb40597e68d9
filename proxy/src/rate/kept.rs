//! Limits across snapshots: what a new configuration says goes in, and the buckets of before come out where the limit is
//! the same to the letter. One that has changed begins with full buckets.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{Limiter, Place, PortRates};
use crate::config::{Inbound, Per, RateLimit, RouteRule, ServiceName};

/// The limits of the newest snapshot.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// A route's limit is its rate alone: what it matches may change.
    limits: HashMap<Place, (Option<RateLimit>, Arc<Limiter>)>,
}

impl Kept {
    /// Begins the limits of a new snapshot; what is not asked for again is forgotten.
    pub(crate) fn renew(&mut self) -> Renewal {
        Renewal { before: std::mem::take(&mut self.limits), next: Self::default() }
    }
}

/// The limits of a snapshot that is being built.
#[derive(Debug)]
pub(crate) struct Renewal {
    before: HashMap<Place, (Option<RateLimit>, Arc<Limiter>)>,
    next: Kept,
}

impl Renewal {
    /// Those of a port, each with `most` callers at most.
    pub(crate) fn port(&mut self, inbound: &Inbound, most: usize) -> PortRates {
        let limits = inbound.rate_limits.iter().map(|limit| {
            let place = Place::Port {
                listen: inbound.listen,
                port: inbound.forward.port(),
                name: Arc::clone(&limit.name),
            };
            let new = |of| Limiter::new(of, limit.rate, limit.per, most);
            (limit.clone(), self.take(place, Some(limit), new))
        });
        PortRates(limits.collect())
    }

    /// That of a rule of `service`, if it has one.
    pub(crate) fn route(&mut self, service: &ServiceName, rule: &RouteRule) -> Option<Arc<Limiter>> {
        let rate = rule.rate?;
        let place = Place::Route { service: service.clone(), rule: Arc::clone(&rule.name) };
        Some(self.take(place, None, |of| Limiter::new(of, rate, Per::All, 1)))
    }

    /// All have been asked for.
    pub(crate) fn end(self) -> Kept {
        self.next
    }

    fn take(
        &mut self,
        place: Place,
        limit: Option<&RateLimit>,
        new: impl FnOnce(Place) -> Limiter,
    ) -> Arc<Limiter> {
        let made = new(place.clone());
        let limiter = match self.before.remove(&place) {
            Some((before, kept)) if before.as_ref() == limit && kept.rate == made.rate => kept,
            _ => Arc::new(made),
        };
        self.next.limits.insert(place, (limit.cloned(), Arc::clone(&limiter)));
        limiter
    }
}
