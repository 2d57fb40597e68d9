//! What is said of a token's claims: the name of one, and the text that it is compared with.

use std::{fmt, str::FromStr, sync::Arc};

use super::InvalidValue;
use crate::limits;

/// A text that a claim can be, such as an issuer. Compared byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimText(Arc<str>);

/// The name of a claim, `email`, or the way to one inside of another, `realm_access[roles]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimName {
    text: Arc<str>,
    /// Never empty.
    names: Arc<[Box<str>]>,
}

impl ClaimText {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ClaimName {
    /// The names of the claims that lead to it, from the outside.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// Whether its text is a list of words with spaces between: OAuth says so of `scope` (RFC 8693 §4.2), and `scp` is the
    /// same by another name.
    pub fn is_list_of_words(&self) -> bool {
        matches!(&*self.text, "scope" | "scp")
    }
}

impl FromStr for ClaimText {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        plain(text)?;
        Ok(Self(text.into()))
    }
}

impl FromStr for ClaimName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        const SHAPE: InvalidValue =
            InvalidValue::because("a claim is a name, or one inside of another: realm_access[roles]");
        plain(text)?;
        let (first, inner) = text.split_at(text.find('[').unwrap_or(text.len()));
        let mut names = vec![first];
        if let Some(inner) = inner.strip_prefix('[') {
            names.extend(inner.strip_suffix(']').ok_or(SHAPE)?.split("]["));
        }
        if names.iter().any(|name| name.is_empty() || name.contains(['[', ']'])) {
            return Err(SHAPE);
        }
        if names.len() > limits::CLAIM_DEPTH {
            return Err(format!("a claim lies at most {} deep", limits::CLAIM_DEPTH).into());
        }
        Ok(Self { names: names.into_iter().map(Into::into).collect(), text: text.into() })
    }
}

fn plain(text: &str) -> Result<(), InvalidValue> {
    match text {
        "" => Err(InvalidValue::because("is empty")),
        text if text.len() > limits::CLAIM_BYTES => {
            Err(format!("longer than {} bytes", limits::CLAIM_BYTES).into())
        }
        text if text.chars().any(char::is_control) => Err(InvalidValue::because("has control characters")),
        _ => Ok(()),
    }
}

impl fmt::Display for ClaimText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ClaimName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_a_name_or_the_way_to_one_inside_of_another() {
        for (text, names) in [
            ("email", &["email"][..]),
            ("https://corp.test/roles", &["https://corp.test/roles"]),
            ("realm_access[roles]", &["realm_access", "roles"]),
            ("a[b][c.d]", &["a", "b", "c.d"]),
        ] {
            let claim: ClaimName = text.parse().unwrap();
            assert_eq!(
                (claim.names().collect::<Vec<_>>(), claim.to_string().as_str()),
                (names.to_vec(), text)
            );
        }
        for bad in [
            "",
            "[a]",
            "a[]",
            "a[b",
            "a]b",
            "a[b]c",
            "a[[b]]",
            "a[b][]",
            "a[b][c][d][e]",
            "a\n",
            &"a".repeat(257),
        ] {
            assert!(bad.parse::<ClaimName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_a_scope_is_a_list_of_words() {
        for (text, is) in
            [("scope", true), ("scp", true), ("a[scope]", false), ("role", false), ("Scope", false)]
        {
            assert_eq!(text.parse::<ClaimName>().unwrap().is_list_of_words(), is, "{text}");
        }
    }
}
