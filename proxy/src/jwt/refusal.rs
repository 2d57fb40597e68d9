//! Why a token is not taken. The downstream learns that it was not, and nothing more.

use std::fmt;

use sidegate_codes::Code;

/// Why a token is not taken. All but the last are the downstream's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// More than one.
    Several,
    /// Longer than any that is taken.
    TooLarge,
    /// No token in the compact form of RFC 7515, or one with two readings.
    Malformed(&'static str),
    /// Not signed with an algorithm that is taken: `none` and shared secrets are not.
    Algorithm,
    /// Of a kind that is no access token.
    Kind,
    /// The header demands what is not understood.
    Critical,
    /// Of an issuer that is not configured.
    Issuer,
    /// No key of the issuer has its name and its algorithm.
    UnknownKey,
    /// Several keys could be meant.
    AmbiguousKey,
    /// Not signed by the key, or changed since.
    Signature,
    /// `exp` is missing.
    NoEnd,
    /// A date that is no whole number.
    Date(&'static str),
    /// `exp` is over.
    Expired,
    /// `nbf` or `iat` is still to come.
    NotYet(&'static str),
    /// For somebody else.
    Audience,
    /// The keys of the issuer cannot be had.
    NoKeys,
}

impl Refusal {
    /// The stable code.
    pub(crate) fn code(self) -> Code {
        match self {
            Self::NoKeys => Code::TokenKeysUnknown,
            _ => Code::TokenRefused,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Several => "the request has more than one token",
            Self::TooLarge => "the token is longer than 16 KiB",
            Self::Malformed(part) => return write!(f, "the token cannot be read: {part}"),
            Self::Algorithm => "the token is signed with no algorithm that is taken",
            Self::Kind => "the token is of another kind than an access token",
            Self::Critical => "the token demands (`crit`) what is not understood",
            Self::Issuer => "the token is of an issuer that is not configured",
            Self::UnknownKey => "no key of the issuer has the token's `kid` and `alg`",
            Self::AmbiguousKey => "the token names no key, and several could be meant",
            Self::Signature => "the token is not signed by the key that it names",
            Self::NoEnd => "the token has no `exp`",
            Self::Date(name) => return write!(f, "`{name}` of the token is no whole number"),
            Self::Expired => "the token has expired",
            Self::NotYet(name) => return write!(f, "the token is not good yet (`{name}`)"),
            Self::Audience => "the token is for another audience",
            Self::NoKeys => "the keys of the token's issuer cannot be had",
        };
        f.write_str(text)
    }
}
