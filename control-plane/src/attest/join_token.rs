//! A join token as the proof: one of the store, which ends and is counted, or one whose digest is in `mesh.yaml`, which is
//! good for as long as it stands there. Who presents what is no token waits after a while, and so does a token that is used
//! more often than a fleet restarts.

use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::{AttestError, Attested, Counted, Moment, Refusal, USES};
use crate::{
    config::Config,
    rate::{Buckets, Rate},
    server::Source,
    tokens::{self, Found, Taken, Tokens, Usable},
};

#[derive(Debug)]
pub(super) struct JoinTokens {
    tokens: Arc<Tokens>,
    failures: Buckets<Source>,
    /// By the token's name.
    uses: Buckets<String>,
}

impl JoinTokens {
    pub(super) fn new(tokens: Arc<Tokens>) -> Self {
        Self { tokens, failures: Buckets::new(FAILURES), uses: Buckets::new(USES) }
    }

    /// Of a source only failures are counted: a fleet that starts behind one address is not slowed down.
    pub(super) fn attest(
        &self,
        token: &str,
        source: Source,
        config: &Config,
        at: Moment,
    ) -> Result<Attested, AttestError> {
        if !self.failures.has(&source, at.instant) {
            return Err(Refusal::TooManyFailures.into());
        }
        let attested = self.find(token, config, at.ms);
        if matches!(attested, Err(AttestError::Refused(..))) {
            self.failures.take(source, at.instant);
        }
        let attested = attested?;
        if !self.uses.take(attested.evidence.clone(), at.instant) {
            return Err(AttestError::Refused(Refusal::TokenRate, Some(attested.identity)));
        }
        Ok(attested)
    }

    pub(super) fn take(&self, attested: &Attested, source: Source, at: Moment) -> Result<Taken, AttestError> {
        match self.tokens.take(&attested.evidence, &source.to_string(), at.ms)? {
            Taken::Ended(state) => {
                Err(AttestError::Refused(Refusal::TokenEnded(state), Some(attested.identity.clone())))
            }
            taken => Ok(taken),
        }
    }

    pub(super) fn give_back(&self, attested: &Attested) {
        if let Err(error) = self.tokens.give_back(&attested.evidence) {
            tracing::warn!(token = attested.evidence, %error, "a use of a join token is lost");
        }
    }

    fn find(&self, token: &str, config: &Config, now_ms: u64) -> Result<Attested, AttestError> {
        let digest = tokens::digest(token);
        match self.tokens.find(&digest, now_ms)? {
            Found::Usable(Usable { id, identity }) => {
                Ok(Attested { identity, attestor: "join-token", evidence: id, counted: Counted::ByTokens })
            }
            Found::Ended(state, identity) => {
                Err(AttestError::Refused(Refusal::TokenEnded(state), Some(identity)))
            }
            Found::Unknown => in_configuration(&digest, config).ok_or_else(|| Refusal::UnknownToken.into()),
        }
    }
}

/// Compares with every digest, whatever matched before: the time says nothing about which.
fn in_configuration(digest: &[u8; 32], config: &Config) -> Option<Attested> {
    let mut found = None;
    for service in &config.services {
        for expected in &service.join_tokens {
            if bool::from(expected.0.ct_eq(digest)) {
                found = Some(service);
            }
        }
    }
    found.map(|service| Attested {
        identity: service.identity.clone(),
        attestor: "join-token",
        evidence: tokens::name(digest),
        counted: Counted::No,
    })
}

/// Per source. A token has 256 bits; this keeps the log and the CPU quiet, not the token safe.
const FAILURES: Rate = Rate { burst: 20.0, per_second: 1.0 };
