//! The retry budget of one worker for one service: requests earn a share of a try each, and each second gives some
//! freely. When all endpoints fail, repeated tries then add a fifth to the load and not three times as much.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

use crate::config::Retries;

/// What is left for further tries.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Earned by requests; fades, so that a busy hour does not pay for a storm.
    earned: Cell<f64>,
    /// Given by time, at most one second's worth.
    given: Cell<f64>,
    since: Cell<Instant>,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { earned: Cell::new(0.0), given: Cell::new(f64::MAX), since: Cell::new(now) }
    }

    /// A request begins.
    pub(crate) fn earn(&self, rules: &Retries, now: Instant) {
        // Often enough for what fades in ten seconds, and seldom enough to cost nothing.
        if now.saturating_duration_since(self.since.get()) >= Duration::from_millis(100) {
            self.pass(rules, now);
        }
        self.earned.set(self.earned.get() + f64::from(rules.budget_percent) / 100.0);
    }

    /// Takes one try out, or says that there is none left.
    pub(crate) fn spend(&self, rules: &Retries, now: Instant) -> bool {
        self.pass(rules, now);
        for part in [&self.given, &self.earned] {
            if part.get() >= 1.0 {
                part.set(part.get() - 1.0);
                return true;
            }
        }
        false
    }

    /// Lets the time since the last look pass.
    fn pass(&self, rules: &Retries, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since.replace(now)).as_secs_f64();
        let most = f64::from(rules.budget_per_second);
        self.given.set(elapsed.mul_add(most, self.given.get()).min(most));
        self.earned.set(self.earned.get() * (-elapsed / MEMORY.as_secs_f64()).exp());
    }
}

/// For how long a request pays for further tries.
const MEMORY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(percent: u32, per_second: u32) -> Retries {
        Retries { budget_percent: percent, budget_per_second: per_second, ..Retries::default() }
    }

    fn spent(budget: &Budget, rules: &Retries, now: Instant) -> usize {
        (0..10_000).filter(|_| budget.spend(rules, now)).count()
    }

    #[test]
    fn tries_are_a_share_of_the_requests_and_no_more() {
        let (now, rules) = (Instant::now(), rules(20, 0));
        let budget = Budget::new(now);
        (0..1_000).for_each(|_| budget.earn(&rules, now));
        let spent = spent(&budget, &rules, now);
        assert!((199..=200).contains(&spent), "{spent}");
        assert!(!budget.spend(&rules, now));
    }

    #[test]
    fn each_second_gives_some_and_saves_none_of_them_up() {
        let (begin, rules) = (Instant::now(), rules(0, 10));
        let budget = Budget::new(begin);
        assert_eq!(spent(&budget, &rules, begin), 10);
        assert_eq!(spent(&budget, &rules, begin + Duration::from_millis(500)), 5);
        assert_eq!(spent(&budget, &rules, begin + Duration::from_hours(1)), 10);
    }

    #[test]
    fn what_was_earned_fades() {
        let (begin, rules) = (Instant::now(), rules(20, 0));
        let budget = Budget::new(begin);
        (0..1_000).for_each(|_| budget.earn(&rules, begin));
        assert_eq!(spent(&budget, &rules, begin + Duration::from_mins(1)), 0);
        // What comes after a long quiet counts in full.
        let later = begin + Duration::from_mins(2);
        (0..10).for_each(|_| budget.earn(&rules, later));
        assert_eq!(spent(&budget, &rules, later), 2);
    }

    #[test]
    fn a_budget_of_nothing_gives_nothing() {
        let (now, rules) = (Instant::now(), rules(0, 0));
        let budget = Budget::new(now);
        budget.earn(&rules, now);
        assert!(!budget.spend(&rules, now));
    }
}
