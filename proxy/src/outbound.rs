//! The outbound path: the local application's connection comes in, another service's answer goes out, over mutual TLS
//! or not at all.
//!
//! ```text
//! accept → detect → route → balance → tls (originate, verify the peer's identity) → upstream (peer)
//! ```

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
    config::{LeadsTo, Protocol},
    detect::{self, Detected, Rewound},
    error::Error,
    http::{self as http_stage, Checked, RequestBody, Rules},
    route,
    snapshot::Route,
    telemetry::{Carried, Direction, Ends, Exchange, Record, TlsState},
    upstream::{self, Answer, Carries, peer::Reach},
    worker::{Link, Worker},
};

/// One outbound connection, start to end. Each line may end it; each returns what the next one needs.
pub(crate) async fn serve(accepted: Accepted, port: usize, worker: &Rc<Worker>) {
    let Accepted { tcp, downstream, place } = accepted;
    let snapshot = worker.mesh.snapshot();
    let declared = snapshot.outbound[port].port.protocol;
    let ends = Ends { source: snapshot.own_id(), destination: None };
    // Until a peer has proven itself, there is no link.
    let link = Link { ends, tls: TlsState::Failed, place: Some(place) };
    let listening = snapshot.outbound[port].port.listen.port();
    let exchange = Rc::new(worker.exchange(Direction::Outbound, downstream, listening, link));

    let served = async {
        let (detected, stream) = protocol(tcp, declared, worker).await?;
        match detected {
            Detected::Http1 => http(stream, Version::HTTP_11, &exchange, port, worker).await,
            Detected::Http2 => http(stream, Version::HTTP_2, &exchange, port, worker).await,
            Detected::Opaque => opaque(stream, &exchange, port, worker).await,
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
    let port = &snapshot.outbound[connection.port];

    proxy::refuse_https(port, &request)?;
    let paths = port.port.paths;
    let checked = Checked::new(request, Rules { paths, limits: &worker.limits, removes_identity: false })?;
    let chosen = choose::by_host(port, checked.host())?;
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
    port: usize,
    worker: &Rc<Worker>,
) -> Result<(), Error> {
    let connection = Connection { port, worker: Rc::clone(worker) };
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
    port: usize,
    worker: &Rc<Worker>,
) -> Result<(), Error> {
    let mut record = Record::begin(exchange, Carried::Tcp);
    let carried = upstream::Carried::default();
    let snapshot = worker.mesh.snapshot();
    let result = async {
        let (chosen, stream) = opaquely(stream, &snapshot.outbound[port], worker).await?;
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
    route: &'a Route,
    worker: &Worker,
) -> Result<(Chosen<'a>, Rewound<TcpStream>), Error> {
    if let LeadsTo::One(_) = route.port.leads_to {
        return Ok((choose::nameless(route)?, stream));
    }
    let (name, mut stream) = detect::server_name(stream, worker.limits.detect_timeout).await?;
    let Some(name) = name else { return Ok((choose::nameless(route)?, stream)) };
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
    port: usize,
    worker: Rc<Worker>,
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
        proxy::connect(request, self.port, record, &self.worker).await
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
