//! When to renew a certificate and when to try again: pure functions of time and jitter.
//! Jitter is a number from -1 to 1 that the caller draws once, so that a fleet started together does not renew
//! together. Anything outside of that range, NaN included, counts as the nearest bound or as none.

use std::time::Duration;

use rustls_pki_types::UnixTime;

/// How a certificate in use stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its successor is not due, or still has time to come.
    InTime,
    /// A quarter of its life is left and it has no successor: renewal began at half, so it has been failing for a while.
    Late,
    /// It is valid no longer.
    Ended,
}

const RENEWAL_JITTER: f64 = 0.1;
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(150);
const RETRY_JITTER: f64 = 0.2;
/// A quarter.
const LATE_SHARE: u64 = 4;

/// When to renew: at half of the life from `issued` to `not_after`, ±10 % of that half, in whole seconds.
///
/// Half leaves as much time again for a control plane that is down. `issued` is when the certificate was received,
/// not its backdated notBefore. A life that has already ended is renewed at once.
pub fn renew_at(issued: UnixTime, not_after: UnixTime, jitter: f64) -> UnixTime {
    let life = Duration::from_secs(not_after.as_secs().saturating_sub(issued.as_secs()));
    let start = Duration::from_secs(issued.as_secs());
    UnixTime::since_unix_epoch(start.saturating_add(renew_after(life, jitter)))
}

/// How long after its start a certificate with this life is renewed: like [`renew_at`], with fractions of a second
/// for lives of seconds.
pub fn renew_after(life: Duration, jitter: f64) -> Duration {
    scaled(life, 0.5 * (1.0 + RENEWAL_JITTER * bounded(jitter)))
}

/// How a certificate stands that is still in use `now`.
pub fn standing(not_before: UnixTime, not_after: UnixTime, now: UnixTime) -> Standing {
    let life = not_after.as_secs().saturating_sub(not_before.as_secs());
    // Its last second belongs to it.
    match not_after.as_secs().checked_sub(now.as_secs()) {
        None => Standing::Ended,
        Some(left) if left < life / LATE_SHARE => Standing::Late,
        Some(_) => Standing::InTime,
    }
}

/// How long to wait after the `failures`-th failure in a row: half a second, doubling to 150 s, ±20 %.
/// The certificate at hand stays in use meanwhile.
pub fn retry_after(failures: u32, jitter: f64) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    let wait = FIRST_RETRY.saturating_mul(doubled).min(LAST_RETRY);
    scaled(wait, 1.0 + RETRY_JITTER * bounded(jitter))
}

fn bounded(jitter: f64) -> f64 {
    if jitter.is_nan() { 0.0 } else { jitter.clamp(-1.0, 1.0) }
}

fn scaled(duration: Duration, factor: f64) -> Duration {
    // Out of range only if the duration is already beyond any certificate's life; then unscaled is as good.
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(duration)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn a_certificate_is_renewed_at_half_of_its_life() {
        assert_eq!(renew_at(at(1000), at(1000 + 21_600), 0.0), at(1000 + 10_800));
    }

    #[test]
    fn jitter_moves_the_renewal_by_a_tenth_of_half_the_life_at_most() {
        assert_eq!(renew_at(at(0), at(21_600), -1.0), at(9_720));
        assert_eq!(renew_at(at(0), at(21_600), 1.0), at(11_880));
        assert_eq!(renew_at(at(0), at(21_600), 99.0), at(11_880));
        assert_eq!(renew_at(at(0), at(21_600), f64::NEG_INFINITY), at(9_720));
        assert_eq!(renew_at(at(0), at(21_600), f64::NAN), at(10_800));
    }

    #[test]
    fn lives_of_seconds_are_renewed_at_fractions_of_a_second() {
        assert_eq!(renew_after(Duration::from_secs(3), 0.0), Duration::from_millis(1500));
    }

    #[test]
    fn a_certificate_that_has_ended_is_renewed_at_once() {
        assert_eq!(renew_at(at(1000), at(900), 1.0), at(1000));
    }

    #[test]
    fn retries_double_from_half_a_second_to_150_seconds() {
        let waits: Vec<u128> = (1..=11).map(|failures| retry_after(failures, 0.0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 150_000, 150_000]);
        assert_eq!(retry_after(0, 0.0), FIRST_RETRY);
        assert_eq!(retry_after(u32::MAX, 0.0), LAST_RETRY);
    }

    #[test]
    fn retries_are_spread_by_a_fifth() {
        assert_eq!(retry_after(1, -1.0), Duration::from_millis(400));
        assert_eq!(retry_after(u32::MAX, 1.0), Duration::from_mins(3));
    }

    #[test]
    fn a_certificate_is_late_in_its_last_quarter_and_ends_after_its_last_second() {
        let at_moment = |now| standing(at(1000), at(1400), at(now));
        assert_eq!(at_moment(0), Standing::InTime);
        assert_eq!(at_moment(1300), Standing::InTime);
        assert_eq!(at_moment(1301), Standing::Late);
        assert_eq!(at_moment(1400), Standing::Late);
        assert_eq!(at_moment(1401), Standing::Ended);
        assert_eq!(standing(at(9), at(5), at(6)), Standing::Ended);
    }

    proptest! {
        #[test]
        fn a_renewal_falls_within_the_life_for_any_times_and_jitter(
            issued in any::<u64>(), life in 2_u64..1_000_000_000, jitter in any::<f64>(),
        ) {
            let not_after = issued.saturating_add(life);
            let renewal = renew_at(at(issued), at(not_after), jitter);
            prop_assert!(at(issued) <= renewal && renewal <= at(not_after));
        }

        #[test]
        fn a_retry_is_never_immediate_and_never_later_than_three_minutes(failures in any::<u32>(), jitter in any::<f64>()) {
            let wait = retry_after(failures, jitter);
            prop_assert!(wait >= Duration::from_millis(400) && wait <= Duration::from_mins(3));
        }
    }
}
