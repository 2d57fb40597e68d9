//! One token in the compact form of RFC 7515: three parts, of which nothing is believed before the signature has been checked,
//! save which issuer and key it claims. Refuses whatever has two readings. Header fields that bring a key or its address along
//! (`jwk`, `jku`, `x5u`, `x5c`) are not looked at.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::IgnoredAny};
use sidegate_policy::Claims;

use super::{
    keys::{Algorithm, Key},
    refusal::Refusal,
};

/// A token, read and not yet believed.
#[derive(Debug)]
pub(super) struct Signed<'t> {
    header: Header,
    algorithm: Algorithm,
    claims: Claims,
    /// What the signature is over.
    under_signature: &'t [u8],
    signature: Vec<u8>,
}

/// Of a name that comes twice the token is refused; fields that are not listed are not looked at.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

impl<'t> Signed<'t> {
    pub(super) fn parse(text: &'t [u8]) -> Result<Self, Refusal> {
        if text.len() > MOST_BYTES {
            return Err(Refusal::TooLarge);
        }
        let dots: Vec<usize> =
            text.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(at, _)| at).collect();
        let [first, second] = dots.as_slice() else {
            return Err(Refusal::Malformed("it has not three parts"));
        };
        let decode = |part: &[u8], what| URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed(what));
        let header = decode(&text[..*first], "the header is no base64url")?;
        let header: Header =
            serde_json::from_slice(&header).map_err(|_| Refusal::Malformed("the header is no header"))?;
        if header.crit {
            return Err(Refusal::Critical);
        }
        let algorithm = Algorithm::of(&header.alg).ok_or(Refusal::Algorithm)?;
        if !header.typ.as_deref().is_none_or(is_access_token) {
            return Err(Refusal::Kind);
        }
        let payload = decode(&text[first + 1..*second], "the claims are no base64url")?;
        let payload =
            std::str::from_utf8(&payload).map_err(|_| Refusal::Malformed("the claims are no UTF-8"))?;
        let claims = Claims::parse(payload)
            .map_err(|_| Refusal::Malformed("the claims are no claims, or have two readings"))?;
        let signature = decode(&text[second + 1..], "the signature is no base64url")?;
        Ok(Self { header, algorithm, claims, under_signature: &text[..*second], signature })
    }

    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    pub(super) fn kid(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key was found by the token's own `alg`, and takes no other.
    pub(super) fn verify(&self, key: &Key) -> Result<(), Refusal> {
        if key.has_signed(self.under_signature, &self.signature) { Ok(()) } else { Err(Refusal::Signature) }
    }

    /// The second from which the token is none.
    pub(super) fn check_dates(&self, now: u64) -> Result<u64, Refusal> {
        let date = |name: &'static str| self.claims.integer(name).map_err(|_| Refusal::Date(name));
        let (now, leeway) = (i128::from(now), i128::from(LEEWAY_SECONDS));
        let ends = date("exp")?.ok_or(Refusal::NoEnd)?.saturating_add(leeway);
        if ends <= now {
            return Err(Refusal::Expired);
        }
        for name in ["nbf", "iat"] {
            if date(name)?.is_some_and(|begins| begins > now.saturating_add(leeway)) {
                return Err(Refusal::NotYet(name));
            }
        }
        Ok(u64::try_from(ends).unwrap_or(u64::MAX))
    }

    pub(super) fn check_audience(&self, wanted: &[String]) -> Result<(), Refusal> {
        let is_wanted = |it: &str| wanted.iter().any(|wanted| wanted == it);
        let is_for_us = self.claims.audiences().is_some_and(|mut list| list.any(is_wanted));
        if is_for_us { Ok(()) } else { Err(Refusal::Audience) }
    }

    pub(super) fn into_claims(self) -> Claims {
        self.claims
    }
}

/// A token says of which kind it is where others of the issuer, signed with the same key, could pass for one (RFC 8725 §3.11).
fn is_access_token(kind: &str) -> bool {
    ["jwt", "at+jwt", "application/jwt", "application/at+jwt"]
        .iter()
        .any(|known| kind.eq_ignore_ascii_case(known))
}

/// Whatever its value, `null` too: it is there.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

const MOST_BYTES: usize = 16 * 1024;
/// By how much clocks may differ.
const LEEWAY_SECONDS: u64 = 30;
