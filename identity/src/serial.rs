//! Serial numbers that say when a certificate was issued, so that "refuse what was issued before T" is exact.
//! Receives the moment and random bytes, hands on `0x01 | unix milliseconds (6 bytes) | random (9 bytes)`: positive,
//! 16 of the 20 bytes that RFC 5280 §4.1.2.2 allows, 72 bits of them random, and ordered by time.

/// Marks this format, and keeps the INTEGER positive and of one length.
const FORMAT: u8 = 0x01;
const LENGTH: usize = 16;

/// The serial number of a certificate issued at `unix_ms`. `random` must come from a secure source, anew each time.
///
/// Of `unix_ms` the low 48 bits are kept; they last until the year 10889.
pub fn compose(unix_ms: u64, random: [u8; 9]) -> [u8; LENGTH] {
    let [_, _, time @ ..] = unix_ms.to_be_bytes();
    let mut serial = [FORMAT; LENGTH];
    for (place, byte) in serial.iter_mut().skip(1).zip(time.into_iter().chain(random)) {
        *place = byte;
    }
    serial
}

/// When a certificate with this serial number was issued, in Unix milliseconds; `None` if the number is not in
/// this format. `serial` is the content of the DER INTEGER.
pub fn issued_at_ms(serial: &[u8]) -> Option<u64> {
    let (&format, rest) = <&[u8; LENGTH]>::try_from(serial).ok()?.split_first()?;
    let time: &[u8; 6] = rest.first_chunk()?;
    (format == FORMAT).then(|| time.iter().fold(0, |ms, byte| (ms << 8) | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_795_348_784_123;

    #[test]
    fn a_serial_number_says_to_the_millisecond_when_it_was_issued() {
        assert_eq!(issued_at_ms(&compose(NOW_MS, [0xff; 9])), Some(NOW_MS));
    }

    #[test]
    fn serial_numbers_sort_by_time_whatever_the_random_part() {
        assert!(compose(NOW_MS, [0xff; 9]) < compose(NOW_MS + 1, [0; 9]));
    }

    #[test]
    fn a_serial_number_is_a_positive_integer_without_a_leading_zero() {
        assert_eq!(compose(u64::MAX, [0xff; 9]).first(), Some(&1));
    }

    #[test]
    fn serial_numbers_in_another_format_say_nothing() {
        let ours = compose(NOW_MS, [7; 9]);
        assert_eq!(issued_at_ms(&[]), None);
        assert_eq!(issued_at_ms(&ours[..15]), None);
        assert_eq!(issued_at_ms(&[&ours[..], &[0]].concat()), None);
        let mut other = ours;
        other[0] = 2;
        assert_eq!(issued_at_ms(&other), None);
    }
}
