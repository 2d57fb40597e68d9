//! How soon an endpoint answers: an exponentially weighted mean that jumps to a peak at once and forgets it slowly,
//! and that sinks while nothing is measured, so that an endpoint that was slow is asked again.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

/// The time to the head of an answer, as far as it is known.
#[derive(Debug)]
pub(super) struct Latency {
    nanos: Cell<f64>,
    since: Cell<Instant>,
}

impl Latency {
    /// Assumed, until something is measured.
    pub(super) fn assumed(nanos: f64, now: Instant) -> Self {
        Self { nanos: Cell::new(nanos), since: Cell::new(now) }
    }

    /// An answer began after `took`.
    pub(super) fn answered(&self, took: Duration, now: Instant) {
        self.observe(took.as_secs_f64() * 1e9, now);
    }

    /// There was no fit answer after `took`. Failing is often quicker than answering, and must not look like it: a
    /// failure counts as three times what the endpoint usually takes. The preference for others that follows is over
    /// after `DECAY` × ln 3, about 11 s, and longer failures in a row multiply it.
    pub(super) fn failed(&self, took: Duration, now: Instant) {
        let took = took.as_secs_f64() * 1e9;
        self.observe((self.nanos(now).max(took) * 3.0).min(MOST), now);
    }

    /// In nanoseconds, no less than what is worth telling apart.
    pub(super) fn nanos(&self, now: Instant) -> f64 {
        (self.nanos.get() * self.weight(now)).max(FLOOR)
    }

    fn observe(&self, took: f64, now: Instant) {
        let weight = self.weight(now);
        let before = self.nanos.get() * weight;
        self.nanos.set(if took > before { took } else { took.mul_add(1.0 - weight, before) });
        self.since.set(now);
    }

    /// Of the mean so far: e^(-elapsed / `DECAY`).
    fn weight(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.since.get());
        // Under load this is the common case, and far below what the mean shows.
        if elapsed < Duration::from_micros(100) {
            return 1.0 - elapsed.as_secs_f64() / DECAY.as_secs_f64();
        }
        (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

/// What an endpoint is assumed to take when nothing was measured at any: a network of one region and an application
/// that does something. It matters for the first moments only.
pub(super) const DEFAULT: f64 = 30e6;
/// How long the mean remembers: long enough that a slow garbage collection is not forgotten with the next answer,
/// short enough that an endpoint that has recovered has its share back within half a minute.
const DECAY: Duration = Duration::from_secs(10);
/// 0.1 ms: below it the difference is the scheduler's and not the endpoint's.
const FLOOR: f64 = 1e5;
/// A minute, so that failures in a row do not multiply without end.
const MOST: f64 = 60e9;
