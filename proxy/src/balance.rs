//! Chooses the endpoint that a call goes to. A service's name, its endpoints and rules go in, a [`Picked`] comes out,
//! counted as in flight until it is dropped; a call over a breaker, or with nowhere to go, is refused. All of it is one
//! worker's own: no lock, and nothing that another worker waits for.

mod calls;
mod endpoint;
mod hash;
mod latency;
mod outliers;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use hashbrown::HashMap;

use crate::{
    snapshot::{Service, Services},
    telemetry::Metrics,
};

pub(crate) use calls::{Calls, ConnectionSlot, PendingSlot, Pick, Picked};
pub(crate) use hash::Key;
pub(crate) use outliers::{Outcome, Standing};

/// What one worker knows of the services it calls.
#[derive(Debug)]
pub(crate) struct Balancer {
    services: RefCell<HashMap<Arc<str>, Rc<Calls>>>,
    random: Rc<Random>,
    metrics: Arc<Metrics>,
}

/// Spreads load and guards nothing: xorshift.
#[derive(Debug)]
pub(crate) struct Random(Cell<u64>);

impl Balancer {
    /// `seed` keeps workers from choosing in step.
    pub(crate) fn new(seed: u64, metrics: Arc<Metrics>) -> Self {
        Self { services: RefCell::default(), random: Rc::new(Random(Cell::new(seed | 1))), metrics }
    }

    /// The calls to `service`, under the endpoints and rules that are in force for it now.
    pub(crate) fn calls(&self, name: &str, service: &Service) -> Rc<Calls> {
        let mut services = self.services.borrow_mut();
        let known = services.get(name).map(Rc::clone);
        let calls = known.unwrap_or_else(|| {
            let name: Arc<str> = name.into();
            let calls = Calls::new(Arc::clone(&name), Rc::clone(&self.random), Arc::clone(&self.metrics));
            Rc::clone(services.entry(name).insert(Rc::new(calls)).get())
        });
        drop(services);
        calls.follow(service);
        calls
    }

    /// Forgets services that are known no more, and endpoints that left and have nothing in flight.
    pub(crate) fn prune(&self, known: &Services) {
        self.services.borrow_mut().retain(|name, calls| {
            let service = known.iter().find(|(known, _)| known.as_str() == &**name);
            if let Some((_, service)) = service {
                calls.follow(service);
            }
            service.is_some() || Rc::strong_count(calls) > 1
        });
    }
}

impl Random {
    fn next(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        x
    }

    /// Below `count`; 0 where there is nothing below.
    pub(super) fn below(&self, count: usize) -> usize {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let number = self.next().checked_rem(count).unwrap_or(0);
        usize::try_from(number).unwrap_or(0)
    }

    /// From 0 to 1, 1 excluded.
    pub(crate) fn share(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits are what a double holds")]
        let share = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        share
    }
}

#[cfg(test)]
mod tests;
