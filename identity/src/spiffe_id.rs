//! SPIFFE IDs and trust domains, parsed to the letter of the SPIFFE-ID standard §2.
//! Receives text from certificates and configuration, hands on values that need no second check.
//! Refuses every spelling that is not already canonical, so that equality of bytes is equality of identity.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use thiserror::Error;

const SCHEME: &str = "spiffe://";
/// SPIFFE-ID §2.3: at most 2048 bytes in all.
const MAX_ID_BYTES: usize = 2048;
/// SPIFFE-ID §2.1: the longest host that RFC 3986 knows.
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// The name of a trust domain, such as `shop.test`: the root under which identities are issued. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// A SPIFFE ID, such as `spiffe://shop.test/ns/shop/sa/payments`. Cheap to clone; compared byte for byte.
///
/// An ID without a path names the trust domain itself. It is a valid ID, but no workload's: [`crate::verify`]
/// refuses it in a leaf.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins in `text`, a function of it.
    path_start: usize,
}

/// Why a text is not a SPIFFE ID or trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidSpiffeId {
    /// More than 2048 bytes (SPIFFE-ID §2.3).
    #[error("longer than {MAX_ID_BYTES} bytes")]
    TooLong,
    /// Not `spiffe://` in lower case (SPIFFE-ID §2).
    #[error("does not begin with `spiffe://`")]
    Scheme,
    /// No trust domain after the scheme (SPIFFE-ID §2.1).
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    /// A trust domain of more than 255 bytes (SPIFFE-ID §2.1).
    #[error("the trust domain is longer than {MAX_TRUST_DOMAIN_BYTES} bytes")]
    LongTrustDomain,
    /// User information, a port, percent-encoding, upper case or another stranger in the trust domain (SPIFFE-ID §2.1).
    #[error("the trust domain may hold only a-z, 0-9, `.`, `-` and `_`")]
    TrustDomainCharacter,
    /// `//` within the path, or a `/` at its end (SPIFFE-ID §2.2).
    #[error("the path has an empty segment or ends in `/`")]
    EmptySegment,
    /// `.` or `..` as a segment (SPIFFE-ID §2.2).
    #[error("the path has a `.` or `..` segment")]
    DotSegment,
    /// A query, a fragment, percent-encoding or another stranger in the path (SPIFFE-ID §2.2).
    #[error("path segments may hold only a-z, A-Z, 0-9, `.`, `-` and `_`")]
    PathCharacter,
}

impl TrustDomain {
    /// Reads the bare name, without scheme or path.
    pub fn parse(text: &str) -> Result<Self, InvalidSpiffeId> {
        check_trust_domain(text)?;
        Ok(Self(Arc::from(text)))
    }

    /// The name, such as `shop.test`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// Reads an ID in its canonical spelling; any other spelling is refused, never corrected.
    ///
    /// Scheme and trust domain are case-insensitive in theory (SPIFFE-ID §2.4). Issuers write them in lower case,
    /// and refusing the rest leaves one spelling per identity.
    pub fn parse(text: &str) -> Result<Self, InvalidSpiffeId> {
        if text.len() > MAX_ID_BYTES {
            return Err(InvalidSpiffeId::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidSpiffeId::Scheme)?;
        let (trust_domain, path) =
            rest.split_at_checked(rest.find('/').unwrap_or(rest.len())).unwrap_or((rest, ""));
        check_trust_domain(trust_domain)?;
        check_path(path)?;
        Ok(Self { text: Arc::from(text), path_start: text.len().saturating_sub(path.len()) })
    }

    /// The ID of a service account: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    /// Namespace and account must each be one valid path segment.
    pub fn for_workload(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, InvalidSpiffeId> {
        check_segment(namespace)?;
        check_segment(service_account)?;
        Self::parse(&format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}"))
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name of the ID's trust domain.
    pub fn trust_domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.path_start).unwrap_or_default()
    }

    /// The path with its leading `/`; empty for the trust domain's own ID.
    pub fn path(&self) -> &str {
        self.text.get(self.path_start..).unwrap_or_default()
    }

    /// The namespace, if the path is exactly `/ns/<namespace>/sa/<service account>`.
    pub fn namespace(&self) -> Option<&str> {
        self.workload().map(|(namespace, _)| namespace)
    }

    /// The service account, if the path is exactly `/ns/<namespace>/sa/<service account>`.
    pub fn service_account(&self) -> Option<&str> {
        self.workload().map(|(_, service_account)| service_account)
    }

    fn workload(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once('/')?;
        let account = account.strip_prefix("sa/")?;
        (!account.contains('/')).then_some((namespace, account))
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        Self::parse(text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        Self::parse(text)
    }
}

fn check_trust_domain(name: &str) -> Result<(), InvalidSpiffeId> {
    if name.is_empty() {
        return Err(InvalidSpiffeId::EmptyTrustDomain);
    }
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(InvalidSpiffeId::LongTrustDomain);
    }
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if name.bytes().all(allowed) { Ok(()) } else { Err(InvalidSpiffeId::TrustDomainCharacter) }
}

fn check_path(path: &str) -> Result<(), InvalidSpiffeId> {
    match path.strip_prefix('/') {
        Some(segments) => segments.split('/').try_for_each(check_segment),
        None => Ok(()), // Only the empty path has no leading slash: the trust domain ended at the first one.
    }
}

fn check_segment(segment: &str) -> Result<(), InvalidSpiffeId> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    match segment {
        "" => Err(InvalidSpiffeId::EmptySegment),
        "." | ".." => Err(InvalidSpiffeId::DotSegment),
        _ if segment.bytes().all(allowed) => Ok(()),
        _ => Err(InvalidSpiffeId::PathCharacter),
    }
}

#[cfg(test)]
mod tests;
