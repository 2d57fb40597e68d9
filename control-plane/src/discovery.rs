//! Tells each sidecar what it needs. A stream begins with a checked Hello, sends the difference between what the mesh
//! wants the sidecar to have and what it holds, and waits for its answer before it sends again. It ends with the
//! caller's certificate, with the service in `mesh.yaml`, or when a newer stream of the same instance begins.

mod desired;
pub(crate) mod hello;
mod session;

use std::{collections::BTreeSet, mem, sync::Arc, time::Duration};

use sidegate_codes::Code;
use sidegate_identity::SpiffeId;
use sidegate_proto::v1::{SubscribeRequest, Update, discovery_server::Discovery, subscribe_request::Message};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};

use self::{
    desired::Desired,
    hello::Hello,
    session::{Answer, Session},
};
use crate::{
    ca::{Authority, Trust},
    mesh::{Mesh, Views},
    metrics::Metrics,
    proxies::{Certificate, Nack, Proxies, Subscription, Watched},
    resource::Renewal,
    server::{self, VerifiedPeer},
};

/// The gRPC service.
#[derive(Clone)]
pub(crate) struct DiscoveryService {
    pub(crate) authority: Arc<Authority>,
    pub(crate) views: Arc<Views>,
    pub(crate) proxies: Arc<Proxies>,
    pub(crate) metrics: Arc<Metrics>,
    /// Owns every stream's task.
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// Until then, sidecars may only not have registered yet.
    pub(crate) settled_at: Instant,
}

#[tonic::async_trait]
impl Discovery for DiscoveryService {
    type SubscribeStream = ReceiverStream<Result<Update, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let peer = server::verified_peer(&request)?;
        let (updates, stream) = mpsc::channel(1);
        // The answer begins before the Hello comes: some clients send nothing until it has.
        self.tasks.spawn(self.clone().attend(peer, request.into_inner(), updates));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl DiscoveryService {
    async fn attend(
        self,
        peer: VerifiedPeer,
        mut inbound: Streaming<SubscribeRequest>,
        updates: mpsc::Sender<Result<Update, Status>>,
    ) {
        let stop = self.stop.clone();
        match stop.run_until_cancelled(first_message(&mut inbound, &peer)).await {
            None => {}
            Some(hello) => match hello.and_then(|hello| self.enter(&peer, hello, updates.clone())) {
                Ok(conversation) => conversation.run(inbound).await,
                Err(status) => {
                    tracing::warn!(identity = %peer.id(), reason = status.message(), "not subscribed");
                    drop(updates.try_send(Err(status)));
                }
            },
        }
    }

    /// Enters the sidecar into the registry; its endpoints are known from here on.
    fn enter(
        &self,
        peer: &VerifiedPeer,
        mut hello: Hello,
        updates: mpsc::Sender<Result<Update, Status>>,
    ) -> Result<Conversation, Status> {
        let mesh = self.views.follow(peer.id()).ok_or_else(|| not_in_mesh(peer.id()))?;
        let held = mem::take(&mut hello.held);
        let bundle = held.get(&mesh.borrow().trust.resource.name).cloned();
        let hello = Arc::new(hello);
        let subscription = self
            .proxies
            .subscribe(peer.peer(), peer.id(), certificate(peer), hello.clone(), bundle)
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        tracing::info!(identity = %peer.id(), instance = hello.instance, address = %peer.peer().origin,
            "sidecar subscribed");
        Ok(Conversation {
            mesh,
            endpoints: self.proxies.watch(BTreeSet::new()),
            proxies: self.proxies.clone(),
            metrics: self.metrics.clone(),
            stop: self.stop.clone(),
            settled_at: self.settled_at,
            is_settled: Instant::now() >= self.settled_at,
            session: Session::new(held, subscription.last_sent()),
            identity: peer.id().clone(),
            issuer: self.authority.issuer_of(&crate::hex::encode(peer.svid().serial())),
            trust: None,
            peer: peer.clone(),
            ends_at: peer.ends_at(),
            hello,
            decided: None,
            is_due: true,
            told_until: Instant::now(),
            gathered_at: Instant::now(),
            subscription,
            updates,
        })
    }
}

/// One sidecar's stream.
struct Conversation {
    /// Woken by what concerns this identity.
    mesh: watch::Receiver<Arc<Mesh>>,
    proxies: Arc<Proxies>,
    /// Of the services that the sidecar calls, as the mesh has had them since it was news.
    endpoints: Watched,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    settled_at: Instant,
    is_settled: bool,
    session: Session,
    identity: SpiffeId,
    /// The root of the caller's certificate; `None`: the registry does not have it.
    issuer: Option<String>,
    /// The roots that vouch for the caller, as far as this stream has looked.
    trust: Option<Arc<Trust>>,
    peer: VerifiedPeer,
    hello: Arc<Hello>,
    /// What the mesh alone decides: not made anew until it is news.
    decided: Option<Desired>,
    /// Whether the sidecar may have to be told something.
    is_due: bool,
    /// What updates so far have used of one each `GATHER`.
    told_until: Instant,
    /// Until then changes of endpoints are gathered.
    gathered_at: Instant,
    /// When the caller's certificate ends.
    ends_at: Instant,
    subscription: Subscription,
    updates: mpsc::Sender<Result<Update, Status>>,
}

/// Why a stream ended.
enum End {
    /// The sidecar closed its side: it is going away.
    Orderly,
    /// The connection broke.
    Lost,
    /// This side ends it, and says why.
    Refused(Status),
}

impl Conversation {
    async fn run(mut self, inbound: Streaming<SubscribeRequest>) {
        let end = self.converse(inbound).await;
        let (identity, instance) = (&self.identity, &self.hello.instance);
        match end {
            End::Orderly => {
                tracing::info!(%identity, instance, "sidecar left");
                self.subscription.end();
            }
            End::Lost => tracing::warn!(%identity, instance, "sidecar's stream lost"),
            End::Refused(status) => {
                tracing::info!(%identity, instance, reason = status.message(), "sidecar's stream ended");
                drop(self.updates.try_send(Err(status)));
            }
        }
    }

    async fn converse(&mut self, mut inbound: Streaming<SubscribeRequest>) -> End {
        loop {
            if let Err(end) = self.send_what_is_due() {
                return end;
            }
            tokio::select! {
                // What ends the stream comes first: no update overtakes it.
                biased;
                () = self.stop.cancelled() => return refused(Status::unavailable("the control plane is stopping")),
                () = self.subscription.superseded() => {
                    return refused(Status::aborted("a newer stream of this instance took its place"));
                }
                () = sleep_until(self.ends_at) => return refused(certificate_ended()),
                () = sleep_until(self.session.answer_due()), if self.session.awaits_answer() => {
                    return refused(Status::deadline_exceeded("an update was not answered in time"));
                }
                message = inbound.message() => match message {
                    Ok(Some(message)) => if let Err(status) = self.receive(message) {
                        return refused(status);
                    },
                    Ok(None) => return End::Orderly,
                    Err(_) => return End::Lost,
                },
                Ok(()) = self.mesh.changed() => {
                    // It counts as seen from here on.
                    self.decided = None;
                    self.is_due = true;
                }
                () = self.endpoints.changed(self.gathered_at) => self.is_due = true,
                () = sleep_until(self.settled_at), if !self.is_settled => {
                    self.is_settled = true;
                    self.is_due = true;
                }
            }
        }
    }

    /// Sends the next Update unless one is unanswered or nothing differs.
    fn send_what_is_due(&mut self) -> Result<(), End> {
        if !self.is_due || self.session.awaits_answer() {
            return Ok(());
        }
        self.is_due = false;
        let now = Instant::now();
        let desired = self.desired().map_err(refused)?;
        let Some(update) = self.session.next(&desired, now) else {
            return Ok(());
        };
        self.told_until = self.told_until.max(now) + GATHER;
        self.gathered_at = self.told_until.checked_sub(GATHER * AT_ONCE).unwrap_or(now);
        self.subscription.sent(update.version);
        self.metrics.update("sent");
        // The channel holds one, and the one before was answered: it is never full.
        self.updates.try_send(Ok(update)).map_err(|_| End::Lost)
    }

    /// Refused: the caller is no service of the mesh any more, or in quarantine.
    fn desired(&mut self) -> Result<Desired, Status> {
        let mesh = {
            let mesh = self.mesh.borrow_and_update();
            if mesh.has_changed() {
                self.decided = None;
            }
            Arc::clone(&mesh)
        };
        if mesh.quarantine.quarantine.refuses(self.peer.svid()) {
            return Err(quarantined(&self.identity));
        }
        if !self.trust.as_ref().is_some_and(|trust| Arc::ptr_eq(trust, &mesh.trust)) {
            if !self.peer.peer().is_vouched_for(&mesh.trust) {
                return Err(untrusted());
            }
            self.trust = Some(mesh.trust.clone());
        }
        if self.decided.is_none() {
            self.endpoints = self.proxies.watch(called(&mesh, &self.hello));
            self.decided = Desired::of_mesh(&mesh, &self.identity, self.renewal(&mesh).as_ref());
        }
        let decided = self.decided.clone().ok_or_else(|| not_in_mesh(&self.identity))?;
        let endpoints = self.endpoints.endpoints();
        let may_keep = |name: &str| !self.is_settled && self.session.holds_from_before(name);
        Ok(decided.with_services(&mesh, &endpoints, &self.hello.services, may_keep))
    }

    /// Another root signs than the one of the caller's certificate.
    fn renewal(&self, mesh: &Mesh) -> Option<Renewal> {
        let issuer = self.issuer.as_ref()?;
        (*issuer != mesh.trust.signing).then(|| Renewal {
            serial: crate::hex::encode(self.peer.svid().serial()),
            within: if mesh.trust.is_urgent { Duration::ZERO } else { mesh.config.leaf_life / 10 },
        })
    }

    fn receive(&mut self, request: SubscribeRequest) -> Result<(), Status> {
        let answer = match request.message {
            Some(Message::Ack(ack)) => Answer::Ack(ack.version),
            Some(Message::Nack(nack)) => Answer::Nack(hello::checked_nack(nack)),
            Some(Message::Hello(_)) | None => {
                return Err(Status::invalid_argument("expected an Ack or a Nack"));
            }
        };
        self.session.answer(&answer).map_err(Status::invalid_argument)?;
        match answer {
            Answer::Ack(version) => {
                self.metrics.update("acked");
                let bundle = self.session.held(&self.mesh.borrow().trust.resource.name).cloned();
                self.subscription.acked(version, bundle);
            }
            Answer::Nack(nack) => self.refused_by_sidecar(nack),
        }
        Ok(())
    }

    fn refused_by_sidecar(&self, nack: Nack) {
        self.metrics.update("nacked");
        tracing::error!(code = %Code::SnapshotRefused, identity = %self.identity, version = nack.version,
            path = nack.path, reason = nack.code, message = nack.message, "a sidecar refused an update");
        self.subscription.nacked(nack);
    }
}

/// Whose endpoints the sidecar is told.
fn called(mesh: &Mesh, hello: &Hello) -> BTreeSet<SpiffeId> {
    let services = hello.services.iter().filter_map(|name| mesh.config.service(name));
    services.map(|service| service.identity.clone()).collect()
}

async fn first_message(
    inbound: &mut Streaming<SubscribeRequest>,
    peer: &VerifiedPeer,
) -> Result<Hello, Status> {
    let first = timeout(HELLO_TIMEOUT, inbound.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no Hello in time"))??;
    match first.and_then(|request| request.message) {
        Some(Message::Hello(hello)) => Hello::check(hello, peer.peer().origin.ip())
            .map_err(|error| Status::invalid_argument(error.to_string())),
        _ => Err(Status::invalid_argument("the first message is a Hello")),
    }
}

fn certificate(peer: &VerifiedPeer) -> Certificate {
    let svid = peer.svid();
    let issued_at_ms = svid.issued_at().map(|moment| moment.as_secs().saturating_mul(1000));
    Certificate { serial: crate::hex::encode(svid.serial()), issued_at_ms, not_after: svid.not_after() }
}

fn refused(status: Status) -> End {
    End::Refused(status)
}

fn certificate_ended() -> Status {
    Status::unauthenticated(format!("{}: the client certificate has ended", Code::PeerCertificateEnded))
}

fn untrusted() -> Status {
    let code = Code::UntrustedCertificate;
    Status::unauthenticated(format!("{code}: the root of the client certificate is trusted no longer"))
}

fn not_in_mesh(identity: &SpiffeId) -> Status {
    Status::permission_denied(format!("{}: {identity} is not a service of this mesh", Code::IssuanceRefused))
}

fn quarantined(identity: &SpiffeId) -> Status {
    Status::permission_denied(format!("{}: {identity} is in quarantine", Code::IdentityQuarantined))
}

/// Changes of endpoints are told at once, up to `AT_ONCE` updates in a row, and then together for as long: when hundreds of
/// sidecars come at once, their callers are not told of each.
const GATHER: Duration = Duration::from_millis(500);
const AT_ONCE: u32 = 4;
/// The Hello follows the call at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
