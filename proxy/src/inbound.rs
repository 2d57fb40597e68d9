//! The inbound path: a peer's connection comes in, the local application's answer goes out.
//!
//! ```text
//! accept → detect → tls (terminate) → identity → authorize → [http: normalize → authorize → route] → upstream (app)
//! ```

use std::{rc::Rc, sync::Arc};

use http::{Request, Version};
use sidegate_identity::Usage;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::{
    accept::Accepted,
    authorize::{self, Caller},
    config::{Inbound, Protocol},
    detect::{self, Detected, Rewound},
    error::Error,
    http::{self as http_stage, Checked, RequestBody, Rules},
    identity::Peer,
    snapshot::{ALPN_HTTP1, ALPN_HTTP2, ALPN_TCP, Snapshot},
    telemetry::{Carried, Direction, Ends, Exchange, Record, TlsState},
    tls,
    upstream::{self, Answer},
    worker::Worker,
};

/// One inbound connection, start to end. Each line may end it; each returns what the next one needs.
pub(crate) async fn serve(accepted: Accepted, port: usize, worker: &Rc<Worker>) -> Result<(), Error> {
    let Accepted {
        tcp,
        downstream,
        place: _place,
    } = accepted;
    let snapshot = worker.mesh.snapshot();
    let port = Port {
        index: port,
        inbound: snapshot.inbound[port].clone(),
    };

    detect::tls(&tcp, worker.limits.detect_timeout).await?;
    let stream = terminate(tcp, &snapshot, worker).await?;
    let peer = Rc::new(Peer::of(
        stream.get_ref().1.peer_certificates(),
        Usage::Client,
        &snapshot.trust,
    )?);
    let exchange = Rc::new(port.exchange(&peer, downstream, &snapshot, worker));
    worker.connected(&exchange);

    let served = async {
        match protocol(stream, &port.inbound, worker).await? {
            (Carries::Http(version), stream) => http(stream, version, &peer, &exchange, &port, worker).await,
            (Carries::Opaque, stream) => opaque(stream, &peer, &exchange, &port, worker).await,
        }
    };
    let result = tokio::select! {
        // First, so that a cut is told as a cut.
        biased;
        ended = peer.until_untrusted(worker.mesh.clone()) => Err(ended),
        result = served => result,
    };
    Record::ended(&exchange, result);
    Ok(())
}

/// One request of a connection: judged under the snapshot of its own moment, and forwarded as judged.
async fn forward(
    request: Request<RequestBody>,
    record: &mut Record,
    connection: &Connection,
) -> Result<Answer, Error> {
    let Connection {
        peer,
        exchange,
        port,
        worker,
    } = connection;
    let version = request.version();
    let snapshot = worker.mesh.snapshot();
    let inbound = &snapshot.inbound[port.index];

    let checked = Checked::new(
        request,
        Rules {
            paths: inbound.paths,
            limits: &worker.limits,
            removes_identity: true,
        },
    )?;
    let permit = authorize::request(port.caller(peer, exchange), checked, &snapshot)?;
    record.admitted(permit.admission());
    record.upstream(&inbound.forward);
    upstream::app::send(permit, &inbound.forward, inbound.protocol, version, &worker.pool).await
}

/// An HTTP connection: its requests are judged one by one, so a changed policy counts for the next of them.
async fn http(
    stream: Rewound<TlsStream<TcpStream>>,
    version: Version,
    peer: &Rc<Peer>,
    exchange: &Rc<Exchange>,
    port: &Port,
    worker: &Rc<Worker>,
) -> Result<(), Error> {
    let connection = Connection {
        peer: Rc::clone(peer),
        exchange: Rc::clone(exchange),
        port: port.clone(),
        worker: Rc::clone(worker),
    };
    let closing = async {
        tokio::select! {
            () = worker.drain.begun() => {}
            () = tokio::time::sleep(peer.time_to_begin()) => {}
        }
    };
    http_stage::serve(stream, version, Rc::clone(exchange), connection, worker, closing).await
}

/// An opaque connection: judged once before its first byte is forwarded, and again whenever policy changes.
async fn opaque(
    stream: Rewound<TlsStream<TcpStream>>,
    peer: &Rc<Peer>,
    exchange: &Rc<Exchange>,
    port: &Port,
    worker: &Rc<Worker>,
) -> Result<(), Error> {
    let mut record = Record::begin(exchange, Carried::Tcp);
    let carried = upstream::Carried::default();
    let caller = port.caller(peer, exchange);
    // Taken before the verdict, so that a change in between is not missed.
    let changes = worker.mesh.clone();
    let result = async {
        let permit = authorize::connection(caller, stream, &worker.mesh.snapshot())?;
        record.admitted(permit.admission());
        record.upstream(&port.inbound.forward);
        tokio::select! {
            biased;
            denied = authorize::until_denied(caller, changes) => Err(denied),
            result = upstream::app::forward(permit, &port.inbound.forward, &worker.limits, &worker.mesh, &carried) => result,
        }
    }
    .await;
    record.set_bytes(carried.received.get(), carried.sent.get());
    match &result {
        Ok(()) => record.complete(),
        Err(error) => record.failed(error),
    }
    // Recorded in full already.
    Ok(())
}

/// What a connection carries, after its protocol is known.
enum Carries {
    Http(Version),
    Opaque,
}

/// One listener, as it was when the connection came in.
#[derive(Clone, Debug)]
struct Port {
    index: usize,
    inbound: Inbound,
}

/// What the requests of one connection share.
#[derive(Debug)]
struct Connection {
    peer: Rc<Peer>,
    exchange: Rc<Exchange>,
    port: Port,
    worker: Rc<Worker>,
}

impl http_stage::Handler for Connection {
    async fn forward(&self, request: Request<RequestBody>, record: &mut Record) -> Result<Answer, Error> {
        forward(request, record, self).await
    }
}

impl Port {
    fn caller<'a>(&self, peer: &'a Peer, exchange: &Exchange) -> Caller<'a> {
        Caller {
            peer,
            ip: exchange.downstream.ip(),
            port: self.inbound.forward.port(),
        }
    }

    fn exchange(
        &self,
        peer: &Peer,
        downstream: std::net::SocketAddr,
        snapshot: &Snapshot,
        worker: &Worker,
    ) -> Exchange {
        let own = snapshot
            .secured
            .as_ref()
            .map(|secured| secured.credentials.svid().id().clone());
        Exchange {
            direction: Direction::Inbound,
            downstream,
            port: self.inbound.forward.port(),
            ends: Ends {
                source: Some(peer.id().clone()),
                destination: own,
            },
            tls: TlsState::Mutual,
            edges: Arc::clone(&worker.edges),
            access_log: worker.access_log.clone(),
        }
    }
}

/// Handshakes in flight are bounded: the rest waits, each within its own time.
async fn terminate(
    tcp: TcpStream,
    snapshot: &Snapshot,
    worker: &Worker,
) -> Result<TlsStream<TcpStream>, Error> {
    let secured = snapshot.secured.as_ref().ok_or(Error::NoCredentials)?;
    let limit = worker.limits.handshake_timeout;
    let permit = tokio::time::timeout(limit, worker.handshakes.acquire())
        .await
        .map_err(|_| Error::HandshakeTimeout)?
        .map_err(|_| Error::Draining)?;
    let stream = tls::terminate(tcp, Arc::clone(&secured.server), limit).await;
    drop(permit);
    stream
}

/// What the link negotiated, or what the first bytes say where nothing was negotiated; never other than declared.
async fn protocol(
    stream: TlsStream<TcpStream>,
    inbound: &Inbound,
    worker: &Worker,
) -> Result<(Carries, Rewound<TlsStream<TcpStream>>), Error> {
    let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let (detected, stream) = match (alpn.as_deref(), inbound.protocol) {
        (Some(ALPN_HTTP2), _) => (Detected::Http2, Rewound::fresh(stream)),
        (Some(ALPN_HTTP1), _) => (Detected::Http1, Rewound::fresh(stream)),
        (Some(ALPN_TCP), _) | (None, Protocol::Tcp) => (Detected::Opaque, Rewound::fresh(stream)),
        _ => detect::protocol(stream, worker.limits.detect_timeout).await?,
    };
    let carries = match detected {
        Detected::Http1 => Carries::Http(Version::HTTP_11),
        Detected::Http2 => Carries::Http(Version::HTTP_2),
        Detected::Opaque => Carries::Opaque,
    };
    match (inbound.protocol, &carries) {
        (Protocol::Http | Protocol::Http2, Carries::Opaque) => Err(Error::ProtocolMismatch {
            declared: "http",
            seen: "opaque bytes",
        }),
        (Protocol::Tcp, Carries::Http(_)) => Err(Error::ProtocolMismatch {
            declared: "tcp",
            seen: "http",
        }),
        _ => Ok((carries, stream)),
    }
}
