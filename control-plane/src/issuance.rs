//! The gRPC service that issues certificates: attest, check the request, keep to the rate, sign. What the caller gets
//! wrong is told to it by code and reason; a token is in no message and no log line.

use std::{sync::Arc, time::Instant};

use sidegate_codes::Code;
use sidegate_identity::SpiffeId;
use sidegate_proto::v1::{IssueRequest, IssueResponse, identity_server::Identity};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{
    attest::{AttestError, Attested, Attestor, Moment, Presented, Refusal},
    ca::{
        Authority, IssueError, Issued, Order,
        csr::{CsrError, ProvenKey},
    },
    clock,
    mesh::Mesh,
    metrics::Metrics,
    rate::{Buckets, Rate},
    registry::Refused,
    resource,
    server::{self, Peer},
    tokens::{Taken, Tokens},
};

/// The gRPC service.
#[derive(Clone)]
pub(crate) struct IdentityService {
    authority: Arc<Authority>,
    attestor: Arc<Attestor>,
    issued: Arc<Buckets<SpiffeId>>,
    /// What refusals may take of the registry.
    refused: Arc<Buckets<()>>,
    mesh: watch::Receiver<Arc<Mesh>>,
    metrics: Arc<Metrics>,
}

impl IdentityService {
    pub(crate) fn new(
        authority: Arc<Authority>,
        tokens: Arc<Tokens>,
        mesh: watch::Receiver<Arc<Mesh>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (attestor, issued) = (Arc::new(Attestor::new(tokens)), Arc::new(Buckets::new(PER_IDENTITY)));
        let refused = Arc::new(Buckets::new(RECORDED_REFUSALS));
        Self { authority, attestor, issued, refused, mesh, metrics }
    }

    /// Attest, check the request, keep to the rate, sign.
    async fn answer(&self, peer: &Peer, message: IssueRequest) -> Result<Issued, Stopped> {
        let attested = self.attest(peer, message.join_token).await?;
        let identity = attested.identity.clone();
        let by = |denied| Stopped::Denied(denied, Some(identity.clone()));
        let key = ProvenKey::from_csr(&message.csr).map_err(|error| by(error.into()))?;
        if !self.issued.take(identity.clone(), Instant::now()) {
            return Err(by(Denied::Rate));
        }
        self.sign(attested, key, peer).await
    }

    async fn attest(&self, peer: &Peer, join_token: String) -> Result<Attested, Stopped> {
        let (attestor, mesh) = (self.attestor.clone(), self.mesh.borrow().clone());
        let (origin, svid) = (peer.origin, peer.svid.clone());
        let presented_id = svid.as_ref().map(|svid| svid.id().clone());
        if svid.is_some() && !self.authority.may_renew(peer) {
            return Err(Stopped::Denied(Denied::Untrusted, presented_id));
        }
        let attested = tokio::task::spawn_blocking(move || {
            let presented = Presented { join_token: &join_token, svid: svid.as_deref(), origin };
            attestor.attest(&presented, &mesh, now())
        });
        attested.await.map_err(|error| self.failed(None, Code::StateUnusable, &error))?.map_err(|error| {
            match error {
                AttestError::Refused(refusal, proven) => {
                    Stopped::Denied(refusal.into(), proven.or(presented_id))
                }
                AttestError::Tokens(error) => self.failed(None, Code::StateUnusable, &error),
            }
        })
    }

    /// The use of the proof is counted first and given back if nothing comes of it: a token for one use brings one
    /// certificate at most.
    async fn sign(&self, attested: Attested, key: ProvenKey, peer: &Peer) -> Result<Issued, Stopped> {
        let (authority, attestor) = (self.authority.clone(), self.attestor.clone());
        let source = peer.origin.source();
        let (life, caller) = (self.mesh.borrow().config.leaf_life, peer.origin.to_string());
        let Attested { identity, attestor: proof, evidence, .. } = attested.clone();
        let (for_whom, on_evidence) = (identity.clone(), evidence.clone());
        let signed = tokio::task::spawn_blocking(move || {
            let taken = attestor.take(&attested, source, now()).map_err(NotSigned::Proof)?;
            let new_source = taken == Taken::NewSource;
            let order = Order {
                identity: for_whom,
                key,
                life,
                attestor: proof,
                evidence: on_evidence,
                caller,
                new_source,
            };
            let issued = authority.issue(&order).inspect_err(|_| attestor.give_back(&attested));
            Ok((issued.map_err(NotSigned::Issue)?, new_source))
        });
        let signed =
            signed.await.map_err(|error| self.failed(Some(&identity), Code::StateUnusable, &error))?;
        let (issued, new_source) = signed.map_err(|error| match error {
            NotSigned::Proof(AttestError::Refused(refusal, proven)) => {
                Stopped::Denied(refusal.into(), proven)
            }
            NotSigned::Proof(AttestError::Tokens(error)) => {
                self.failed(Some(&identity), Code::StateUnusable, &error)
            }
            NotSigned::Issue(error) => self.failed(Some(&identity), error.code(), &error),
        })?;
        if new_source {
            self.metrics.new_source();
            tracing::warn!(code = %Code::JoinTokenNewSource, %identity, token = evidence, address = %peer.origin, "a join token was used from a new address");
        }
        self.metrics.issuance("issued");
        tracing::info!(%identity, attestor = proof, not_after = clock::rfc3339_of(issued.not_after), "certificate issued");
        Ok(issued)
    }

    /// Counts, logs and records it; the answer is the status.
    async fn refuse(&self, denied: Denied, identity: Option<&SpiffeId>, peer: &Peer) -> Status {
        let (code, reason) = (denied.code(), denied.reason());
        self.metrics.issuance(reason);
        let identity = identity.map(ToString::to_string);
        tracing::warn!(%code, address = %peer.origin, reason, identity, error = %denied, "certificate refused");
        let refused = Refused {
            code: code.id().to_owned(),
            reason: reason.to_owned(),
            identity,
            caller: peer.origin.to_string(),
        };
        if let Err(unrecorded) = self.record(refused).await {
            self.metrics.refusal_unrecorded(unrecorded);
        }
        denied.status()
    }

    /// Or why it is not on record, as the metric says it.
    async fn record(&self, refused: Refused) -> Result<(), &'static str> {
        if !self.refused.take((), Instant::now()) {
            return Err("rate");
        }
        let authority = self.authority.clone();
        let recorded = tokio::task::spawn_blocking(move || authority.refused(refused)).await;
        let failed = |error: &dyn std::fmt::Display| {
            tracing::error!(code = %Code::RegistryUnwritable, %error, "a refusal is not on record");
            "failed"
        };
        recorded.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }

    /// Nothing that the caller could do otherwise.
    fn failed(&self, identity: Option<&SpiffeId>, code: Code, error: &impl std::fmt::Display) -> Stopped {
        self.metrics.issuance("failed");
        let identity = identity.map(ToString::to_string);
        tracing::error!(%code, identity, %error, "cannot issue");
        Stopped::Unable(Status::unavailable(format!("{code}: cannot issue now; retry")))
    }
}

/// No certificate comes of a request.
enum Stopped {
    /// By the caller's doing; with its identity, if it proved one.
    Denied(Denied, Option<SpiffeId>),
    /// The control plane's own fault; logged already.
    Unable(Status),
}

enum NotSigned {
    Proof(AttestError),
    Issue(IssueError),
}

fn now() -> Moment {
    Moment { ms: clock::now_ms(), instant: Instant::now() }
}

/// Why a caller gets no certificate: its own doing.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("{0}")]
    Caller(#[from] Refusal),
    #[error("{0}")]
    Request(#[from] CsrError),
    #[error(
        "the root of the presented certificate is trusted no longer, or it is tainted and did not issue it on record"
    )]
    Untrusted,
    #[error("over the issue rate of this identity; wait")]
    Rate,
}

impl Denied {
    fn code(&self) -> Code {
        match self {
            Self::Caller(refusal) => refusal.code(),
            Self::Untrusted => Code::UntrustedCertificate,
            Self::Request(_) | Self::Rate => Code::IssuanceRefused,
        }
    }

    /// The metric's label.
    fn reason(&self) -> &'static str {
        match self {
            Self::Caller(refusal) => refusal.reason(),
            Self::Untrusted => "untrusted",
            Self::Request(_) => "bad_request",
            Self::Rate => "rate_limited",
        }
    }

    fn status(&self) -> Status {
        let message = format!("{}: {self}", self.code());
        match self {
            Self::Caller(_) | Self::Untrusted => Status::unauthenticated(message),
            Self::Request(_) => Status::invalid_argument(message),
            Self::Rate => Status::resource_exhausted(message),
        }
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let peer = server::peer(&request)?;
        let issued = match self.answer(&peer, request.into_inner()).await {
            Ok(issued) => issued,
            Err(Stopped::Denied(denied, identity)) => {
                return Err(self.refuse(denied, identity.as_ref(), &peer).await);
            }
            Err(Stopped::Unable(status)) => return Err(status),
        };
        let trust = self.authority.trust().borrow().clone();
        let trust_bundles = trust.bundles.iter().map(resource::trust_bundle).collect();
        Ok(Response::new(IssueResponse {
            certificate_chain: issued.chain.iter().map(|certificate| certificate.to_vec()).collect(),
            trust_bundles,
            issued_at_ms: i64::try_from(issued.at_ms).unwrap_or(i64::MAX),
        }))
    }
}

/// Enough for the restart of a service's whole fleet, too little to fill the registry.
const PER_IDENTITY: Rate = Rate { burst: 200.0, per_second: 20.0 };
/// An attack fills the log, not the registry: at this rate refusals are some 600 MB in the default retention.
const RECORDED_REFUSALS: Rate = Rate { burst: 500.0, per_second: 0.2 };
