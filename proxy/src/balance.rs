//! Chooses an endpoint: of two at random, the one with less in flight (power of two choices). Counts are per worker.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
};

use hashbrown::HashMap;

/// What is in flight at each endpoint, as this worker sees it.
#[derive(Debug)]
pub(crate) struct Balancer {
    in_flight: RefCell<HashMap<SocketAddr, Rc<Cell<usize>>>>,
    random: Cell<u64>,
}

/// A chosen endpoint; counted there until dropped.
#[derive(Debug)]
pub(crate) struct Picked {
    endpoint: SocketAddr,
    count: Rc<Cell<usize>>,
}

impl Balancer {
    /// `seed` keeps workers from choosing in step.
    pub(crate) fn new(seed: u64) -> Self {
        Self { in_flight: RefCell::default(), random: Cell::new(seed | 1) }
    }

    /// One of `endpoints` that is not in `tried`; `None` when there is none.
    pub(crate) fn pick(&self, endpoints: &[SocketAddr], tried: &[SocketAddr]) -> Option<Picked> {
        let candidates = || endpoints.iter().filter(|endpoint| !tried.contains(endpoint));
        let count = candidates().count();
        let first = *candidates().nth(self.below(count)?)?;
        let second = *candidates().nth(self.below(count)?)?;
        let endpoint = if self.load(second) < self.load(first) { second } else { first };
        let count = Rc::clone(self.in_flight.borrow_mut().entry(endpoint).or_default());
        count.set(count.get().saturating_add(1));
        Some(Picked { endpoint, count })
    }

    /// Forgets endpoints without anything in flight, so that churn does not grow the map.
    pub(crate) fn prune(&self) {
        self.in_flight.borrow_mut().retain(|_, count| Rc::strong_count(count) > 1);
    }

    fn load(&self, endpoint: SocketAddr) -> usize {
        self.in_flight.borrow().get(&endpoint).map_or(0, |count| count.get())
    }

    /// Below `count`, by xorshift: it spreads load and guards nothing.
    fn below(&self, count: usize) -> Option<usize> {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        usize::try_from(x.checked_rem(u64::try_from(count).ok()?)?).ok()
    }
}

impl Picked {
    pub(crate) fn endpoint(&self) -> SocketAddr {
        self.endpoint
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.count.set(self.count.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    #[test]
    fn load_spreads_over_all_endpoints() {
        let (balancer, endpoints) = (Balancer::new(7), endpoints(4));
        let held: Vec<Picked> = (0..400).filter_map(|_| balancer.pick(&endpoints, &[])).collect();
        for endpoint in &endpoints {
            let share = held.iter().filter(|picked| picked.endpoint() == *endpoint).count();
            assert!((80..=120).contains(&share), "{endpoint}: {share}");
        }
    }

    #[test]
    fn what_was_tried_is_not_picked_again() {
        let (balancer, endpoints) = (Balancer::new(7), endpoints(2));
        for _ in 0..20 {
            assert_eq!(balancer.pick(&endpoints, &endpoints[..1]).unwrap().endpoint(), endpoints[1]);
        }
        assert!(balancer.pick(&endpoints, &endpoints).is_none());
        assert!(balancer.pick(&[], &[]).is_none());
    }

    #[test]
    fn a_dropped_pick_no_longer_counts() {
        let (balancer, endpoints) = (Balancer::new(7), endpoints(1));
        drop(balancer.pick(&endpoints, &[]));
        assert_eq!(balancer.load(endpoints[0]), 0);
        balancer.prune();
        assert!(balancer.in_flight.borrow().is_empty());
    }
}
