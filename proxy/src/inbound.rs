//! The inbound path: a peer's connection comes in, the local application's answer goes out.
//!
//! ```text
//! accept → detect → tls (terminate) → identity → authorize → [http: normalize → authorize → route] → upstream (app)
//! ```
//!
//! What begins no TLS skips that stage if an exception of policy may be for it, has no identity, and is judged like the rest.

mod link;

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use http::{Request, Version};
use rustls::server::UnbufferedServerConnection;
use sidegate_codes::Code;
use sidegate_identity::Usage;
use tokio::net::TcpStream;

use crate::{
    accept::{Accepted, Place},
    authorize::{self, Asked, Asker, Caller},
    config::{Inbound, Limits, Protocol},
    detect::{self, Detected, First, Heard, NotHttp, Rewound},
    error::Error,
    http::{self as http_stage, Checked, RequestBody, Rules},
    identity::{Client, Peer},
    orig_dst::OrigDst,
    snapshot::{ALPN_HTTP1, ALPN_HTTP2, ALPN_MANY_HTTP1, ALPN_MANY_TCP, ALPN_TCP, Snapshot},
    telemetry::{Carried, Direction, Ends, Exchange, Record, TlsState},
    tls::{self, Terminated},
    transport::Transport,
    upstream::{self, Answer, app::Candidate},
    worker::{Link, Worker},
};

/// One inbound connection, start to end. Each line may end it; each returns what the next one needs.
pub(crate) async fn serve(accepted: Accepted, port: usize, worker: &Rc<Worker>) -> Result<(), Error> {
    let Accepted { tcp, downstream, place } = accepted;
    let snapshot = worker.mesh.snapshot();
    let arrival = Arrival { downstream, place, port, snapshot: &snapshot };

    match detect::first(&tcp, worker.limits.detect_timeout).await? {
        First::Tls => {
            // Boxed, as whatever is over before the bytes begin: a silent connection has no room for it.
            let stream = Box::pin(terminate(tcp, &snapshot, worker)).await?;
            let certificates = stream.agreed().peer_certificates();
            let client = Rc::new(Client::Proven(Peer::of(certificates, Usage::Client, &snapshot.trust)?));
            let alpn = stream.agreed().alpn_protocol().map(<[u8]>::to_vec);
            let carries = match alpn.as_deref() {
                Some(ALPN_MANY_HTTP1) => ALPN_HTTP1,
                Some(ALPN_MANY_TCP) => ALPN_TCP,
                alpn => return serve_client(Downstream::Tls(stream), alpn, client, arrival, worker).await,
            };
            Box::pin(link::serve(stream, carries, client, arrival, worker)).await
        }
        First::Other(first) => {
            let app = snapshot.inbound[port].forward.port();
            let client = Rc::new(Client::without_tls(first, downstream, app, &snapshot)?);
            serve_client(Downstream::Plain(tcp), None, client, arrival, worker).await
        }
    }
}

/// A connection that came in.
struct Arrival<'a> {
    downstream: SocketAddr,
    place: Place,
    /// Of the listener.
    port: usize,
    snapshot: &'a Snapshot,
}

impl Arrival<'_> {
    /// What all that happens on it shares.
    fn exchange(self, client: &Client, worker: &Worker) -> Rc<Exchange> {
        let Self { downstream, place, port, snapshot } = self;
        let tls = if client.id().is_some() { TlsState::Mutual } else { TlsState::Plaintext };
        let ends = Ends { source: client.id().cloned(), destination: snapshot.own_id() };
        let link = Link { ends, tls, place: Some(place) };
        let at = snapshot.inbound[port].forward.port();
        Rc::new(worker.exchange(Direction::Inbound, downstream, at, link))
    }
}

/// One connection whose client is known, to its end.
async fn serve_client(
    stream: Downstream,
    alpn: Option<&[u8]>,
    client: Rc<Client>,
    arrival: Arrival<'_>,
    worker: &Rc<Worker>,
) -> Result<(), Error> {
    let Arrival { downstream, port, snapshot, .. } = arrival;
    let inbound = &snapshot.inbound[port];
    let exchange = arrival.exchange(&client, worker);
    if !matches!(stream, Downstream::Shared(_)) {
        worker.connected(&exchange);
    }

    let caller = caller(&client, downstream, inbound);
    let ended = match Box::pin(protocol(stream, alpn, caller, inbound, worker)).await {
        Err(error) => Err(error),
        Ok((Carries::Opaque(candidate), stream)) => {
            // Boxed, like HTTP, so that each kind of connection holds room for what it is, and not for the other.
            return Box::pin(opaque(stream, candidate, &client, &exchange, inbound, worker)).await;
        }
        Ok((Carries::Http(version), stream)) => {
            Box::pin(http(stream, version, &client, &exchange, port, worker)).await
        }
    };
    Record::ended(&exchange, ended);
    Ok(())
}

/// One connection that the kernel redirected to a listener, which is at `listening`: it is for the port that it was
/// sent to, if that one is declared.
pub(crate) async fn serve_captured(accepted: Accepted, listening: u16, worker: &Rc<Worker>) {
    let downstream = accepted.downstream;
    let (port, served) = match captured_for(&accepted.tcp, worker) {
        Ok((index, port)) => (port, serve(accepted, index, worker).await),
        Err(error) => (listening, Err(error)),
    };
    if let Err(error) = served {
        worker.refused(Direction::Inbound, downstream, port, &error);
    }
}

/// One request of a connection: judged under the snapshot of its own moment, and forwarded as judged.
async fn forward(
    request: Request<RequestBody>,
    record: &mut Record,
    connection: &Connection,
) -> Result<Answer, Error> {
    let Connection { client, downstream, port, worker } = connection;
    let version = request.version();
    let snapshot = worker.mesh.snapshot();
    let inbound = &snapshot.inbound[*port];
    record.at_port(inbound.forward.port());

    let rules = Rules {
        paths: inbound.paths,
        upgrades: &inbound.upgrades,
        limits: &worker.limits,
        removes_identity: true,
    };
    let mut checked = Checked::new(request, rules)?;
    let token = snapshot.issuers.check(&mut checked, &worker.tokens, authorize::now).await;
    let opening = checked.opening().cloned();
    let caller_then = caller(client, *downstream, inbound);
    let consent = Asker { caller: caller_then, worker }.about_request(&mut checked, &token, version).await?;
    let asked = Asked::of(&checked, &token, &consent);
    // Keys, or whoever decides beside policy, may have been waited for.
    let snapshot = worker.mesh.snapshot();
    let inbound = &snapshot.inbound[*port];
    let caller = caller(client, *downstream, inbound);
    let permit = authorize::request(caller, checked, &token, consent, &snapshot)?;
    record.admitted(permit.admission());
    snapshot.rates[*port].admit(client.id(), &permit.subject().asking(), &worker.metrics)?;
    let flow = Rc::clone(record.flow());
    record.judged_again_at(worker.open.enter(caller, client, asked, Rc::clone(&flow)));
    record.upstream(&inbound.forward);
    tokio::select! {
        // First, so that a cut is told as a cut.
        biased;
        denied = flow.until_cut() => Err(denied),
        answer = upstream::app::send(permit, inbound, version, &worker.pool, record) => {
            answer.map(|answer| Answer { opening, ..answer })
        }
    }
}

/// An HTTP connection: its requests are judged one by one, and those that are open again at each change of policy.
async fn http(
    stream: Rewound<Downstream>,
    version: Version,
    client: &Rc<Client>,
    exchange: &Rc<Exchange>,
    port: usize,
    worker: &Rc<Worker>,
) -> Result<(), Error> {
    let connection = Connection {
        client: Rc::clone(client),
        downstream: exchange.downstream,
        port,
        worker: Rc::clone(worker),
    };
    let closing = async {
        tokio::select! {
            () = worker.drain.begun() => {}
            () = tokio::time::sleep(client.time_to_begin()) => {}
        }
    };
    let untrusted = async {
        let ended = client.until_untrusted(worker.mesh.clone()).await;
        // Before what is in flight is dropped, which tells why.
        exchange.cut(&ended);
        ended
    };
    tokio::select! {
        // First, so that a cut is told as a cut.
        biased;
        ended = untrusted => Err(ended),
        result = http_stage::serve(stream, version, Rc::clone(exchange), connection, worker, closing) => result,
    }
}

/// An opaque connection: judged once before its first byte is forwarded, and again whenever policy changes.
async fn opaque(
    stream: Rewound<Downstream>,
    candidate: Option<Rewound<Candidate>>,
    client: &Client,
    exchange: &Rc<Exchange>,
    inbound: &Inbound,
    worker: &Worker,
) -> Result<(), Error> {
    let mut record = Record::begin(exchange, Carried::Tcp);
    let carried = upstream::Carried::default();
    // Taken before the verdict, so that a change in between is not missed.
    let changes = worker.mesh.clone();
    let result = async {
        let (sni, stream) = Box::pin(server_name(stream, inbound, worker)).await?;
        let caller = Caller { sni: sni.as_deref(), ..caller(client, exchange.downstream, inbound) };
        let stream = match inbound.protocol {
            Protocol::Tcp => NotHttp::unwatched(stream),
            Protocol::Auto | Protocol::Http | Protocol::Http2 => NotHttp::new(stream),
        };
        let consent = Box::pin(Asker { caller, worker }.about_connection()).await?;
        let external = consent.external().cloned();
        let permit = authorize::connection(caller, stream, consent, &worker.mesh.snapshot())?;
        record.admitted(permit.admission());
        record.upstream(&inbound.forward);
        tokio::select! {
            // Cuts first, so that each is told as what it is.
            biased;
            ended = client.until_untrusted(worker.mesh.clone()) => Err(ended),
            denied = authorize::until_denied(caller, external.as_ref(), changes) => Err(denied),
            result = upstream::app::forward(permit, candidate, &inbound.forward, &worker.pool, &carried) => {
                result
            }
        }
    };
    let result = result.await;
    record.end(&carried, result);
    Ok(())
}

/// The server name of the application's own TLS, waited for only where a policy asks for it: of whoever speaks second,
/// nothing comes.
async fn server_name(
    stream: Rewound<Downstream>,
    inbound: &Inbound,
    worker: &Worker,
) -> Result<(Option<String>, Rewound<Downstream>), Error> {
    if !worker.mesh.load().policies.asks_sni(inbound.forward.port()) {
        return Ok((None, stream));
    }
    let limit = worker.limits.detect_timeout;
    detect::server_name(stream.begun(limit).await?, limit).await
}

/// The application's port that a redirected connection was sent to, and its place in the snapshot.
fn captured_for(tcp: &TcpStream, worker: &Worker) -> Result<(usize, u16), Error> {
    let port = OrigDst::of(tcp, &worker.own_ports)?.address().port();
    let snapshot = worker.mesh.load();
    let is_for = |inbound: &Inbound| inbound.is_captured && inbound.forward.port() == port;
    let index = snapshot.inbound.iter().position(is_for).ok_or(Error::UndeclaredPort(port))?;
    Ok((index, port))
}

/// What comes in.
type Downstream = Transport<UnbufferedServerConnection>;

/// What a connection carries, after its protocol is known.
enum Carries {
    Http(Version),
    /// With the application's end, if that was connected in case it speaks first.
    Opaque(Option<Rewound<Candidate>>),
}

/// What the requests of one connection share.
#[derive(Debug)]
pub(crate) struct Connection {
    client: Rc<Client>,
    downstream: SocketAddr,
    /// Of the listener.
    port: usize,
    worker: Rc<Worker>,
}

impl http_stage::Handler for Connection {
    async fn until_ended(&self) -> Error {
        self.client.until_untrusted(self.worker.mesh.clone()).await
    }

    /// It would carry bytes that no policy judges.
    async fn connect(&self, _: Request<RequestBody>, _: &mut Record) -> Result<upstream::peer::Link, Error> {
        Err(Error::bad_request(Code::UnsupportedRequest, "CONNECT"))
    }

    async fn forward(&self, request: Request<RequestBody>, record: &mut Record) -> Result<Answer, Error> {
        forward(request, record, self).await
    }
}

/// The port that policy judges is always that of the `inbound` that is forwarded to.
fn caller<'a>(client: &'a Client, downstream: SocketAddr, inbound: &Inbound) -> Caller<'a> {
    let (port, protocol) = (inbound.forward.port(), inbound.protocol);
    Caller { client, ip: downstream.ip(), port, protocol, sni: None }
}

/// Handshakes in flight are bounded: the rest waits, each within its own time.
async fn terminate(tcp: TcpStream, snapshot: &Snapshot, worker: &Worker) -> Result<Terminated, Error> {
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
    stream: Downstream,
    alpn: Option<&[u8]>,
    caller: Caller<'_>,
    inbound: &Inbound,
    worker: &Worker,
) -> Result<(Carries, Rewound<Downstream>), Error> {
    let fresh = |detected, stream| Heard { detected, downstream: Rewound::fresh(stream), upstream: None };
    let Heard { detected, downstream, upstream } = match (alpn, inbound.protocol) {
        (Some(ALPN_HTTP2), _) => fresh(Detected::Http2, stream),
        (Some(ALPN_HTTP1), _) => fresh(Detected::Http1, stream),
        (Some(ALPN_TCP), _) | (None, Protocol::Tcp) => fresh(Detected::Opaque, stream),
        _ => unnamed(stream, caller, inbound, worker).await?,
    };
    let carries = match detected {
        Detected::Http1 => Carries::Http(Version::HTTP_11),
        Detected::Http2 => Carries::Http(Version::HTTP_2),
        Detected::Opaque => Carries::Opaque(upstream),
    };
    match (inbound.protocol, &carries) {
        (Protocol::Http | Protocol::Http2, Carries::Opaque(_)) => {
            Err(Error::ProtocolMismatch { declared: "http", seen: "opaque bytes" })
        }
        (Protocol::Tcp, Carries::Http(_)) => Err(Error::ProtocolMismatch { declared: "tcp", seen: "http" }),
        _ => Ok((carries, downstream)),
    }
}

/// What the first bytes of a link say that negotiated nothing. An application that may speak first is listened to if the caller
/// would be admitted with an opaque connection.
async fn unnamed(
    stream: Downstream,
    caller: Caller<'_>,
    inbound: &Inbound,
    worker: &Worker,
) -> Result<Heard<Downstream, Candidate>, Error> {
    let Limits { detect_timeout, quiet_timeout, .. } = *worker.limits;
    if inbound.protocol != Protocol::Auto {
        let (detected, downstream) = detect::protocol(stream, detect_timeout).await?;
        return Ok(Heard { detected, downstream, upstream: None });
    }
    let candidate = async || {
        let consent = Asker { caller, worker }.about_connection().await.ok()?;
        let permit = authorize::connection(caller, (), consent, &worker.mesh.snapshot()).ok()?;
        upstream::app::connect(permit, &inbound.forward, &worker.pool).await.ok()
    };
    detect::first_to_speak(stream, quiet_timeout, detect_timeout, candidate).await
}
