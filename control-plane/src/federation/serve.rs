//! The own bundle for whoever federates with this mesh, by the profile `https_spiffe` (SPIFFE Federation §5.2.2): one document over
//! TLS under the control plane's own SVID. It is public, so callers need no certificate; they get this and nothing else.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::published;
use crate::mesh::Mesh;

/// The open port.
pub(crate) struct BundleEndpoint {
    pub(crate) listener: TcpListener,
    /// The newest of the control plane's own credentials.
    pub(crate) tls: watch::Receiver<Arc<ServerConfig>>,
    pub(crate) mesh: watch::Receiver<Arc<Mesh>>,
    /// Owns the connections.
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl BundleEndpoint {
    /// Serves until `stop`.
    pub(crate) async fn run(self) {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                // Above the limit a connection is closed: whoever polls comes again.
                Ok((stream, _)) => {
                    if let Ok(place) = places.clone().try_acquire_owned() {
                        let (tls, mesh, stop) = (self.tls(), self.mesh.clone(), self.stop.clone());
                        self.tasks.spawn(async move {
                            let served = timeout(LONGEST, serve(stream, tls, mesh));
                            let _ = stop.run_until_cancelled(served).await;
                            drop(place);
                        });
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The same credentials, and HTTP/1.1.
    fn tls(&self) -> TlsAcceptor {
        let mut config = ServerConfig::clone(&self.tls.borrow());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, mesh: watch::Receiver<Arc<Mesh>>) {
    let Ok(stream) = tls.accept(stream).await else { return };
    let service = service_fn(move |request| {
        let answer = answer(&request, &mesh.borrow());
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut server = http1::Builder::new();
    let server = server.timer(TokioTimer::new()).header_read_timeout(LONGEST).keep_alive(false);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection for the bundle broke");
    }
}

fn answer(request: &Request<Incoming>, mesh: &Mesh) -> Response<Full<Bytes>> {
    let text = |status, text: String| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    };
    if request.method() != Method::GET || request.uri().path() != PATH {
        return text(StatusCode::NOT_FOUND, format!("only GET {PATH}\n"));
    }
    match published(mesh) {
        Some(document) => {
            let mut response = text(StatusCode::OK, document.to_string());
            let json = hyper::header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        }
        None => {
            text(StatusCode::NOT_IMPLEMENTED, "an authority's key has no form in this document\n".to_owned())
        }
    }
}

/// The same as at the operator's API.
const PATH: &str = "/spiffe/bundle.json";
const MOST_CONNECTIONS: usize = 64;
/// One request takes no longer, handshake included.
const LONGEST: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
