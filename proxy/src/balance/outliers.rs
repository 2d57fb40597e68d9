//! Passive outlier detection: how an endpoint's calls ended goes in, whether it gets further ones comes out. An ejected
//! endpoint is tried by a single call when its time is over, and is back if that one succeeds.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

use crate::config::Outliers;

/// How a call ended, as far as it says something about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It answered.
    Answered,
    /// It answered with a status by which it counts as failed, or did not answer.
    Failed,
}

/// Whether an endpoint gets calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It does.
    In,
    /// Not before this moment, and then a single one.
    Out(Instant),
    /// A single call is on its way to find out.
    Probing,
}

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Consecutive,
    FailurePercent,
    Probe,
}

/// What is known of an endpoint's failures.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) standing: Cell<Standing>,
    in_a_row: Cell<u32>,
    window: Cell<Window>,
    ejections: Cell<u32>,
    returned: Cell<Option<Instant>>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    begun: Instant,
    calls: u32,
    failed: u32,
}

impl Health {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            standing: Cell::new(Standing::In),
            in_a_row: Cell::new(0),
            window: Cell::new(Window { begun: now, calls: 0, failed: 0 }),
            ejections: Cell::new(0),
            returned: Cell::new(None),
        }
    }

    /// Counts how a call ended; why the endpoint has to go, if it has.
    pub(super) fn count(&self, outcome: Outcome, rules: &Outliers, now: Instant) -> Option<Why> {
        let mut window = self.window.get();
        if now.saturating_duration_since(window.begun) >= WINDOW {
            window = Window { begun: now, calls: 0, failed: 0 };
        }
        window.calls = window.calls.saturating_add(1);
        window.failed = window.failed.saturating_add(u32::from(outcome == Outcome::Failed));
        self.window.set(window);
        if outcome == Outcome::Answered {
            self.in_a_row.set(0);
            return None;
        }
        self.in_a_row.set(self.in_a_row.get().saturating_add(1));
        if self.in_a_row.get() >= rules.consecutive {
            return Some(Why::Consecutive);
        }
        let most = rules.failure_percent?;
        let is_over = window.calls >= LEAST_CALLS
            && u64::from(window.failed) * 100 >= u64::from(window.calls) * u64::from(most);
        is_over.then_some(Why::FailurePercent)
    }

    /// How many calls have failed since the last that did not.
    pub(super) fn failures_in_a_row(&self) -> u32 {
        self.in_a_row.get()
    }

    /// An answer was counted, and with it the end of `failed_before` failures in a row, that was none.
    pub(super) fn take_back(&self, failed_before: u32) {
        self.in_a_row.set(self.in_a_row.get().max(failed_before));
        let window = self.window.get();
        self.window.set(Window { calls: window.calls.saturating_sub(1), ..window });
    }

    /// Ejects for base × count, at most the maximum, and up to a quarter more by `jitter` (0 to 1): workers and
    /// sidecars that saw the same failure do not all come back at the same moment.
    pub(super) fn eject(&self, rules: &Outliers, jitter: f64, now: Instant) -> Duration {
        let is_old = |returned: Instant| now.saturating_duration_since(returned) > rules.max_ejection;
        if self.returned.get().is_some_and(is_old) {
            self.ejections.set(0);
        }
        let count = self.ejections.get().saturating_add(1);
        self.ejections.set(count);
        let time = rules.ejection.saturating_mul(count).min(rules.max_ejection);
        let time = time.saturating_add(time.mul_f64(jitter.clamp(0.0, 1.0) / 4.0));
        self.standing.set(Standing::Out(now.checked_add(time).unwrap_or(now)));
        time
    }

    /// It answers again.
    pub(super) fn restore(&self, now: Instant) {
        self.standing.set(Standing::In);
        self.in_a_row.set(0);
        self.window.set(Window { begun: now, calls: 0, failed: 0 });
        self.returned.set(Some(now));
    }
}

impl Standing {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out(_) => "ejected",
            Self::Probing => "probing",
        }
    }
}

impl Why {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive",
            Self::FailurePercent => "failure_percent",
            Self::Probe => "probe",
        }
    }
}

/// Over which the share of failures is taken.
const WINDOW: Duration = Duration::from_secs(10);
/// Below so many calls a share says nothing.
const LEAST_CALLS: u32 = 20;
