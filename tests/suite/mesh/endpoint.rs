//! Endpoints of a service, and applications, that misbehave on purpose: an endpoint speaks mutual TLS as the service, an
//! application plaintext. They remember each request that reached them in full, and then do as they are told.

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
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{Authority, DOMAIN, Http, PATIENCE, client::credentials, id};

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
    /// Answers 200 and breaks off in the middle of the body. HTTP/2: resets the stream.
    BreaksOff,
    /// Answers 200 and stops in the middle of the body. HTTP/2: never answers.
    Stops,
    /// Never answers.
    Hangs,
    /// HTTP/2: refuses the stream with its body begun, as one that it did not process.
    Refuses,
}

/// One endpoint of `shop/payments`, or one application.
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

#[derive(Clone)]
enum Over {
    /// Mutual TLS; which HTTP is negotiated.
    Tls(TlsAcceptor),
    Plaintext(Http),
}

impl Endpoint {
    /// Does as `plan` says for the nth request of a connection, counted from 0.
    pub(crate) async fn start(
        authority: &Authority,
        plan: impl Fn(usize) -> Does + Send + Sync + 'static,
    ) -> Self {
        let domain = TrustDomain::parse(DOMAIN).unwrap();
        let bundle = TrustBundle::from_pem(domain, authority.bundle().as_bytes()).unwrap();
        let trust: TrustBundles = [bundle].into_iter().collect();
        let own = credentials(&authority.svid(&id("payments")), &trust);
        let config = server_config(&own, Arc::new(trust), ClientAuth::Required, &[b"h2", b"http/1.1"]);
        Self::serve(Over::Tls(TlsAcceptor::from(config)), Arc::new(plan)).await
    }

    /// The same as an application that speaks `version` in plaintext.
    pub(crate) async fn app(version: Http, plan: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        Self::serve(Over::Plaintext(version), Arc::new(plan)).await
    }

    async fn serve(over: Over, plan: Plan) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let log = Arc::clone(&seen);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (over, log, plan) = (over.clone(), Arc::clone(&log), Arc::clone(&plan));
                connections.spawn(async move {
                    match over {
                        Over::Plaintext(version) => log.speak(tcp, version, &plan).await,
                        Over::Tls(acceptor) => {
                            let Ok(stream) = acceptor.accept(tcp).await else { return };
                            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                            log.speak(stream, if is_http2 { Http::Two } else { Http::One }, &plan).await;
                        }
                    }
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

impl Seen {
    async fn speak<S: AsyncRead + AsyncWrite + Unpin>(
        self: Arc<Self>,
        stream: S,
        version: Http,
        plan: &Plan,
    ) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        match version {
            Http::Two => http2(stream, &self, plan).await,
            // A connection that the sidecar drops has ended like any other.
            Http::One => drop(http1(stream, &self, plan).await),
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn http1<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    seen: &Seen,
    plan: &Plan,
) -> std::io::Result<()> {
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
            Does::BreaksOff => return stream.write_all(HALF).await,
            Does::Stops => {
                stream.write_all(HALF).await?;
                return std::future::pending().await;
            }
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

async fn http2<S: AsyncRead + AsyncWrite + Unpin>(stream: S, seen: &Arc<Seen>, plan: &Plan) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut streams = JoinSet::new();
    let mut nth = 0;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let does = plan(nth);
        nth += 1;
        if matches!(does, Does::AnswersLast(_)) {
            connection.graceful_shutdown();
        }
        let seen = Arc::clone(seen);
        streams.spawn(async move {
            let line = format!("{} {}", request.method(), request.uri().path());
            let mut body = request.into_body();
            if does == Does::Refuses {
                // With its body begun: one of which nothing was taken may be sent again however long it is.
                let _ = body.data().await;
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                return;
            }
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
                Does::Breaks | Does::BreaksOff | Does::Closes | Does::Refuses => {
                    respond.send_reset(h2::Reason::INTERNAL_ERROR);
                }
                Does::Hangs | Does::Stops => std::future::pending().await,
            }
        });
    }
}

const HALF: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf";
