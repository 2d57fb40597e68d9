//! Tokens of requests: takes the header field that holds one, hands on its claims when every check has passed, or why one
//! has not. A request with a token that is not good is refused whatever policies say; a token that cannot be checked, because
//! the issuer's keys are not known, is not good.

mod cache;
mod fetch;
mod keys;
mod refusal;
mod source;
mod token;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use sidegate_policy::Claims;

pub(crate) use cache::Cache;
pub(crate) use refusal::Refusal;
pub(crate) use source::follow;

use crate::{config, http::Checked};
use source::KeySource;
use token::Signed;

/// Whose tokens are taken, with the keys of each. The default looks at none.
#[derive(Debug, Default)]
pub(crate) struct Issuers {
    config: Option<config::Jwt>,
    /// In the order of the configuration.
    sources: Vec<Arc<KeySource>>,
}

/// What a request brought.
#[derive(Debug)]
pub(crate) enum Token {
    /// None, or tokens are not looked at.
    None,
    /// One that is good.
    Verified(Arc<Verified>),
    /// One that is not, or several.
    Refused(Refusal),
}

/// A token that passed every check.
#[derive(Debug)]
pub(crate) struct Verified {
    claims: Claims,
    /// Seconds since the Unix epoch from which it is none.
    ends: u64,
}

impl Issuers {
    /// With the sources of `before` where they are the same, so that a changed configuration forgets no key.
    pub(crate) fn new(config: Option<&config::Jwt>, before: &Self) -> Self {
        let issuers = config.map(|config| config.issuers.as_slice()).unwrap_or_default();
        let kept =
            |from: &config::KeysFrom| before.sources.iter().find(|source| source.is_from(from)).cloned();
        let source = |issuer: &config::Issuer| {
            kept(&issuer.keys).unwrap_or_else(|| Arc::new(KeySource::new(&issuer.keys)))
        };
        Self { sources: issuers.iter().map(source).collect(), config: config.cloned() }
    }

    pub(crate) fn sources(&self) -> &[Arc<KeySource>] {
        &self.sources
    }

    /// Takes the token off of the request, unless the application gets it too, and checks it. May wait for new keys, within
    /// their own bounds, when it was signed with one that is not known.
    pub(crate) async fn check<B>(&self, request: &mut Checked<B>, cache: &Cache, now: fn() -> u64) -> Token
    where
        B: http_body::Body,
    {
        let Some(config) = &self.config else { return Token::None };
        let is_in_query = request.query().is_some_and(has_token);
        let found = take(request.headers_mut(), config);
        match found {
            Ok(None) => Token::None,
            // RFC 6750 §2: no more than one way in a request.
            Ok(Some(_)) if is_in_query => Token::Refused(Refusal::Several),
            Ok(Some(text)) => match self.verify(text.as_bytes(), cache, now).await {
                Ok(verified) => Token::Verified(verified),
                Err(refusal) => Token::Refused(refusal),
            },
            Err(refusal) => Token::Refused(refusal),
        }
    }

    async fn verify(&self, text: &[u8], cache: &Cache, now: fn() -> u64) -> Result<Arc<Verified>, Refusal> {
        let signed = Signed::parse(text)?;
        let issuers = self.config.iter().flat_map(|config| &config.issuers);
        let (issuer, source) = issuers
            .zip(&self.sources)
            .find(|(issuer, _)| issuer.issuer == signed.claims().issuer())
            .ok_or(Refusal::Issuer)?;
        if let Some(verified) =
            source.keys().and_then(|keys| cache.find(text, &keys, &issuer.audiences, now()))
        {
            return Ok(verified);
        }
        let keys = match source.keys().filter(|keys| keys.find(signed.kid(), signed.algorithm()).is_ok()) {
            Some(keys) => keys,
            None => source.newer_keys().await.ok_or(Refusal::NoKeys)?,
        };
        signed.verify(keys.find(signed.kid(), signed.algorithm())?)?;
        let ends = signed.check_dates(now())?;
        signed.check_audience(&issuer.audiences)?;
        let verified = Arc::new(Verified { claims: signed.into_claims(), ends });
        cache.keep(text, &keys, &issuer.audiences, Arc::clone(&verified), now());
        Ok(verified)
    }
}

impl Token {
    /// The claims of a good token.
    pub(crate) fn verified(&self) -> Option<&Arc<Verified>> {
        match self {
            Self::Verified(verified) => Some(verified),
            Self::None | Self::Refused(_) => None,
        }
    }
}

impl Verified {
    /// What it says, for as long as it is one: what is still open when it ends has no token any more.
    pub(crate) fn claims(&self, now: u64) -> Option<&Claims> {
        (now < self.ends).then_some(&self.claims)
    }
}

/// The token's text. A field on several lines is several tokens: applications differ in which of them they take.
fn take(headers: &mut HeaderMap, config: &config::Jwt) -> Result<Option<HeaderValue>, Refusal> {
    let mut lines = headers.get_all(&config.header).iter();
    let found = match (lines.next(), lines.next()) {
        (None, _) => return Ok(None),
        (Some(_), Some(_)) => Err(Refusal::Several),
        (Some(line), None) => text_of(&config.header, line),
    };
    if !config.forward && !matches!(found, Ok(None)) {
        headers.remove(&config.header);
    }
    found
}

/// `None`: another scheme of authentication, which is the application's business.
fn text_of(name: &HeaderName, line: &HeaderValue) -> Result<Option<HeaderValue>, Refusal> {
    if name != header::AUTHORIZATION {
        return Ok(Some(line.clone()));
    }
    let bytes = line.as_bytes();
    let scheme = bytes.split(|byte| matches!(byte, b' ' | b'\t' | b',')).next().unwrap_or_default();
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Ok(None);
    }
    let token = bytes
        .get(scheme.len()..)
        .and_then(|rest| rest.strip_prefix(b" "))
        .ok_or(Refusal::Malformed("its field"))?;
    HeaderValue::from_bytes(token).map(Some).map_err(|_| Refusal::Malformed("its field"))
}

/// Whether a query brings a token the way that RFC 6750 §2.3 gives it.
fn has_token(query: &str) -> bool {
    query
        .split('&')
        .any(|pair| pair.split('=').next().is_some_and(|name| name.eq_ignore_ascii_case("access_token")))
}

#[cfg(test)]
mod tests;
