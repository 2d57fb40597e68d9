//! Short forms for people: identities without their trust domain's prefix, spans of time, numbers.

use time::{Duration, OffsetDateTime};

/// `spiffe://shop.test/ns/shop/sa/web` as `shop/web`; any other identity in full; none as `(none)`.
pub(crate) fn identity(id: Option<&str>) -> String {
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return "(none)".to_owned();
    };
    workload(id).unwrap_or_else(|| id.to_owned())
}

/// How long a span is, in its two largest units: `2h 5m`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.whole_seconds().unsigned_abs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// Time since `then`: `3s ago`.
pub(crate) fn ago(then: OffsetDateTime, now: OffsetDateTime) -> String {
    format!("{} ago", span((now - then).max(Duration::ZERO)))
}

/// Time until `then`: `11m 4s`, or `expired 5s ago`.
pub(crate) fn left(then: OffsetDateTime, now: OffsetDateTime) -> String {
    if then > now { span(then - now) } else { format!("expired {}", ago(then, now)) }
}

/// Milliseconds with the digits that matter.
pub(crate) fn millis(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.1}ms"),
        Some(ms) => format!("{ms:.0}ms"),
    }
}

fn workload(id: &str) -> Option<String> {
    let (_, path) = id.strip_prefix("spiffe://")?.split_once('/')?;
    let (namespace, account) = path.strip_prefix("ns/")?.split_once("/sa/")?;
    Some(format!("{namespace}/{account}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workload_identities_are_short_and_others_stay_whole() {
        assert_eq!(identity(Some("spiffe://shop.test/ns/shop/sa/web")), "shop/web");
        assert_eq!(identity(Some("spiffe://other.test/vm/7")), "spiffe://other.test/vm/7");
        assert_eq!(identity(None), "(none)");
        assert_eq!(identity(Some("")), "(none)");
    }

    #[test]
    fn spans_show_their_two_largest_units() {
        assert_eq!(span(Duration::seconds(59)), "59s");
        assert_eq!(span(Duration::seconds(61)), "1m 1s");
        assert_eq!(span(Duration::seconds(7_500)), "2h 5m");
        assert_eq!(span(Duration::hours(49)), "2d 1h");
    }

    #[test]
    fn an_end_in_the_past_is_not_shown_as_time_left() {
        let now = OffsetDateTime::UNIX_EPOCH;
        assert_eq!(left(now + Duration::seconds(5), now), "5s");
        assert_eq!(left(now - Duration::seconds(5), now), "expired 5s ago");
    }
}
