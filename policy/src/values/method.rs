//! HTTP methods.

use std::{fmt, str::FromStr, sync::Arc};

use super::InvalidValue;

/// An HTTP method in upper case. Methods are case-sensitive (RFC 9110 §9.1): `get` is not `GET`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(Arc<str>);

impl Method {
    /// `POST`: how gRPC calls.
    pub(crate) fn post() -> Self {
        Self("POST".into())
    }

    /// The method as it stands in a request line.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the request's method is this one, byte for byte.
    pub fn matches(&self, method: &str) -> bool {
        &*self.0 == method
    }
}

impl FromStr for Method {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        const LONGEST: usize = 32;
        let inner =
            |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase());
        if starts && text.len() <= LONGEST && text.bytes().all(inner) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidValue::because(
                "a method is one word in upper case, as in GET; leave `methods` out for any",
            ))
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_upper_case_and_match_exactly() {
        let get: Method = "GET".parse().unwrap();
        assert!(get.matches("GET"));
        assert!(!get.matches("get"));
        assert!(!get.matches("GETS"));
        for bad in ["", "get", "Get", "*", "GET POST", "GET,POST", "1GET"] {
            assert!(bad.parse::<Method>().is_err(), "{bad:?}");
        }
    }
}
