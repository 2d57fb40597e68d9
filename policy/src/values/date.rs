//! The day on which an exception ends.

use std::{fmt, str::FromStr};

use time::{format_description::BorrowedFormatItem, macros::format_description};

use super::InvalidValue;

const FORM: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");

/// A day, as in `2027-01-31`. What ends on it is over from 00:00 UTC of that day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(time::Date);

impl Date {
    /// Whether the day has begun at `now`, in seconds since the Unix epoch.
    pub fn has_begun(self, now: u64) -> bool {
        self.start() <= now
    }

    /// How many days after `now` it begins, as begun ones; 0 if it has begun.
    pub fn days_after(self, now: u64) -> u64 {
        self.start().saturating_sub(now).div_ceil(86_400)
    }

    /// A day before 1970 has always begun.
    fn start(self) -> u64 {
        u64::try_from(self.0.midnight().assume_utc().unix_timestamp()).unwrap_or(0)
    }
}

impl FromStr for Date {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        // The parser alone would also take a sign before the year.
        let shape = text.len() == "2027-01-31".len() && text.starts_with(|c: char| c.is_ascii_digit());
        shape
            .then(|| time::Date::parse(text, FORM).ok())
            .flatten()
            .map(Self)
            .ok_or(InvalidValue::because("expected a day of the calendar, as in 2027-01-31"))
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_midnight_utc() {
        let day: Date = "2027-01-31".parse().unwrap();
        assert!(!day.has_begun(1_801_353_599));
        assert!(day.has_begun(1_801_353_600));
        assert!("1969-12-31".parse::<Date>().unwrap().has_begun(0));
        assert_eq!(day.to_string(), "2027-01-31");
        let days = [1_801_353_600, 1_801_353_599, 1_801_353_600 - 86_400, 1_801_353_600 - 86_401]
            .map(|now| day.days_after(now));
        assert_eq!(days, [0, 1, 1, 2]);
    }

    #[test]
    fn only_days_of_the_calendar_are_dates() {
        for bad in [
            "",
            "2027-02-29",
            "2027-13-01",
            "2027-1-31",
            "27-01-31",
            "+027-01-31",
            "2027-01-31T00:00:00Z",
            "tomorrow",
        ] {
            assert!(bad.parse::<Date>().is_err(), "{bad:?}");
        }
    }
}
