//! The SPIFFE Workload API (X.509-SVID profile), served to the application on a unix socket: its own SVID with the private
//! key, and the bundles of whomever this sidecar trusts, again whenever they change.
//!
//! Receives connections, which are of the configured users or are closed; hands on what is in force; refuses requests
//! without the standard's header, without an identity to give, and beyond the limits below. Whoever is answered here has
//! the workload's key: users are told apart by what the kernel says of them and by nothing that they say.

mod authority;
mod grant;
mod socket;

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::Stream;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sidegate_codes::Code;
use sidegate_proto::workload::{
    X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::Instant,
};
use tonic::{Request, Response, Status, codegen::Service as _, metadata::MetadataMap};

use crate::{config::Users, snapshot::Reader, telemetry::Metrics};

use authority::Readable;
use grant::{Bundles, Grant, Svid, Ungranted};

pub(crate) use socket::{Socket, SocketError};

/// What is answered from.
pub(crate) struct Endpoint {
    pub(crate) mesh: Reader,
    pub(crate) users: Users,
    pub(crate) metrics: Arc<Metrics>,
}

/// The two methods; the generated code answers every other one with Unimplemented, those of the JWT profile too.
struct Api {
    mesh: Reader,
    metrics: Arc<Metrics>,
    streams: Arc<Semaphore>,
}

/// An open stream's place, counted for as long as it is held.
struct Place {
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
}

/// Serves until dropped.
pub(crate) async fn run(socket: Socket, endpoint: Endpoint) {
    let Endpoint { mesh, users, metrics } = endpoint;
    let api = Api { mesh, metrics: Arc::clone(&metrics), streams: Arc::new(Semaphore::new(MOST_STREAMS)) };
    let server = SpiffeWorkloadApiServer::new(api).max_decoding_message_size(MOST_REQUEST_BYTES);
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut refusals = Refusals { metrics, said: None };
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match socket.listener().accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept failed on the socket of the Workload API");
                tokio::time::sleep(BACK_OFF).await;
                continue;
            }
        };
        if !refusals.admits(&users, &stream) {
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            refusals.metrics.workload_refusals.add("connections");
            continue;
        };
        connections.spawn(serve(stream, server.clone(), place));
    }
}

async fn serve(stream: UnixStream, server: SpiffeWorkloadApiServer<Api>, _place: OwnedSemaphorePermit) {
    let service = service_fn(move |request| server.clone().call(request));
    let ended = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(MOST_HEADER_BYTES)
        .serve_connection(TokioIo::new(Readable::new(stream)), service);
    if let Err(error) = ended.await {
        tracing::debug!(%error, "a connection to the Workload API broke");
    }
}

/// Connections that are closed unanswered.
struct Refusals {
    metrics: Arc<Metrics>,
    /// When the last one was logged: a program that tries again and again does not fill the log.
    said: Option<Instant>,
}

impl Refusals {
    /// Whether the process at the other end is of one of `users`. The kernel noted its user when it connected.
    fn admits(&mut self, users: &Users, stream: &UnixStream) -> bool {
        let user = stream.peer_cred().map(|peer| peer.uid());
        let is_admitted = user.as_ref().is_ok_and(|user| match users {
            Users::Own => *user == rustix::process::geteuid().as_raw(),
            Users::These(users) => users.contains(user),
        });
        if !is_admitted {
            self.metrics.workload_refusals.add("user");
            if self.said.is_none_or(|said| said.elapsed() >= BETWEEN_LINES) {
                self.said = Some(Instant::now());
                let code = Code::WorkloadApiCallerRefused;
                tracing::warn!(%code, user = user.ok(), "a caller of the Workload API is not one of its users");
            }
        }
        is_admitted
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.answer::<Svid>(request.metadata())
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.answer::<Bundles>(request.metadata())
    }
}

/// What is in force, and then each change of it.
type Answers<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

impl Api {
    fn answer<G: Grant>(&self, metadata: &MetadataMap) -> Result<Response<Answers<G::Message>>, Status> {
        self.begin::<G>(metadata).inspect_err(|refused| {
            let reason = match refused.code() {
                tonic::Code::InvalidArgument => "header",
                tonic::Code::ResourceExhausted => "streams",
                _ => "identity",
            };
            self.metrics.workload_refusals.add(reason);
        })
    }

    fn begin<G: Grant>(&self, metadata: &MetadataMap) -> Result<Response<Answers<G::Message>>, Status> {
        // Workload Endpoint §3: keeps somebody who can make a program send requests from asking in its name.
        if metadata.get(HEADER).is_none_or(|value| value != "true") {
            return Err(Status::invalid_argument("the header `workload.spiffe.io: true` is missing"));
        }
        let place = Place::take(&self.streams, &self.metrics)?;
        let mesh = self.mesh.clone();
        let first = G::of(&mesh.load()).map_err(Ungranted::at_first)?;
        Ok(Response::new(Box::pin(grant::follow(mesh, first, place))))
    }
}

impl Place {
    fn take(streams: &Arc<Semaphore>, metrics: &Arc<Metrics>) -> Result<Self, Status> {
        let permit = Arc::clone(streams).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("there are {MOST_STREAMS} open streams already"))
        })?;
        metrics.workload_streams.fetch_add(1, Ordering::Relaxed);
        Ok(Self { metrics: Arc::clone(metrics), _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.workload_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

const HEADER: &str = "workload.spiffe.io";
/// An application needs one, and perhaps one more for each of its processes.
const MOST_CONNECTIONS: usize = 64;
/// Over all connections.
const MOST_STREAMS: usize = 64;
/// More than [`MOST_STREAMS`], so that a client that opens too many is told so and does not wait.
const STREAMS_PER_CONNECTION: u32 = 100;
const MOST_HEADER_BYTES: u32 = 8 * 1024;
/// Both requests are empty messages.
const MOST_REQUEST_BYTES: usize = 1024;
const BACK_OFF: Duration = Duration::from_millis(100);
const BETWEEN_LINES: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
