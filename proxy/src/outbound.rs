//! The outbound path: the local application's connection comes in, another service's answer goes out, over mutual TLS
//! or not at all.
//!
//! ```text
//! accept → detect → route → balance → tls (originate, verify the peer's identity) → upstream (peer)
//! ```

mod captured;
mod choose;
mod proxy;
mod ruled;

use std::rc::Rc;

use http::{Request, Version};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use choose::Chosen;

use crate::{
    accept::Accepted,
    authorize::Asked,
    config::{LeadsTo, Outbound, Protocol},
    detect::{self, Detected, Rewound},
    error::Error,
    http::{self as http_stage, Checked, RequestBody, Rules},
    orig_dst::OrigDst,
    route,
    snapshot::Snapshot,
    telemetry::{Carried, Direction, Ends, Exchange, Record, TlsState},
    upstream::{self, Answer, Carries, peer::Reach},
    worker::{Link, Worker},
};

use captured::Admitted;

/// One outbound connection, start to end. Only one that was captured can lead past the mesh.
pub(crate) async fn serve(accepted: Accepted, port: usize, worker: &Rc<Worker>) {
    match captured::admit(&accepted, port, worker) {
        Ok(Admitted::Mesh(way)) => serve_mesh(accepted, way, worker).await,
        Ok(Admitted::Passthrough(original, way, name)) => {
            captured::pass_through(accepted, original, way, name, worker).await;
        }
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
        let (detected, stream) = protocol(tcp, way.declared(&snapshot), worker).await?;
        match detected {
            Detected::Http1 => http(stream, Version::HTTP_11, &exchange, way, worker).await,
            Detected::Http2 => http(stream, Version::HTTP_2, &exchange, way, worker).await,
            Detected::Opaque => opaque(stream, &exchange, way, worker).await,
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
    let checked = Checked::new(request, Rules { paths, limits: &worker.limits, removes_identity: false })?;
    let chosen = choose::by_host(&snapshot, connection.way, checked.host())?;
    match route::rule(chosen.name, chosen.service, &checked)? {
        None => send(checked, version, chosen.reach(worker), record).await,
        Some(matched) => {
            let limit = matched.rule.timeouts.request;
            let ruled = ruled::Ruled { matched, called: chosen, paths, snapshot: &snapshot, worker };
            route::within(limit, ruled.send(checked, version, record)).await
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
    let websocket = checked.is_websocket().then(|| Asked::of(&checked));
    let answer = upstream::peer::send(checked, version, reach, record).await?;
    Ok(Answer { websocket, ..answer })
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

async fn opaque(
    stream: Rewound<TcpStream>,
    exchange: &Rc<Exchange>,
    way: Way,
    worker: &Rc<Worker>,
) -> Result<(), Error> {
    let mut record = Record::begin(exchange, Carried::Tcp);
    let carried = upstream::Carried::default();
    let snapshot = worker.mesh.snapshot();
    let result = async {
        let (chosen, stream) = opaquely(stream, &snapshot, way, worker).await?;
        let link = upstream::peer::connect(chosen.reach(worker), Carries::Tcp, &mut record).await?;
        link.carry(stream, &worker.pool, &carried).await
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
    if let LeadsTo::One(_) | LeadsTo::Captured(_) = route.port.leads_to {
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

/// What the requests of one connection share.
#[derive(Debug)]
struct Connection {
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
    /// The peer's sidecar judges, and the pool severs the stream of a peer that is trusted no longer.
    async fn until_refused(&self, _asked: Asked) -> Error {
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

/// What the application speaks, as declared or as its first bytes say.
async fn protocol(
    tcp: TcpStream,
    declared: Protocol,
    worker: &Worker,
) -> Result<(Detected, Rewound<TcpStream>), Error> {
    if declared == Protocol::Tcp {
        return Ok((Detected::Opaque, Rewound::fresh(tcp)));
    }
    let (detected, stream) = detect::protocol(tcp, worker.limits.detect_timeout).await?;
    match (declared, detected) {
        (Protocol::Http | Protocol::Http2, Detected::Opaque) => {
            Err(Error::ProtocolMismatch { declared: "http", seen: "opaque bytes" })
        }
        _ => Ok((detected, stream)),
    }
}

/// The TLS alert for a server name that is not known (RFC 6066 §3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
