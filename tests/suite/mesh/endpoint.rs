//! Endpoints of a service that misbehave on purpose: they speak mutual TLS as the service, remember each request that
//! reached them in full, and then do as they are told.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use http::{Response, StatusCode};
use sidegate_identity::{
    TrustBundle, TrustBundles, TrustDomain,
    tls::{ClientAuth, server_config},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Authority, DOMAIN, PATIENCE, client::credentials, id};

/// What an endpoint does with a request that it has read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Does {
    /// Answers, without a body.
    Answers(u16),
    /// Answers, says `Connection: close` or GOAWAY, and takes no more on this connection.
    AnswersLast(u16),
    /// Closes the connection without a word. HTTP/2: nothing of the kind.
    Closes,
    /// Closes it in the middle of a head. HTTP/2: resets the stream.
    Breaks,
    /// Never answers.
    Hangs,
    /// HTTP/2: refuses the stream unread, as one that it did not process.
    Refuses,
}

/// One endpoint of `shop/payments`.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<String>>,
    connections: AtomicUsize,
    open: AtomicUsize,
}

type Plan = Arc<dyn Fn(usize) -> Does + Send + Sync>;

impl Endpoint {
    /// Does as `plan` says for the nth request of a connection, counted from 0.
    pub(crate) async fn start(
        authority: &Authority,
        plan: impl Fn(usize) -> Does + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let domain = TrustDomain::parse(DOMAIN).unwrap();
        let bundle = TrustBundle::from_pem(domain, authority.bundle().as_bytes()).unwrap();
        let trust: TrustBundles = [bundle].into_iter().collect();
        let own = credentials(&authority.svid(&id("payments")), &trust);
        let config = server_config(&own, Arc::new(trust), ClientAuth::Required, &[b"h2", b"http/1.1"]);
        let mut serving = JoinSet::new();
        let (log, plan): (_, Plan) = (Arc::clone(&seen), Arc::new(plan));
        serving.spawn(async move {
            let acceptor = TlsAcceptor::from(config);
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, log, plan) = (acceptor.clone(), Arc::clone(&log), Arc::clone(&plan));
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    log.connections.fetch_add(1, Ordering::Relaxed);
                    log.open.fetch_add(1, Ordering::Relaxed);
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        http2(stream, &log, &plan).await;
                    } else {
                        // A connection that the sidecar drops has ended like any other.
                        let _ = http1(stream, &log, &plan).await;
                    }
                    log.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, seen, _serving: serving }
    }

    /// `METHOD target` of every request that reached it in full.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.seen.open.load(Ordering::Relaxed)
    }

    /// Waits until `count` requests have reached it.
    pub(crate) async fn reached(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.seen().len() < count {
            assert!(Instant::now() < deadline, "only {:?} reached it", self.seen());
            tokio::task::yield_now().await;
        }
    }
}

async fn http1(stream: TlsStream<TcpStream>, seen: &Seen, plan: &Plan) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    for nth in 0.. {
        let (mut line, mut length) = (String::new(), 0);
        let mut field = String::new();
        stream.read_line(&mut line).await?;
        while stream.read_line(&mut field).await? > 2 {
            if let Some(value) = field.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            field.clear();
        }
        let Some((request, _)) = line.rsplit_once(' ') else { return Ok(()) };
        stream.read_exact(&mut vec![0; length]).await?;
        seen.requests.lock().unwrap().push(request.to_owned());
        let (status, last) = match plan(nth) {
            Does::Answers(status) => (status, ""),
            Does::AnswersLast(status) => (status, "connection: close\r\n"),
            Does::Breaks => return stream.write_all(b"HTTP/1.1 20").await,
            Does::Closes | Does::Refuses => return Ok(()),
            Does::Hangs => return std::future::pending().await,
        };
        let answer = format!("HTTP/1.1 {status} As told\r\ncontent-length: 0\r\n{last}\r\n");
        stream.write_all(answer.as_bytes()).await?;
        if !last.is_empty() {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

async fn http2(stream: TlsStream<TcpStream>, seen: &Arc<Seen>, plan: &Plan) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut streams = JoinSet::new();
    let mut nth = 0;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let does = plan(nth);
        nth += 1;
        if does == Does::Refuses {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        if matches!(does, Does::AnswersLast(_)) {
            connection.graceful_shutdown();
        }
        let seen = Arc::clone(seen);
        streams.spawn(async move {
            let line = format!("{} {}", request.method(), request.uri().path());
            let mut body = request.into_body();
            while let Some(Ok(bytes)) = body.data().await {
                let bytes: Bytes = bytes;
                // Whoever sent it may have left.
                let _ = body.flow_control().release_capacity(bytes.len());
            }
            seen.requests.lock().unwrap().push(line);
            match does {
                Does::Answers(status) | Does::AnswersLast(status) => {
                    let mut response = Response::new(());
                    *response.status_mut() = StatusCode::from_u16(status).unwrap();
                    // The same.
                    let _ = respond.send_response(response, true);
                }
                Does::Breaks | Does::Closes | Does::Refuses => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                Does::Hangs => std::future::pending().await,
            }
        });
    }
}
