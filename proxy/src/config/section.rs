//! The fields of one section of the file: numbers within their range, times that are none of them zero. What is absent is the
//! default; what is wrong is a fault with its field.

use std::{fmt, time::Duration};

use super::{duration, file::Faults};

/// Reads the fields of one section.
pub(super) struct Section<'a, 'f> {
    pub(super) field: &'a str,
    pub(super) faults: &'a mut Faults<'f>,
}

impl Section<'_, '_> {
    pub(super) fn number<N: TryFrom<u64>>(
        &mut self,
        name: &str,
        said: Option<u64>,
        range: std::ops::RangeInclusive<u64>,
        default: N,
    ) -> Option<N> {
        let Some(said) = said else { return Some(default) };
        match N::try_from(said) {
            Ok(number) if range.contains(&said) => Some(number),
            _ => {
                self.fault(name, format!("{said} is not between {} and {}", range.start(), range.end()));
                None
            }
        }
    }

    pub(super) fn time(&mut self, name: &str, said: Option<String>, default: Duration) -> Option<Duration> {
        let Some(said) = said else { return Some(default) };
        match duration(&said) {
            Ok(time) if !time.is_zero() => Some(time),
            Ok(_) => {
                self.fault(name, "is zero");
                None
            }
            Err(message) => {
                self.fault(name, message);
                None
            }
        }
    }

    /// `Some(None)`: nothing is said.
    #[expect(clippy::option_option, reason = "a fault and an absence are two things")]
    pub(super) fn number_if_said<N: TryFrom<u64> + Default>(
        &mut self,
        name: &str,
        said: Option<u64>,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<Option<N>> {
        match said {
            None => Some(None),
            some => self.number(name, some, range, N::default()).map(Some),
        }
    }

    /// `Some(None)`: nothing is said.
    #[expect(clippy::option_option, reason = "a fault and an absence are two things")]
    pub(super) fn time_if_said(&mut self, name: &str, said: Option<String>) -> Option<Option<Duration>> {
        match said {
            None => Some(None),
            some => self.time(name, some, Duration::ZERO).map(Some),
        }
    }

    pub(super) fn fault(&mut self, name: &str, message: impl fmt::Display) {
        self.faults.push(&format!("{}.{name}", self.field), message.to_string());
    }
}
