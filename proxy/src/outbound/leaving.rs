//! What is for nobody in the mesh: a request, a tunnel or opaque bytes of the application's go in, and go on as far as
//! `egress` lets them leave. Each is judged again for as long as it is open.

use std::{net::SocketAddr, rc::Rc};

use http::{Request, Version};

use super::{Way, http};
use crate::{
    accept::Accepted,
    config::Limits,
    detect::{self, Detected, Rewound},
    egress::{self, Leave, Name},
    error::Error,
    http::{Checked, RequestBody, tunnel},
    orig_dst::OrigDst,
    telemetry::{Carried, Direction, Ends, Exchange, Record, TlsState},
    upstream::{self, Answer, outside, peer},
    worker::{Link, Worker},
};

/// A captured connection that may leave as what it is, bytes to an address.
pub(super) async fn pass_through(accepted: Accepted, leave: Leave, way: Way, worker: &Rc<Worker>) {
    let Accepted { tcp, .. } = accepted;
    let exchange = exchange(accepted.downstream, accepted.place, way, worker);
    carry(Rewound::fresh(tcp), async || Ok(leave), &exchange, worker).await;
}

/// A captured connection that may leave by a name in it, if at all.
pub(super) async fn read(accepted: Accepted, original: OrigDst, way: Way, worker: &Rc<Worker>) {
    let Accepted { tcp, downstream, place } = accepted;
    let exchange = exchange(downstream, place, way, worker);
    let Limits { detect_timeout, .. } = *worker.limits;
    let ended = match detect::protocol(tcp, detect_timeout).await {
        Err(error) => Err(error),
        Ok((Detected::Http1, stream)) => http(stream, Version::HTTP_11, &exchange, way, worker).await,
        Ok((Detected::Http2, stream)) => http(stream, Version::HTTP_2, &exchange, way, worker).await,
        Ok((Detected::Opaque, stream)) => match detect::server_name(stream, detect_timeout).await {
            Err(error) => Err(error),
            Ok((name, stream)) => {
                let leave = async || by_server_name(name, original.address(), worker).await;
                carry(stream, leave, &exchange, worker).await;
                return;
            }
        },
    };
    Record::ended(&exchange, ended);
}

/// A request whose host is no service's. A captured one leads to what its host says, and not to where it was going.
pub(super) async fn request(
    checked: Checked<RequestBody>,
    version: Version,
    way: Way,
    record: &mut Record,
    worker: &Rc<Worker>,
) -> Result<Answer, Error> {
    let going_to = way.captured.map(OrigDst::address);
    let port = going_to.map(|address| address.port()).or(checked.port()).unwrap_or(HTTP_PORT);
    let leave = egress::to_name(Name::Host(checked.host().into()), port, going_to, worker).await?;
    record.leaves(&leave);
    let flow = Rc::clone(record.flow());
    record.judged_again_at(worker.open.enter_leaving(leave.clone(), Rc::clone(&flow)));
    tokio::select! {
        // First, so that a cut is told as a cut.
        biased;
        denied = flow.until_cut() => Err(denied),
        answer = outside::send(checked, version, &leave, &worker.pool) => answer,
    }
}

/// A tunnel to a host that is no service's.
pub(super) async fn connect<B>(
    request: &Request<B>,
    record: &mut Record,
    worker: &Worker,
) -> Result<peer::Link, Error> {
    let (host, port) = tunnel::target(request)?;
    let leave = egress::to_name(Name::Host(host.into()), port, None, worker).await?;
    record.leaves(&leave);
    outside::connect(leave, &worker.pool).await
}

async fn by_server_name(name: Option<String>, original: SocketAddr, worker: &Worker) -> Result<Leave, Error> {
    match name {
        None => egress::to_address(original, &worker.mesh.load()),
        Some(name) => {
            egress::to_name(Name::ServerName(name.into()), original.port(), Some(original), worker).await
        }
    }
}

/// Carries opaque bytes, counted and shown as plaintext, for as long as they may leave.
async fn carry(
    downstream: Rewound<tokio::net::TcpStream>,
    leave: impl AsyncFnOnce() -> Result<Leave, Error>,
    exchange: &Rc<Exchange>,
    worker: &Rc<Worker>,
) {
    let mut record = Record::begin(exchange, Carried::Tcp);
    let carried = upstream::Carried::default();
    let result = async {
        let leave = leave().await?;
        record.leaves(&leave);
        let link = outside::connect(leave, &worker.pool).await?;
        peer::Link::carry(Rewound::fresh(link), downstream, &worker.pool, &carried).await
    };
    let result = result.await;
    record.end(&carried, result);
}

fn exchange(
    downstream: SocketAddr,
    place: crate::accept::Place,
    way: Way,
    worker: &Rc<Worker>,
) -> Rc<Exchange> {
    let ends = Ends { source: worker.mesh.load().own_id(), destination: None };
    let link = Link { ends, tls: TlsState::Plaintext, place: Some(place) };
    let port = way.captured.map_or(0, |original| original.address().port());
    Rc::new(worker.exchange(Direction::Outbound, downstream, port, link))
}

/// Of a request to a proxy that names none (RFC 9110 §4.2.1).
const HTTP_PORT: u16 = 80;
