//! Opens connections: a destination in, a connected stream and its proven peer out, within the connect timeout. Each
//! attempt to reach a peer, or somebody outside of the mesh, is counted, by who answered or by why nobody did.

use std::{
    fmt,
    hash::{Hash, Hasher},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use rustls::ClientConfig;
use sidegate_codes::Code;
use sidegate_identity::{SpiffeId, Usage};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use super::{names::Names, stream::Stream};
use crate::{
    config::{Forward, Limits},
    error::Error,
    identity::Peer,
    snapshot::{PeerTls, Reader, Snapshot},
    telemetry::{
        Direction, Metrics, TlsState, Verdict,
        metrics::{ConnectionLabels, HandshakeLabels},
    },
    tls,
};

/// Where a connection leads. Two are equal only if one connection may serve both, compared in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The local application, under one answer about where it is.
    App { forward: Forward, addresses: Arc<[SocketAddr]> },
    /// Somebody outside of the mesh, under one answer about where that is.
    Outside { name: String, addresses: Arc<[SocketAddr]> },
    /// A sidecar, under one generation of credentials and trust and one set of identities.
    Peer { address: SocketAddr, tls: PeerTls },
}

/// What a connection will carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Carries {
    Http1,
    Http2,
    Tcp,
    /// Many streams of HTTP/1.1, or one, as the peer takes it.
    ManyHttp1,
    /// The same of opaque bytes.
    ManyTcp,
    /// What the peer's sidecar finds out.
    Any,
}

/// What it takes to open connections.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    pub(crate) limits: Arc<Limits>,
    pub(crate) mesh: Reader,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) names: Rc<Names>,
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) stream: Stream,
    /// `None` for the local application and for whoever is outside of the mesh, who prove nothing.
    pub(crate) peer: Option<Arc<Peer>>,
}

impl Dialer {
    /// Where the application is now.
    pub(crate) async fn app(&self, forward: &Forward) -> Result<Destination, Error> {
        Ok(Destination::App { forward: forward.clone(), addresses: self.names.addresses(forward).await? })
    }

    /// Connects to `destination` and, if it is a peer, verifies who answers.
    pub(crate) async fn dial(
        &self,
        destination: &Destination,
        carries: Carries,
        until: Instant,
    ) -> Result<Dialed, Error> {
        let connected = match timeout_at(until, self.connect(destination, carries)).await {
            Ok(connected) => connected,
            Err(_) => Err(Error::ConnectTimeout(destination.to_string())),
        };
        match destination {
            Destination::App { forward, .. } => {
                if connected.is_err() {
                    self.names.forget(forward);
                }
                connected
            }
            Destination::Outside { .. } => {
                self.count(&connected, TlsState::Plaintext);
                connected
            }
            Destination::Peer { address, .. } => {
                self.count(&connected, TlsState::Mutual);
                connected.map_err(|error| as_upstream(error, *address))
            }
        }
    }

    async fn connect(&self, destination: &Destination, carries: Carries) -> Result<Dialed, Error> {
        match destination {
            Destination::App { addresses, .. } | Destination::Outside { addresses, .. } => {
                let tcp = self.first_that_answers(addresses).await;
                Ok(Dialed { stream: Stream::plain(tuned(tcp, destination)?), peer: None })
            }
            Destination::Peer { address, tls } => {
                let tcp = tuned(TcpStream::connect(address).await, destination)?;
                let stream = tls::originate(tcp, config(tls, carries)).await?;
                let certificates = stream.agreed().peer_certificates();
                let peer = Peer::of(certificates, Usage::Server, &self.mesh.load().trust)?;
                Ok(Dialed { stream: Stream::tls(stream), peer: Some(Arc::new(peer)) })
            }
        }
    }

    /// Each address has its share of the time, so that one that stays silent does not use it up for the others.
    async fn first_that_answers(&self, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
        let share = self.limits.connect_timeout / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(error)) => failed = error,
                Err(_) => failed = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failed)
    }

    /// An impostor is told even if another endpoint answers in its place.
    fn count(&self, connected: &Result<Dialed, Error>, tls: TlsState) {
        let (destination, tls, verdict) = match connected {
            Ok(Dialed { peer, .. }) => (peer.as_ref().map(|peer| peer.id().clone()), tls, Verdict::Allowed),
            Err(_) => (None, TlsState::Failed, Verdict::Failed),
        };
        let source = self.mesh.load().own_id();
        let direction = Direction::Outbound;
        self.metrics.connections.add(ConnectionLabels { direction, source, destination, tls, verdict });
        if let Err(Error::Handshake { code, reason, detail }) = connected {
            self.metrics.handshake_failures.add(HandshakeLabels { direction, code: *code, reason });
            tracing::warn!(%code, %detail, "an endpoint failed its handshake");
        }
    }
}

impl Destination {
    /// Whether it is another sidecar.
    pub(crate) fn is_peer(&self) -> bool {
        matches!(self, Self::Peer { .. })
    }

    /// Whether, after a change, `peer` at the other end is still one that this destination may lead to.
    pub(crate) fn expects(&self, peer: &SpiffeId, snapshot: &Snapshot) -> bool {
        let Self::Peer { tls, .. } = self else { return true };
        tls.identities.contains(peer)
            && snapshot
                .services
                .values()
                .filter_map(|service| service.tls.as_ref())
                .any(|current| current.identities.contains(peer))
    }
}

fn config(tls: &PeerTls, carries: Carries) -> Arc<ClientConfig> {
    Arc::clone(match carries {
        Carries::Http1 => &tls.http1,
        Carries::Http2 => &tls.http2,
        Carries::Tcp => &tls.tcp,
        Carries::ManyHttp1 => &tls.many_http1,
        Carries::ManyTcp => &tls.many_tcp,
        Carries::Any => &tls.any,
    })
}

/// Requests are small and answers are awaited: nothing waits for a fuller packet.
fn tuned(tcp: io::Result<TcpStream>, destination: &Destination) -> Result<TcpStream, Error> {
    let tcp = tcp.map_err(|error| unreachable(destination, error))?;
    tcp.set_nodelay(true).map_err(|error| unreachable(destination, error))?;
    Ok(tcp)
}

fn unreachable(destination: &Destination, why: impl fmt::Display) -> Error {
    Error::Upstream { code: Code::UpstreamUnreachable, detail: format!("{destination}: {why}") }
}

fn as_upstream(error: Error, address: SocketAddr) -> Error {
    match error {
        Error::Upstream { .. } | Error::ConnectTimeout(_) => error,
        other => Error::Upstream { code: other.code(), detail: format!("{address}: {other}") },
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App { forward, .. } => forward.fmt(f),
            Self::Outside { name, .. } => f.write_str(name),
            Self::Peer { address, .. } => address.fmt(f),
        }
    }
}

impl Hash for Destination {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::App { forward, .. } => forward.port().hash(state),
            Self::Outside { name, addresses } => (name, addresses).hash(state),
            Self::Peer { address, tls } => (address, tls.generation).hash(state),
        }
    }
}

#[cfg(test)]
mod tests;
