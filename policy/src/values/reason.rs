//! Why there is an exception, in its author's words.

use std::{fmt, str::FromStr, sync::Arc};

use super::InvalidValue;
use crate::limits;

/// A text for people: of words, and no longer than a few lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(Arc<str>);

impl FromStr for Reason {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if !text.contains(char::is_alphanumeric) {
            return Err(InvalidValue::because(
                "says nothing; say who cannot have an identity, and until when",
            ));
        }
        if text.len() > limits::REASON_BYTES {
            return Err(format!("longer than {} bytes", limits::REASON_BYTES).into());
        }
        // A block of YAML ends its lines; what else is invisible is not for a reader.
        if text.chars().any(|c| c.is_control() && c != '\n') {
            return Err(InvalidValue::because("has control characters"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_made_of_words_that_can_be_read() {
        for good in ["Probes of the load balancer (OPS-411)", "two\nlines\n", "é"] {
            assert_eq!(good.parse::<Reason>().map(|it| it.to_string()).as_deref(), Ok(good));
        }
        let long = "a".repeat(limits::REASON_BYTES + 1);
        for bad in ["", "  ", "-", "\n", "a\u{1b}[2J", "a\0", long.as_str()] {
            assert!(bad.parse::<Reason>().is_err(), "{bad:?}");
        }
    }
}
