//! The gRPC service that issues certificates: attest, check the request, keep to the rate, sign. What the caller gets
//! wrong is told to it by code and reason; a token is in no message and no log line.

use std::{sync::Arc, time::Instant};

use sidegate_codes::Code;
use sidegate_identity::SpiffeId;
use sidegate_proto::v1::{IssueRequest, IssueResponse, identity_server::Identity};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{
    attest::{Attested, Attestor, Presented},
    ca::{Authority, Issued, Order, csr::ProvenKey},
    clock,
    mesh::Mesh,
    metrics::Metrics,
    rate::{Buckets, Rate},
    resource,
    server::{self, Peer},
};

/// The gRPC service.
#[derive(Clone)]
pub(crate) struct IdentityService {
    authority: Arc<Authority>,
    attestor: Arc<Attestor>,
    issued: Arc<Buckets<SpiffeId>>,
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
        Self { authority, attestor, issued, mesh, metrics }
    }

    fn attest(&self, peer: &Peer, join_token: &str) -> Result<Attested, Status> {
        let presented =
            Presented { join_token, svid: peer.svid.as_deref(), source: peer.address.ip().to_canonical() };
        let mesh = self.mesh.borrow().clone();
        let unix_seconds = clock::now_ms() / 1000;
        self.attestor.attest(&presented, &mesh, unix_seconds, Instant::now()).map_err(|refusal| {
            self.metrics.issuance(refusal.reason());
            let code = refusal.code();
            tracing::warn!(%code, address = %peer.address, reason = refusal.reason(),
                identity = peer.svid.as_ref().map(|svid| svid.id().as_str()), "caller not attested");
            Status::unauthenticated(format!("{code}: {refusal}"))
        })
    }

    fn order(&self, attested: Attested, csr: &[u8], peer: &Peer) -> Result<Order, Status> {
        let key = ProvenKey::from_csr(csr).map_err(|error| {
            self.metrics.issuance("bad_request");
            tracing::warn!(code = %Code::IssuanceRefused, identity = %attested.identity, %error, "request refused");
            Status::invalid_argument(format!("{}: {error}", Code::IssuanceRefused))
        })?;
        if !self.issued.take(attested.identity.clone(), Instant::now()) {
            self.metrics.issuance("rate_limited");
            tracing::warn!(code = %Code::IssuanceRefused, identity = %attested.identity, "over the issue rate");
            return Err(Status::resource_exhausted("over the issue rate of this identity; wait"));
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

    async fn sign(&self, order: Order) -> Result<Issued, Status> {
        let authority = self.authority.clone();
        let (identity, attestor) = (order.identity.clone(), order.attestor);
        let issued = tokio::task::spawn_blocking(move || authority.issue(&order))
            .await
            .map_err(|error| self.not_signed(&identity, &error))?
            .map_err(|error| self.not_signed(&identity, &error))?;
        self.metrics.issuance("issued");
        tracing::info!(%identity, attestor, not_after = clock::rfc3339_of(issued.not_after), "certificate issued");
        Ok(issued)
    }

    fn not_signed(&self, identity: &SpiffeId, error: &impl std::fmt::Display) -> Status {
        self.metrics.issuance("failed");
        tracing::error!(code = %Code::StateUnusable, %identity, %error, "cannot issue");
        Status::unavailable("cannot issue now; retry")
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let peer = server::peer(&request)?;
        let message = request.into_inner();
        let attested = self.attest(&peer, &message.join_token)?;
        let order = self.order(attested, &message.csr, &peer)?;
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
