//! The gRPC service that issues certificates: attest, check the request, keep to the rate, sign. What the caller gets
//! wrong is told to it by code and reason; a token is in no message and no log line.

use std::{sync::Arc, time::Instant};

use sidegate_codes::Code;
use sidegate_identity::SpiffeId;
use sidegate_proto::v1::{IssueRequest, IssueResponse, identity_server::Identity};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{
    attest::{Attested, Attestor, Presented, Refusal},
    ca::{
        Authority, Issued, Order,
        csr::{CsrError, ProvenKey},
    },
    clock,
    mesh::Mesh,
    metrics::Metrics,
    rate::{Buckets, Rate},
    registry::Refused,
    resource,
    server::{self, Peer},
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
        mesh: watch::Receiver<Arc<Mesh>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (attestor, issued) = (Arc::new(Attestor::new()), Arc::new(Buckets::new(PER_IDENTITY)));
        let refused = Arc::new(Buckets::new(RECORDED_REFUSALS));
        Self { authority, attestor, issued, refused, mesh, metrics }
    }

    fn attest(&self, peer: &Peer, join_token: &str) -> Result<Attested, Denied> {
        let presented =
            Presented { join_token, svid: peer.svid.as_deref(), source: peer.address.ip().to_canonical() };
        let mesh = self.mesh.borrow().clone();
        let unix_seconds = clock::now_ms() / 1000;
        Ok(self.attestor.attest(&presented, &mesh, unix_seconds, Instant::now())?)
    }

    fn order(&self, attested: Attested, csr: &[u8], peer: &Peer) -> Result<Order, Denied> {
        let key = ProvenKey::from_csr(csr)?;
        if !self.issued.take(attested.identity.clone(), Instant::now()) {
            return Err(Denied::Rate);
        }
        Ok(Order {
            identity: attested.identity,
            key,
            life: self.mesh.borrow().config.leaf_life,
            attestor: attested.attestor,
            evidence: attested.evidence,
            caller: peer.address.to_string(),
        })
    }

    /// Counts, logs and records it; the answer is the status.
    async fn refuse(&self, denied: Denied, identity: Option<&SpiffeId>, peer: &Peer) -> Status {
        let (code, reason) = (denied.code(), denied.reason());
        self.metrics.issuance(reason);
        let identity = identity.map(ToString::to_string);
        tracing::warn!(%code, address = %peer.address, reason, identity, error = %denied, "certificate refused");
        let refused = Refused {
            code: code.id().to_owned(),
            reason: reason.to_owned(),
            identity,
            caller: peer.address.to_string(),
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

    async fn sign(&self, order: Order) -> Result<Issued, Status> {
        let authority = self.authority.clone();
        let (identity, attestor) = (order.identity.clone(), order.attestor);
        let issued = tokio::task::spawn_blocking(move || authority.issue(&order))
            .await
            .map_err(|error| self.not_signed(&identity, Code::StateUnusable, &error))?
            .map_err(|error| self.not_signed(&identity, error.code(), &error))?;
        self.metrics.issuance("issued");
        tracing::info!(%identity, attestor, not_after = clock::rfc3339_of(issued.not_after), "certificate issued");
        Ok(issued)
    }

    fn not_signed(&self, identity: &SpiffeId, code: Code, error: &impl std::fmt::Display) -> Status {
        self.metrics.issuance("failed");
        tracing::error!(%code, %identity, %error, "cannot issue");
        Status::unavailable(format!("{code}: cannot issue now; retry"))
    }
}

/// Why a caller gets no certificate: its own doing.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("{0}")]
    Caller(#[from] Refusal),
    #[error("{0}")]
    Request(#[from] CsrError),
    #[error("over the issue rate of this identity; wait")]
    Rate,
}

impl Denied {
    fn code(&self) -> Code {
        match self {
            Self::Caller(refusal) => refusal.code(),
            Self::Request(_) | Self::Rate => Code::IssuanceRefused,
        }
    }

    /// The metric's label.
    fn reason(&self) -> &'static str {
        match self {
            Self::Caller(refusal) => refusal.reason(),
            Self::Request(_) => "bad_request",
            Self::Rate => "rate_limited",
        }
    }

    fn status(&self) -> Status {
        let message = format!("{}: {self}", self.code());
        match self {
            Self::Caller(_) => Status::unauthenticated(message),
            Self::Request(_) => Status::invalid_argument(message),
            Self::Rate => Status::resource_exhausted(message),
        }
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let peer = server::peer(&request)?;
        let message = request.into_inner();
        let attested = match self.attest(&peer, &message.join_token) {
            Ok(attested) => attested,
            Err(denied) => {
                let presented = peer.svid.as_ref().map(|svid| svid.id());
                return Err(self.refuse(denied, presented, &peer).await);
            }
        };
        let identity = attested.identity.clone();
        let order = match self.order(attested, &message.csr, &peer) {
            Ok(order) => order,
            Err(denied) => return Err(self.refuse(denied, Some(&identity), &peer).await),
        };
        let issued = self.sign(order).await?;
        let trust_bundles = self.authority.bundles().iter().map(resource::trust_bundle).collect();
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
