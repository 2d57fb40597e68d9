//! Fails fast: after so many questions in a row without an answer none is asked for a while, and then one at a time, until
//! there is an answer again.

use std::cell::Cell;

use tokio::time::Instant;

use crate::config::DecisionBreaker;

/// What one worker has seen of a server.
#[derive(Debug)]
pub(super) struct Breaker {
    config: DecisionBreaker,
    failures: Cell<u32>,
    /// When it opened last.
    opened: Cell<Option<Instant>>,
    is_trying: Cell<bool>,
}

/// Leave to ask once. Dropped without an end, as when the caller leaves, it says nothing of the server.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    breaker: &'a Breaker,
    is_trial: bool,
}

impl Breaker {
    pub(super) fn new(config: DecisionBreaker) -> Self {
        Self { config, failures: Cell::default(), opened: Cell::default(), is_trying: Cell::default() }
    }

    /// `None`: not now.
    pub(super) fn attempt(&self, now: Instant) -> Option<Attempt<'_>> {
        let is_trial = match self.opened.get() {
            None => false,
            Some(opened) if now.duration_since(opened) < self.config.open_for || self.is_trying.get() => {
                return None;
            }
            Some(_) => true,
        };
        self.is_trying.set(is_trial);
        Some(Attempt { breaker: self, is_trial })
    }
}

impl Attempt<'_> {
    pub(super) fn ended(self, has_answer: bool, now: Instant) {
        let breaker = self.breaker;
        if has_answer {
            breaker.failures.set(0);
            breaker.opened.set(None);
            return;
        }
        breaker.failures.set(breaker.failures.get().saturating_add(1));
        if breaker.failures.get() >= breaker.config.failures {
            breaker.opened.set(Some(now));
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.is_trial {
            self.breaker.is_trying.set(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(5);

    fn breaker() -> (Breaker, Instant) {
        (Breaker::new(DecisionBreaker { failures: 2, open_for: OPEN_FOR }), Instant::now())
    }

    fn fail(breaker: &Breaker, now: Instant) {
        breaker.attempt(now).unwrap().ended(false, now);
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_an_answer_in_between_starts_the_count_anew() {
        let (breaker, now) = breaker();
        fail(&breaker, now);
        breaker.attempt(now).unwrap().ended(true, now);
        fail(&breaker, now);
        assert!(breaker.attempt(now).is_some());
        fail(&breaker, now);
        assert!(breaker.attempt(now).is_none());
    }

    #[test]
    fn when_its_time_is_over_one_question_tries_and_decides() {
        let (breaker, now) = breaker();
        fail(&breaker, now);
        fail(&breaker, now);
        assert!(breaker.attempt(now + OPEN_FOR / 2).is_none());
        let later = now + OPEN_FOR;
        let trial = breaker.attempt(later).unwrap();
        assert!(breaker.attempt(later).is_none(), "one at a time");
        trial.ended(false, later);
        assert!(breaker.attempt(later).is_none(), "open anew");
        breaker.attempt(later + OPEN_FOR).unwrap().ended(true, later + OPEN_FOR);
        let (first, second) = (breaker.attempt(later + OPEN_FOR), breaker.attempt(later + OPEN_FOR));
        assert!(first.is_some() && second.is_some());
    }

    #[test]
    fn a_trial_that_nobody_waits_for_leaves_its_place_to_the_next() {
        let (breaker, now) = breaker();
        fail(&breaker, now);
        fail(&breaker, now);
        drop(breaker.attempt(now + OPEN_FOR).unwrap());
        assert!(breaker.attempt(now + OPEN_FOR).is_some());
    }
}
