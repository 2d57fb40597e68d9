//! Where sidecars connect: TLS 1.3 with a client certificate or none, verified by `identity`, with limits before and
//! during the handshake. Hands each connection with its peer to gRPC; refuses what is too much or too slow.

pub(crate) mod credentials;
mod limit;
pub(crate) mod local;
mod origin;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls_pki_types::{CertificateDer, UnixTime};
use sidegate_codes::Code;
use sidegate_identity::{SpiffeId, SvidLimits, TrustBundles, Usage, VerifiedSvid, tls, verify};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{mpsc, watch},
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{either::Either, sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Status, transport::server::Connected};

pub(crate) use self::origin::{LocalProcess, Origin, Source};

use self::{
    limit::{Limits, Permit},
    local::LocalSocket,
};
use crate::{ca::Trust, clock, metrics::Metrics};

/// Accepts connections and hands them on once their handshake is done.
pub(crate) struct Acceptor {
    pub(crate) listeners: Listeners,
    /// The newest of the control plane's own credentials, as a TLS configuration.
    pub(crate) tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    pub(crate) trust: watch::Receiver<Arc<Trust>>,
    pub(crate) metrics: Arc<Metrics>,
    /// Owns the handshakes.
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// Where sidecars connect.
pub(crate) struct Listeners {
    /// From anywhere.
    pub(crate) network: TcpListener,
    /// From this host.
    pub(crate) local: Option<LocalSocket>,
}

/// The far end of a connection: where it is, and the identity if it proved one.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) origin: Origin,
    pub(crate) svid: Option<Arc<VerifiedSvid>>,
    /// Kept to verify again when the roots change; empty without an identity.
    pub(crate) chain: Arc<[CertificateDer<'static>]>,
}

/// A peer whose certificate was verified and is still valid.
#[derive(Clone, Debug)]
pub(crate) struct VerifiedPeer {
    peer: Peer,
    svid: Arc<VerifiedSvid>,
}

/// A connection after its handshake. Its permit returns when it is dropped.
pub(crate) struct Connection {
    stream: TlsStream<Stream>,
    peer: Peer,
    /// Reading fails from then on: no connection outlives its peer's certificate, and one without a certificate is
    /// there for one issuance.
    ends: Pin<Box<Sleep>>,
    _permit: Permit,
}

/// What TLS runs over.
type Stream = Either<TcpStream, UnixStream>;

/// Why a handshake did not end in a connection.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("not finished within {HANDSHAKE_TIMEOUT:?}")]
    Timeout,
    #[error("{0}")]
    Tls(#[from] io::Error),
    #[error("{0}")]
    Peer(#[from] sidegate_identity::SvidError),
}

impl Acceptor {
    /// Accepts until `stop`. Connections go to `connections`; when nobody takes them, accepting waits.
    pub(crate) async fn run(self, connections: mpsc::Sender<io::Result<Connection>>) {
        let limits = Limits::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                accepted = self.listeners.accept() => accepted,
            };
            match accepted {
                Ok((stream, origin)) => self.admit(stream, origin, &limits, &connections),
                // Out of descriptors, most likely: accepting again at once would only burn the CPU.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(
        &self,
        stream: Stream,
        origin: Origin,
        limits: &Limits,
        connections: &mpsc::Sender<io::Result<Connection>>,
    ) {
        let permit = match limits.admit(origin.source()) {
            Ok(permit) => permit,
            Err(reason) => {
                self.metrics.connection_refused(reason);
                return tracing::warn!(code = %Code::TooManyConnections, address = %origin, reason, "connection refused");
            }
        };
        let acceptor = TlsAcceptor::from(self.tls.borrow().clone());
        let (bundles, metrics) = (self.trust.borrow().bundles.clone(), self.metrics.clone());
        let (connections, stop) = (connections.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let handshake = handshake(&acceptor, stream, origin, &bundles, permit);
            match stop.run_until_cancelled(handshake).await {
                Some(Ok(connection)) => drop(connections.send(Ok(connection)).await),
                Some(Err(error)) => report(&error, origin, &metrics),
                None => {}
            }
        });
    }
}

async fn handshake(
    acceptor: &TlsAcceptor,
    stream: Stream,
    origin: Origin,
    bundles: &TrustBundles,
    permit: Permit,
) -> Result<Connection, HandshakeError> {
    if let Either::Left(tcp) = &stream {
        // Updates are small and waited for.
        tcp.set_nodelay(true)?;
    }
    let stream =
        timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await.map_err(|_| HandshakeError::Timeout)??;
    let chain: Arc<[_]> = stream.get_ref().1.peer_certificates().unwrap_or_default().into();
    let svid = match &*chain {
        [] => None,
        // The same function that the handshake's verifier ran; here it hands on its evidence.
        chain => {
            let now = clock::unix_time(clock::now_ms());
            Some(Arc::new(verify(chain, Usage::Client, bundles, &SvidLimits::default(), now)?))
        }
    };
    let ends_at = svid.as_deref().map_or_else(
        || Instant::now() + ANONYMOUS_LIFE,
        // The streams end first and say why.
        |svid| end_of(svid) + Duration::from_secs(1),
    );
    Ok(Connection {
        stream,
        peer: Peer { origin, svid, chain },
        ends: Box::pin(sleep_until(ends_at)),
        _permit: permit,
    })
}

fn report(error: &HandshakeError, origin: Origin, metrics: &Metrics) {
    let (code, reason) = error.explain();
    metrics.handshake_failed(reason);
    tracing::info!(%code, address = %origin, %error, "handshake failed");
}

impl HandshakeError {
    fn explain(&self) -> (Code, &'static str) {
        match self {
            Self::Timeout => (Code::HandshakeTimeout, "timeout"),
            Self::Peer(error) => (error.code(), error.reason()),
            Self::Tls(error) => error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>())
                .and_then(tls::peer_error)
                .map_or((Code::HandshakeFailed, "tls"), |error| (error.code(), error.reason())),
        }
    }
}

/// The caller of a request that needs an identity; refuses a caller without, and one whose certificate has ended
/// since the handshake.
pub(crate) fn verified_peer<T>(request: &Request<T>) -> Result<VerifiedPeer, Status> {
    let peer = peer(request)?;
    let svid = peer
        .svid
        .clone()
        .ok_or_else(|| unauthenticated(Code::NoClientCertificate, "a client certificate is required"))?;
    if UnixTime::now().as_secs() > svid.not_after().as_secs() {
        return Err(unauthenticated(Code::PeerCertificateEnded, "the client certificate has ended"));
    }
    Ok(VerifiedPeer { peer, svid })
}

/// The caller of any request.
pub(crate) fn peer<T>(request: &Request<T>) -> Result<Peer, Status> {
    request.extensions().get::<Peer>().cloned().ok_or_else(|| Status::internal("no peer"))
}

fn unauthenticated(code: Code, message: &str) -> Status {
    Status::unauthenticated(format!("{code}: {message}"))
}

impl Listeners {
    /// The next connection to any of them.
    async fn accept(&self) -> io::Result<(Stream, Origin)> {
        let local = async {
            match &self.local {
                Some(socket) => socket.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = self.network.accept() => {
                let (stream, address) = accepted?;
                Ok((Either::Left(stream), Origin::Network(address)))
            }
            accepted = local => {
                let (stream, process) = accepted?;
                Ok((Either::Right(stream), Origin::Local(process)))
            }
        }
    }
}

impl Peer {
    /// Whether these roots vouch for it, too: they may be others than those of the handshake.
    pub(crate) fn is_vouched_for(&self, trust: &Trust) -> bool {
        let now = clock::unix_time(clock::now_ms());
        verify(&self.chain, Usage::Client, &trust.bundles, &SvidLimits::default(), now).is_ok()
    }
}

impl VerifiedPeer {
    pub(crate) fn id(&self) -> &SpiffeId {
        self.svid.id()
    }

    pub(crate) fn svid(&self) -> &VerifiedSvid {
        &self.svid
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// When the certificate ends.
    pub(crate) fn ends_at(&self) -> Instant {
        end_of(&self.svid)
    }
}

/// The moment after the certificate's last second.
fn end_of(svid: &VerifiedSvid) -> Instant {
    let end_ms = svid.not_after().as_secs().saturating_add(1).saturating_mul(1000);
    Instant::now() + Duration::from_millis(end_ms.saturating_sub(clock::now_ms()))
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ends.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A caller without a certificate comes for its first one.
const ANONYMOUS_LIFE: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
