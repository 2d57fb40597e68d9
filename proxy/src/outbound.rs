//! The outbound path: the local application's connection comes in, another service's answer goes out, over mutual TLS
//! or not at all.
//!
//! ```text
//! accept → detect → route → balance → tls (originate, verify the peer's identity) → upstream (peer)
//! ```

mod captured;
mod choose;
mod leaving;
mod proxy;
mod ruled;

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use http::{Request, Version};
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

use choose::Chosen;

use crate::{
    accept::Accepted,
    config::{LeadsTo, Limits, Outbound, Protocol},
    detect::{self, Detected, Heard, Rewound},
    error::Error,
    http::{self as http_stage, Checked, RequestBody, Rules},
    orig_dst::OrigDst,
    route,
    snapshot::Snapshot,
    telemetry::{Carried, Direction, Ends, Exchange, Record, TlsState},
    upstream::{
        self, Answer, Carries,
        peer::{self, Reach},
    },
    worker::{Link, Worker},
};

use captured::Admitted;

/// One outbound connection, start to end.
pub(crate) async fn serve(accepted: Accepted, port: usize, worker: &Rc<Worker>) {
    match captured::admit(&accepted, port, worker) {
        Ok(Admitted::Mesh(way)) => serve_mesh(accepted, way, worker).await,
        Ok(Admitted::Leaving(leave, way)) => {
            Box::pin(leaving::pass_through(accepted, leave, way, worker)).await;
        }
        Ok(Admitted::Unread(original, way)) => Box::pin(leaving::read(accepted, original, way, worker)).await,
        Err((called, error)) => worker.refused(Direction::Outbound, accepted.downstream, called, &error),
    }
}

/// One connection to a service of the mesh. Each line may end it; each returns what the next one needs.
async fn serve_mesh(accepted: Accepted, way: Way, worker: &Rc<Worker>) {
    let snapshot = worker.mesh.snapshot();
    let outbound = &snapshot.outbound[way.port].port;
    let Accepted { tcp, downstream, place } = accepted;
    let ends = Ends { source: snapshot.own_id(), destination: None };
    // Until a peer has proven itself, there is no link.
    let link = Link { ends, tls: TlsState::Failed, place: Some(place) };
    let exchange = Rc::new(worker.exchange(Direction::Outbound, downstream, way.called_port(outbound), link));

    let served = async {
        // Boxed, so that each kind of connection holds room for what it is, and for nothing that is over.
        let Heard { detected, downstream, upstream } =
            Box::pin(protocol(tcp, way.declared(&snapshot), &exchange, way, worker)).await?;
        match detected {
            Detected::Http1 => Box::pin(http(downstream, Version::HTTP_11, &exchange, way, worker)).await,
            Detected::Http2 => Box::pin(http(downstream, Version::HTTP_2, &exchange, way, worker)).await,
            Detected::Opaque => Box::pin(opaque(downstream, upstream, &exchange, way, worker)).await,
        }
    };
    Record::ended(&exchange, served.await);
}

/// One request of a connection: routed under the snapshot of its own moment.
async fn forward(
    request: Request<RequestBody>,
    record: &mut Record,
    connection: &Connection,
) -> Result<Answer, Error> {
    let worker = &connection.worker;
    let version = request.version();
    let snapshot = worker.mesh.snapshot();
    let port = &snapshot.outbound[connection.way.port];

    proxy::refuse_https(port, &request)?;
    let paths = port.port.paths;
    let reads =
        Rules { paths, upgrades: &port.port.upgrades, limits: &worker.limits, removes_identity: false };
    let checked = Checked::new(request, reads)?;
    let chosen = match choose::by_host(&snapshot, connection.way, checked.host()) {
        Err(Error::UnknownHost(_) | Error::UnknownDestination(_)) if connection.may_leave(&snapshot) => {
            // On the heap, as is what follows a route: each is larger than what most requests do.
            return Box::pin(leaving::request(checked, version, connection.way, record, worker)).await;
        }
        chosen => chosen?,
    };
    match route::rule(chosen.name, chosen.service, &checked)? {
        None => send(checked, version, chosen.reach(worker), record).await,
        Some(matched) => {
            let limit = matched.rule.timeouts.request;
            let ruled = ruled::Ruled { matched, called: chosen, paths, snapshot: &snapshot, worker };
            route::within(limit, Box::pin(ruled.send(checked, version, record)).as_mut()).await
        }
    }
}

/// What is sent is what the peer's sidecar judges.
async fn send(
    checked: Checked<RequestBody>,
    version: Version,
    reach: Reach<'_>,
    record: &mut Record,
) -> Result<Answer, Error> {
    let opening = checked.opening().cloned();
    let answer = upstream::peer::send(checked, version, reach, record).await?;
    Ok(Answer { opening, ..answer })
}

async fn http(
    stream: Rewound<TcpStream>,
    version: Version,
    exchange: &Rc<Exchange>,
    way: Way,
    worker: &Rc<Worker>,
) -> Result<(), Error> {
    let connection = Connection { way, worker: Rc::clone(worker) };
    http_stage::serve(
        stream,
        version,
        Rc::clone(exchange),
        connection,
        worker,
        worker.stopped(Direction::Outbound),
    )
    .await
}

/// An opaque connection, over `candidate` if it was connected already.
async fn opaque(
    stream: Rewound<TcpStream>,
    candidate: Option<Rewound<Box<Candidate>>>,
    exchange: &Rc<Exchange>,
    way: Way,
    worker: &Rc<Worker>,
) -> Result<(), Error> {
    let carried = upstream::Carried::default();
    let snapshot = worker.mesh.snapshot();
    let leads_to = &snapshot.outbound[way.port].port.leads_to;
    // A server that has spoken is the right one; a client that has may still name another.
    let is_only_one = matches!(leads_to, LeadsTo::One(_) | LeadsTo::Captured);
    let candidate = candidate.filter(|ready| ready.has_read() || is_only_one);
    let (mut record, candidate) = match candidate.map(Rewound::into_parts) {
        Some((said, ready)) => {
            let Candidate { link, record } = *ready;
            (record, Some(Rewound::new(said, link)))
        }
        None => (Record::begin(exchange, Carried::Tcp), None),
    };
    record.certain();
    let result = async {
        if let Some(link) = candidate {
            return peer::Link::carry(link, stream, &worker.pool, &carried).await;
        }
        let (chosen, stream) = Box::pin(opaquely(stream, &snapshot, way, worker)).await?;
        let link = Box::pin(peer::connect(chosen.reach(worker), Carries::Tcp, &mut record)).await?;
        peer::Link::carry(Rewound::fresh(link), stream, &worker.pool, &carried).await
    };
    let result = result.await;
    record.end(&carried, result);
    Ok(())
}

/// Which service opaque bytes are for. Where only one can be meant, they are not looked into.
async fn opaquely<'a>(
    stream: Rewound<TcpStream>,
    snapshot: &'a Snapshot,
    way: Way,
    worker: &Worker,
) -> Result<(Chosen<'a>, Rewound<TcpStream>), Error> {
    let route = &snapshot.outbound[way.port];
    if let LeadsTo::One(_) | LeadsTo::Captured = route.port.leads_to {
        return Ok((choose::nameless(snapshot, way)?, stream));
    }
    let (name, mut stream) = detect::server_name(stream, worker.limits.detect_timeout).await?;
    let Some(name) = name else { return Ok((choose::nameless(snapshot, way)?, stream)) };
    let chosen = choose::by_server_name(route, &name);
    if let Err(Error::UnknownHost(_)) = &chosen {
        // So that the client says what was wrong. Whoever does not read it is closed all the same.
        let _ = stream.write_all(&UNRECOGNIZED_NAME).await;
    }
    Ok((chosen?, stream))
}

/// A link that was connected in case the server speaks first. It has a record if it turns out to be needed.
#[derive(Debug)]
struct Candidate {
    link: peer::Link,
    record: Record,
}

impl Candidate {
    async fn connect(exchange: &Rc<Exchange>, way: Way, worker: &Worker) -> Option<Box<Self>> {
        let snapshot = worker.mesh.snapshot();
        let chosen = choose::nameless(&snapshot, way).ok()?;
        let mut record = Record::tentative(exchange, Carried::Tcp);
        let link = peer::connect(chosen.reach(worker), Carries::Tcp, &mut record).await.ok()?;
        Some(Box::new(Self { link, record }))
    }
}

impl AsyncRead for Candidate {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_read(cx, buf)
    }
}

/// What the requests of one connection share.
#[derive(Debug)]
pub(crate) struct Connection {
    way: Way,
    worker: Rc<Worker>,
}

/// What a connection says by itself of where it goes.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// Of the listener.
    port: usize,
    /// Where it was going before it was captured.
    captured: Option<OrigDst>,
}

impl Connection {
    /// Whether what is no service's may be somebody's outside of the mesh. An address in doubt is none of theirs.
    fn may_leave(&self, snapshot: &Snapshot) -> bool {
        match &snapshot.outbound[self.way.port].port.leads_to {
            LeadsTo::Proxy(_) => true,
            LeadsTo::Captured => {
                self.way.captured.is_some_and(|original| !snapshot.called_at.is_claimed(original.address()))
            }
            LeadsTo::One(_) | LeadsTo::ByHost(_) => false,
        }
    }
}

impl Way {
    /// The port that the application called.
    fn called_port(self, outbound: &Outbound) -> u16 {
        self.captured.map_or(outbound.listen.port(), |original| original.address().port())
    }

    /// What the application speaks: as its service is declared, if that is known by the address, else as the port is.
    fn declared(self, snapshot: &Snapshot) -> Protocol {
        let called = self.captured.and_then(|original| snapshot.called_at.get(original.address()));
        match called.map(|called| called.protocol) {
            None | Some(Protocol::Auto) => snapshot.outbound[self.port].port.protocol,
            Some(declared) => declared,
        }
    }
}

impl http_stage::Handler for Connection {
    /// The pool severs the stream of a peer that is trusted no longer.
    async fn until_ended(&self) -> Error {
        std::future::pending().await
    }

    async fn connect(
        &self,
        request: Request<RequestBody>,
        record: &mut Record,
    ) -> Result<upstream::peer::Link, Error> {
        proxy::connect(request, self.way.port, record, &self.worker).await
    }

    async fn forward(&self, request: Request<RequestBody>, record: &mut Record) -> Result<Answer, Error> {
        forward(request, record, self).await
    }
}

/// What the application speaks, as declared, or as the first bytes of either side say.
async fn protocol(
    tcp: TcpStream,
    declared: Protocol,
    exchange: &Rc<Exchange>,
    way: Way,
    worker: &Worker,
) -> Result<Heard<TcpStream, Box<Candidate>>, Error> {
    let Limits { detect_timeout, quiet_timeout, .. } = *worker.limits;
    let (detected, downstream) = match declared {
        Protocol::Tcp => (Detected::Opaque, Rewound::fresh(tcp)),
        Protocol::Auto => {
            let candidate = async || Candidate::connect(exchange, way, worker).await;
            return detect::first_to_speak(tcp, quiet_timeout, detect_timeout, candidate).await;
        }
        Protocol::Http | Protocol::Http2 => detect::protocol(tcp, detect_timeout).await?,
    };
    if declared != Protocol::Tcp && detected == Detected::Opaque {
        return Err(Error::ProtocolMismatch { declared: "http", seen: "opaque bytes" });
    }
    Ok(Heard { detected, downstream, upstream: None })
}

/// The TLS alert for a server name that is not known (RFC 6066 §3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
