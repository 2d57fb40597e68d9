//! Names of policies, rules, namespaces and service accounts.

use std::{fmt, str::FromStr, sync::Arc};

use super::InvalidValue;
use crate::limits;

/// A name: a letter or digit, then letters, digits, `.`, `-` and `_`. What can be a segment of a SPIFFE ID's path and
/// stands unquoted in a log line or a metric label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// `namespace/name`, as in `shop/orders`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAccount {
    /// The namespace of the account.
    pub namespace: Name,
    /// The account's name in it.
    pub name: Name,
}

impl Name {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl FromStr for Name {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.len() > limits::NAME_BYTES {
            return Err(format!("longer than {} bytes", limits::NAME_BYTES).into());
        }
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if starts && text.bytes().all(inner) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidValue::because(
                "a name is a letter or digit followed by letters, digits, `.`, `-` or `_`",
            ))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServiceAccount {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let (namespace, name) = text
            .split_once('/')
            .ok_or(InvalidValue::because("expected namespace/name, as in shop/orders"))?;
        Ok(Self { namespace: namespace.parse()?, name: name.parse()? })
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        for good in ["a", "orders", "orders-v2", "Orders.v2_b", "7"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-a", "a b", "a/b", "ä", "a\n", &"a".repeat(129)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_service_account_is_exactly_two_names() {
        assert_eq!("shop/orders".parse::<ServiceAccount>().unwrap().to_string(), "shop/orders");
        for bad in ["orders", "shop/", "/orders", "a/b/c", "shop/*", "*"] {
            assert!(bad.parse::<ServiceAccount>().is_err(), "{bad:?}");
        }
    }
}
