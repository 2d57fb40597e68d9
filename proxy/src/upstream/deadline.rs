//! How long an answer is waited for: the limit of this sidecar, or the shorter time after which a caller of gRPC is no longer
//! there to hear it. What cannot be read as such a time bounds nothing; the server is asked to refuse it.

use std::time::Duration;

use http::HeaderMap;

/// The time for the request of these fields.
pub(super) fn time_for(fields: &HeaderMap, most: Duration) -> Duration {
    let mut said = fields.get_all(GRPC_TIMEOUT).iter();
    match (said.next(), said.next()) {
        (Some(one), None) => read(one.as_bytes()).map_or(most, |time| time.min(most)),
        _ => most,
    }
}

/// At most eight digits and a unit
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
fn read(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number.saturating_mul(3600)),
        b'M' => Duration::from_secs(number.saturating_mul(60)),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

const GRPC_TIMEOUT: &str = "grpc-timeout";

#[cfg(test)]
mod tests {
    use super::*;

    fn time(said: &[&str]) -> Duration {
        let mut fields = HeaderMap::new();
        for text in said {
            fields.append(GRPC_TIMEOUT, text.parse().unwrap());
        }
        time_for(&fields, Duration::from_mins(1))
    }

    #[test]
    fn a_deadline_shortens_the_wait_and_never_lengthens_it() {
        assert_eq!(time(&["200m"]), Duration::from_millis(200));
        assert_eq!(time(&["5S"]), Duration::from_secs(5));
        assert_eq!(time(&["99999999H"]), Duration::from_mins(1));
        assert_eq!(time(&["3u"]), Duration::from_micros(3));
    }

    #[test]
    fn what_is_no_deadline_changes_nothing() {
        for said in [&[][..], &[""], &["m"], &["1"], &["-1m"], &["123456789m"], &["1x"], &["1m", "1m"]] {
            assert_eq!(time(said), Duration::from_mins(1), "{said:?}");
        }
    }
}
