//! What passes between the two sides instead of an error of the reader's: receives what a type objects to, hands it on in the
//! reader's words.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use super::Names;

/// Why a value is not there; small, since every step hands it on.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct Failed(Box<Why>);

/// The reader's error, kept where the reader is, or what the visitor objects to.
#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("the reader's own error")]
    Kept,
    #[error("{0}")]
    Other(String),
    #[error("invalid type: {0}, expected {1}")]
    Type(String, String),
    #[error("invalid value: {0}, expected {1}")]
    Value(String, String),
    #[error("invalid length {0}, expected {1}")]
    Length(usize, String),
    #[error("unknown variant `{0}`")]
    UnknownVariant(String, Names),
    #[error("unknown field `{0}`")]
    UnknownField(String, Names),
    #[error("missing field `{0}`")]
    Missing(&'static str),
}

impl Failed {
    /// The reader has its own error, and keeps it.
    #[cold]
    pub(super) fn kept() -> Self {
        Self::new(Why::Kept)
    }

    #[cold]
    fn new(why: Why) -> Self {
        Self(Box::new(why))
    }

    /// Whether the reader keeps the error.
    pub(super) fn is_kept(&self) -> bool {
        matches!(*self.0, Why::Kept)
    }

    /// The same in an error of the reader's, which knows the place.
    #[cold]
    pub(super) fn into_error<E: de::Error>(self) -> E {
        match *self.0 {
            Why::Type(found, expected) => E::invalid_type(Unexpected::Other(&found), &expected.as_str()),
            Why::Value(found, expected) => E::invalid_value(Unexpected::Other(&found), &expected.as_str()),
            Why::Length(len, expected) => E::invalid_length(len, &expected.as_str()),
            Why::UnknownVariant(name, known) => E::unknown_variant(&name, known),
            Why::UnknownField(name, known) => E::unknown_field(&name, known),
            Why::Missing(field) => E::missing_field(field),
            why @ (Why::Kept | Why::Other(_)) => E::custom(why),
        }
    }
}

impl de::Error for Failed {
    #[cold]
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Why::Other(message.to_string()))
    }

    #[cold]
    #[inline(never)]
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Why::Type(found.to_string(), expected.to_string()))
    }

    #[cold]
    #[inline(never)]
    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Why::Value(found.to_string(), expected.to_string()))
    }

    #[cold]
    #[inline(never)]
    fn invalid_length(len: usize, expected: &dyn Expected) -> Self {
        Self::new(Why::Length(len, expected.to_string()))
    }

    #[cold]
    #[inline(never)]
    fn unknown_variant(name: &str, known: Names) -> Self {
        Self::new(Why::UnknownVariant(name.to_owned(), known))
    }

    #[cold]
    #[inline(never)]
    fn unknown_field(name: &str, known: Names) -> Self {
        Self::new(Why::UnknownField(name.to_owned(), known))
    }

    #[cold]
    #[inline(never)]
    fn missing_field(field: &'static str) -> Self {
        Self::new(Why::Missing(field))
    }
}
