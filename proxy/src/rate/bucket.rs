//! A token bucket in one number: the moment at which it will be full again. Taking a token moves that moment on by the
//! time that a token takes to come; it is refused where the bucket would be emptier than empty. (The generic cell rate
//! algorithm, in ATM's words.)

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::config::Rate;

/// A bucket, full at first. Times are nanoseconds from a beginning that all of its users share.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

/// How buckets fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// From one token to the next.
    token: u64,
    /// From empty to full.
    depth: u64,
}

impl Pace {
    /// A token never comes sooner than `rate` says: what does not divide is rounded up.
    pub(super) fn of(rate: Rate) -> Self {
        let period = u64::try_from(rate.period.as_nanos()).unwrap_or(u64::MAX);
        let token = period.div_ceil(u64::from(rate.requests.max(1)));
        Self { token, depth: token.saturating_mul(u64::from(rate.burst.max(1))) }
    }
}

impl Bucket {
    /// Takes a token at `now`, or tells how long it is until there is one. Several threads never take the same.
    pub(super) fn take(&self, pace: Pace, now: u64) -> Result<(), Duration> {
        let taken = |full: u64| {
            let next = full.max(now).saturating_add(pace.token);
            (next.saturating_sub(now) <= pace.depth).then_some(next)
        };
        // The number stands for itself: nothing else is published with it.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).map(drop).map_err(|full| {
            let next = full.saturating_add(pace.token);
            Duration::from_nanos(next.saturating_sub(now).saturating_sub(pace.depth))
        })
    }

    /// Puts a token back that was taken for nothing.
    pub(super) fn give_back(&self, pace: Pace) {
        let given = |full: u64| Some(full.saturating_sub(pace.token));
        // It always gives.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, given);
    }

    /// Whether it is as good as new.
    pub(super) fn is_full(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now
    }
}
