//! Token buckets, one for each key, in bounded memory: what one caller may do must not depend on how many there are.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// How much one key may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// At once, after a pause.
    pub(crate) burst: f64,
    /// For good.
    pub(crate) per_second: f64,
}

/// The buckets of all keys.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    rate: Rate,
    /// Held for a few instructions.
    levels: Mutex<HashMap<K, Level>>,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    tokens: f64,
    at: Instant,
}

impl<K: Eq + Hash> Buckets<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, levels: Mutex::new(HashMap::new()) }
    }

    /// Takes one, or says no.
    pub(crate) fn take(&self, key: K, now: Instant) -> bool {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        if levels.len() >= MAX_KEYS && !levels.contains_key(&key) {
            levels.retain(|_, level| self.rate.filled(*level, now) < self.rate.burst);
            if levels.len() >= MAX_KEYS {
                return false;
            }
        }
        let level = levels.entry(key).or_insert(Level { tokens: self.rate.burst, at: now });
        let tokens = self.rate.filled(*level, now);
        let allowed = tokens >= 1.0;
        *level = Level { tokens: if allowed { tokens - 1.0 } else { tokens }, at: now };
        allowed
    }

    /// Whether there is one left, without taking it.
    pub(crate) fn has(&self, key: &K, now: Instant) -> bool {
        let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        levels.get(key).is_none_or(|level| self.rate.filled(*level, now) >= 1.0)
    }
}

impl Rate {
    fn filled(self, level: Level, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(level.at).as_secs_f64();
        (level.tokens + elapsed * self.per_second).min(self.burst)
    }
}

/// About 1 MiB. A full bucket says nothing, so those go first; beyond that new keys wait.
const MAX_KEYS: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_only_the_rate() {
        let buckets = Buckets::new(Rate { burst: 2.0, per_second: 1.0 });
        let start = Instant::now();
        assert!(buckets.take("a", start) && buckets.take("a", start));
        assert!(!buckets.has(&"a", start) && !buckets.take("a", start));
        assert!(buckets.take("a", start + Duration::from_secs(1)));
        assert!(!buckets.take("a", start + Duration::from_secs(1)));
    }

    #[test]
    fn one_key_does_not_spend_anothers() {
        let buckets = Buckets::new(Rate { burst: 1.0, per_second: 0.0 });
        let now = Instant::now();
        assert!(buckets.take("a", now) && !buckets.take("a", now) && buckets.take("b", now));
    }

    #[test]
    fn memory_is_bounded_and_full_buckets_make_room() {
        let buckets = Buckets::new(Rate { burst: 1.0, per_second: 1.0 });
        let start = Instant::now();
        assert!((0..MAX_KEYS).all(|key| buckets.take(key, start)));
        assert!(!buckets.take(MAX_KEYS, start));
        assert!(buckets.take(MAX_KEYS, start + Duration::from_secs(1)));
        assert_eq!(buckets.levels.lock().unwrap().len(), 1);
    }
}
