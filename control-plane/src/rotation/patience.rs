//! How long a phase of a rotation takes at most where nothing is wrong, and by how much one has gone beyond. Pure.

use std::time::Duration;

use super::machine::{Phase, margin};

/// How long the phase that began at `since_ms` has gone on for longer than it should.
pub(crate) fn overdue(phase: &Phase, since_ms: u64, now_ms: u64, leaf_life: Duration) -> Duration {
    let usual = match phase {
        Phase::Steady => return Duration::ZERO,
        // Whoever is connected acknowledges within a second, or says why not.
        Phase::Prepare { .. } | Phase::Retire { .. } | Phase::Destroy { .. } => ACKNOWLEDGED.min(leaf_life),
        // Certificates of before it end, at the latest, and clocks that are behind have seen it.
        Phase::Activate { .. } => leaf_life + margin(leaf_life) + ACKNOWLEDGED.min(leaf_life),
    };
    Duration::from_millis(now_ms.saturating_sub(since_ms)).saturating_sub(usual)
}

const ACKNOWLEDGED: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::machine::Root;

    const LIFE: Duration = Duration::from_hours(6);

    fn after(phase: &Phase, passed: Duration) -> Duration {
        overdue(phase, 1_000, 1_000 + u64::try_from(passed.as_millis()).unwrap(), LIFE)
    }

    #[test]
    fn a_phase_that_waits_for_acknowledgements_is_overdue_after_minutes_and_one_for_ends_after_a_life() {
        let root = || Root { fingerprint: "00".into(), file: "root.key".into() };
        let (prepare, activate) = (Phase::Prepare { incoming: root() }, Phase::Activate { outgoing: root() });
        let minutes = Duration::from_mins;
        assert_eq!(after(&prepare, minutes(10)), Duration::ZERO);
        assert_eq!(after(&prepare, minutes(15)), minutes(5));
        assert_eq!(after(&activate, LIFE), Duration::ZERO);
        assert_eq!(after(&activate, LIFE + minutes(11)), Duration::ZERO);
        assert_eq!(after(&activate, LIFE + minutes(21)), minutes(10));
        assert_eq!(after(&Phase::Steady, LIFE * 9), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_overdue() {
        let phase = Phase::Retire { outgoing: Root { fingerprint: "00".into(), file: "root.key".into() } };
        assert_eq!(overdue(&phase, 5_000, 1_000, LIFE), Duration::ZERO);
    }
}
