//! How often something may happen on one connection, with room for bursts. What finds the bucket empty is too much.

use std::time::{Duration, Instant};

/// Fills at a rate, up to ten seconds' worth.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: u32,
    per_second: u32,
    filled: Instant,
}

impl Bucket {
    /// Full.
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        Self { tokens: per_second.saturating_mul(BURST_SECONDS), per_second, filled: now }
    }

    /// Makes it full.
    pub(crate) fn refill(&mut self) {
        self.tokens = self.per_second.saturating_mul(BURST_SECONDS);
    }

    /// `None`: it is empty. The clock is asked only when the bucket seems empty.
    pub(crate) fn take(&mut self, now: &impl Fn() -> Instant) -> Option<()> {
        if self.tokens == 0 {
            let now = now();
            let since = now.duration_since(self.filled).min(Duration::from_secs(u64::from(BURST_SECONDS)));
            let earned = since.as_micros() * u128::from(self.per_second) / 1_000_000;
            self.tokens = u32::try_from(earned).unwrap_or(u32::MAX);
            if self.tokens > 0 {
                self.filled = now;
            }
        }
        self.tokens = self.tokens.checked_sub(1)?;
        Some(())
    }
}

const BURST_SECONDS: u32 = 10;
