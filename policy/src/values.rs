//! The values that rules are made of. Each is parsed once from text, and afterwards nobody checks it again; each
//! prints as the text that parses to it.

use std::borrow::Cow;

mod claim;
mod date;
mod grpc;
mod host;
mod ip;
mod method;
mod name;
mod path;
mod reason;

pub use claim::{ClaimName, ClaimText};
pub use date::Date;
pub use grpc::{GrpcMethod, GrpcService};
pub use host::HostPattern;
pub use ip::IpBlock;
pub use method::Method;
pub use name::{Name, ServiceAccount};
pub use path::PathPattern;
pub(crate) use path::Segment;
pub use reason::Reason;

/// Text that is not what its place in a policy asks for. Says what would be; the place is added by who knows it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(Cow<'static, str>);

impl InvalidValue {
    pub(crate) const fn because(reason: &'static str) -> Self {
        Self(Cow::Borrowed(reason))
    }
}

impl From<String> for InvalidValue {
    fn from(reason: String) -> Self {
        Self(Cow::Owned(reason))
    }
}

/// Prints a value in JSON as its text.
macro_rules! serialize_as_text {
    ($($value:ty),+) => {
        $(impl serde::Serialize for $value {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        })+
    };
}

serialize_as_text!(
    crate::Condition,
    crate::Rego,
    ClaimName,
    ClaimText,
    Date,
    GrpcMethod,
    GrpcService,
    HostPattern,
    IpBlock,
    Method,
    Name,
    PathPattern,
    Reason,
    ServiceAccount
);
