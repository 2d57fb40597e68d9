//! Names of gRPC services and methods.

use std::{fmt, str::FromStr, sync::Arc};

use super::InvalidValue;
use crate::limits;

/// The full name of a gRPC service, as in `shop.v1.Payments`: the package, if there is one, and the service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrpcService(Arc<str>);

/// The name of a gRPC method in its service, as in `Charge`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrpcMethod(Arc<str>);

impl GrpcService {
    pub(crate) fn shared(&self) -> &Arc<str> {
        &self.0
    }
}

impl GrpcMethod {
    pub(crate) fn shared(&self) -> &Arc<str> {
        &self.0
    }
}

impl FromStr for GrpcService {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.len() <= limits::NAME_BYTES && text.split('.').all(is_identifier) {
            return Ok(Self(text.into()));
        }
        Err(InvalidValue::because(
            "a gRPC service is its full name, as in shop.v1.Payments; there are no wildcards",
        ))
    }
}

impl FromStr for GrpcMethod {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.len() <= limits::NAME_BYTES && is_identifier(text) {
            return Ok(Self(text.into()));
        }
        Err(InvalidValue::because(
            "a gRPC method is one name, as in Charge; leave `method` out for any of the service",
        ))
    }
}

/// An identifier of Protocol Buffers.
fn is_identifier(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.bytes().all(inner) && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

impl fmt::Display for GrpcService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for GrpcMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_identifiers_with_dots() {
        for good in ["Payments", "shop.Payments", "shop.v1.Payments_2", "_x"] {
            assert_eq!(good.parse::<GrpcService>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "*",
            "shop.*",
            ".Payments",
            "shop.",
            "a..b",
            "shop/Payments",
            "1a",
            "a-b",
            "ä",
            &"a".repeat(129),
        ] {
            assert!(bad.parse::<GrpcService>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_method_is_one_identifier() {
        for good in ["Charge", "charge_all", "_x9"] {
            assert_eq!(good.parse::<GrpcMethod>().unwrap().to_string(), good);
        }
        for bad in ["", "*", "a.b", "a/b", "{any}", "9a", "a b", &"a".repeat(129)] {
            assert!(bad.parse::<GrpcMethod>().is_err(), "{bad:?}");
        }
    }
}
