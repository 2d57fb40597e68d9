//! `/livez`, `/readyz` and `/metrics` for the platform; nothing else, and nothing that changes anything.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::UnixTime;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

use crate::{
    drain::DrainWatch,
    snapshot::Reader,
    telemetry::{AccessLog, Edges, Metrics, metrics},
};

/// What the three pages are read from.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) mesh: Reader,
    pub(crate) drain: DrainWatch,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) edges: Edges,
    pub(crate) access_log: AccessLog,
}

/// Serves until dropped.
pub(crate) async fn run(listener: TcpListener, admin: Admin) {
    let admin = Arc::new(admin);
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((tcp, _)) => {
                let admin = Arc::clone(&admin);
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let page = page(&request, &admin);
                        async move { Ok::<_, Infallible>(page) }
                    });
                    let served = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_TIMEOUT)
                        .serve_connection(TokioIo::new(tcp), service);
                    if let Err(error) = served.await {
                        tracing::debug!(%error, "admin connection broke");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed on the admin port");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

fn page(request: &Request<Incoming>, admin: &Admin) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "live\n".to_owned()),
        "/readyz" => match admin.unready() {
            None => text(StatusCode::OK, "ready\n".to_owned()),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        },
        "/metrics" => match metrics::render(&admin.metrics, &admin.edges, &admin.access_log) {
            Ok(exposition) => {
                let mut response = text(StatusCode::OK, exposition);
                response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(OPEN_METRICS));
                response
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "only /livez, /readyz and /metrics\n".to_owned()),
    }
}

impl Admin {
    /// Why this sidecar should get no traffic now.
    fn unready(&self) -> Option<&'static str> {
        let snapshot = self.mesh.load();
        if self.drain.has_begun() {
            return Some("shutting down");
        }
        match &snapshot.secured {
            None => Some("no certificate yet"),
            Some(secured) if secured.credentials.svid().not_after() <= UnixTime::now() => {
                Some("the certificate has expired")
            }
            Some(_) if !snapshot.is_complete => Some("no policies and services yet"),
            Some(_) => None,
        }
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const MOST_CONNECTIONS: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const BACK_OFF: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        time::Instant,
    };

    use super::*;
    use crate::{config::Config, drain::Drain, snapshot::Publisher};

    fn admin(drain: &Drain) -> Admin {
        let text = "trustDomain: shop.test\n\
            workload: {namespace: shop, serviceAccount: payments}\n\
            controlPlane: {address: '127.0.0.1:1', trustBundle: root.pem}\n\
            inbound: [{listen: '127.0.0.1:0', forward: '127.0.0.1:80'}]\n";
        let config = Config::parse(std::path::Path::new("proxy.yaml"), text).unwrap();
        let metrics = Arc::<Metrics>::default();
        Admin {
            mesh: Publisher::new(config, Arc::clone(&metrics)).reader(),
            drain: drain.watch(),
            metrics,
            edges: Edges::new(1, 8),
            access_log: AccessLog::off(),
        }
    }

    #[tokio::test]
    async fn connections_that_say_nothing_keep_the_admin_port_for_ten_seconds_and_no_longer() {
        let drain = Drain::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _serving = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(run(listener, admin(&drain))));
        let began = Instant::now();
        let mut silent = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut prober = TcpStream::connect(address).await.unwrap();
        prober.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        tokio::time::pause();
        let mut answer = String::new();
        prober.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(began.elapsed() >= HEAD_TIMEOUT, "it waited for a place");
    }
}
