//! Who asks for a certificate: each attestor takes one kind of proof and hands on an `Attested` identity, never two kinds at
//! once. Whatever the proof, the identity must be in the mesh now and not in quarantine; everybody else is refused.

mod join_token;
mod peer_credentials;
mod renewal;

use std::{sync::Arc, time::Instant};

use sidegate_codes::Code;
use sidegate_identity::{SpiffeId, VerifiedSvid};

use self::{join_token::JoinTokens, peer_credentials::PeerCredentials};
use crate::{
    mesh::Mesh,
    rate::Rate,
    server::{Origin, Source},
    tokens::{self, Taken, Tokens, TokensError},
};

/// A caller whose identity is proven and entitled.
#[derive(Clone, Debug)]
pub(crate) struct Attested {
    pub(crate) identity: SpiffeId,
    /// "join-token", "svid" or "unix".
    pub(crate) attestor: &'static str,
    /// What shows it, for the registry: never the token.
    pub(crate) evidence: String,
    /// Whether the proof is worn by its use: one that is not yet counted.
    pub(crate) counted: Counted,
}

/// Whether somebody counts how often a proof is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    No,
    /// By the store of the tokens, under the evidence.
    ByTokens,
}

/// The caller is not attested. It learns no more than the reason's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("neither a join token nor a client certificate was presented")]
    Nothing,
    #[error("a join token and a client certificate were presented; use one of them")]
    Both,
    #[error("the join token belongs to no service of the mesh")]
    UnknownToken,
    #[error("the join token {0}")]
    TokenEnded(tokens::State),
    #[error("the join token is used too often; wait")]
    TokenRate,
    #[error("the process's user is of no service of the mesh")]
    UnknownUser,
    #[error("processes of this user ask too often; wait")]
    UserRate,
    #[error("the presented identity is not a service of the mesh any more")]
    NotEntitled,
    #[error("the identity is in quarantine")]
    Quarantined,
    #[error("the presented certificate has ended")]
    Ended,
    #[error("too many failed attempts from this source; wait")]
    TooManyFailures,
}

/// Nobody is attested.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttestError {
    /// The caller's doing; with the identity, if it proved one before.
    #[error("{0}")]
    Refused(Refusal, Option<SpiffeId>),
    /// The control plane's own fault.
    #[error(transparent)]
    Tokens(#[from] TokensError),
}

/// Attests callers and remembers who failed. Waits for the disk: call it on a blocking thread.
#[derive(Debug)]
pub(crate) struct Attestor {
    join_tokens: JoinTokens,
    peer_credentials: PeerCredentials,
}

/// What a caller presented.
pub(crate) struct Presented<'a> {
    pub(crate) join_token: &'a str,
    pub(crate) svid: Option<&'a VerifiedSvid>,
    /// Where it comes from, which is a proof if nothing else was presented and it is a process of this host.
    pub(crate) origin: Origin,
}

/// The moment of a request, by the wall clock and by the machine's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) ms: u64,
    pub(crate) instant: Instant,
}

impl Attestor {
    pub(crate) fn new(tokens: Arc<Tokens>) -> Self {
        Self { join_tokens: JoinTokens::new(tokens), peer_credentials: PeerCredentials::new(USES) }
    }

    /// Judges what was presented against the mesh as it is now.
    pub(crate) fn attest(
        &self,
        presented: &Presented<'_>,
        mesh: &Mesh,
        at: Moment,
    ) -> Result<Attested, AttestError> {
        let quarantine = &mesh.quarantine.quarantine;
        let attested = match (presented.join_token.trim(), presented.svid) {
            ("", None) => match presented.origin {
                Origin::Network(_) => Err(Refusal::Nothing.into()),
                Origin::Local(process) => {
                    Ok(self.peer_credentials.attest(process, &mesh.config, at.instant)?)
                }
            },
            // What is refused elsewhere does not get itself a successor.
            ("", Some(svid)) if quarantine.refuses(svid) => Err(Refusal::Quarantined.into()),
            ("", Some(svid)) => renewal::attest(svid, at.ms / 1000).map_err(AttestError::from),
            (_, Some(_)) => Err(Refusal::Both.into()),
            (token, None) => self.join_tokens.attest(token, presented.origin.source(), &mesh.config, at),
        }?;
        let refused = |refusal| Err(AttestError::Refused(refusal, Some(attested.identity.clone())));
        if quarantine.excludes(&attested.identity) {
            return refused(Refusal::Quarantined);
        }
        if mesh.config.workload(&attested.identity).is_none() {
            return refused(Refusal::NotEntitled);
        }
        Ok(attested)
    }

    /// Counts the use of the proof, right before it is made use of.
    pub(crate) fn take(&self, attested: &Attested, source: Source, at: Moment) -> Result<Taken, AttestError> {
        match attested.counted {
            Counted::No => Ok(Taken::Known),
            Counted::ByTokens => self.join_tokens.take(attested, source, at),
        }
    }

    /// Gives back the use of a proof for which nothing was issued. What cannot be given back is lost: the safe side.
    pub(crate) fn give_back(&self, attested: &Attested) {
        match attested.counted {
            Counted::No => {}
            Counted::ByTokens => self.join_tokens.give_back(attested),
        }
    }
}

impl From<Refusal> for AttestError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal, None)
    }
}

impl Refusal {
    /// The code that the caller and the log are told.
    pub(crate) fn code(self) -> Code {
        match self {
            Self::Quarantined => Code::IdentityQuarantined,
            Self::TokenEnded(_) => Code::JoinTokenEnded,
            Self::UnknownUser => Code::LocalUserUnknown,
            _ => Code::IssuanceRefused,
        }
    }

    /// The metric's label.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Nothing => "nothing_presented",
            Self::Both => "both_presented",
            Self::UnknownToken => "unknown_token",
            Self::TokenEnded(tokens::State::UsedUp) => "token_used_up",
            Self::TokenEnded(tokens::State::Revoked) => "token_revoked",
            Self::TokenEnded(tokens::State::Expired | tokens::State::Valid) => "token_expired",
            Self::TokenRate => "token_rate",
            Self::UnknownUser => "unknown_user",
            Self::UserRate => "user_rate",
            Self::NotEntitled => "not_entitled",
            Self::Quarantined => "quarantined",
            Self::Ended => "ended",
            Self::TooManyFailures => "too_many_failures",
        }
    }
}

/// Per token and per user. Below what an identity is issued in all, so that a token in the wrong hands, or a process that
/// runs wild, does not use up the renewals of those whose identity it is.
const USES: Rate = Rate { burst: 100.0, per_second: 10.0 };

#[cfg(test)]
mod tests;
