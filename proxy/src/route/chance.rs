//! Draws lots for a worker: which backend, whether a copy or a fault. It spreads load and guards nothing.

use std::cell::Cell;

use crate::config::Share;

/// A source of numbers that are random enough to share by.
#[derive(Debug)]
pub(crate) struct Chance(Cell<u64>);

impl Chance {
    /// `seed` keeps workers from choosing in step.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Cell::new(seed | 1))
    }

    /// A number below `count`; `None`: there is none.
    pub(crate) fn below(&self, count: u64) -> Option<u64> {
        // xorshift64*: the product's high bits are the even ones.
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        (x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16).checked_rem(count)
    }

    /// Whether this time is one of the share.
    pub(crate) fn is_in(&self, share: Share) -> bool {
        self.below(u64::from(share.denominator)).is_some_and(|drawn| drawn < u64::from(share.numerator))
    }
}
