//! What only a forward proxy does: a CONNECT goes in, a link to the service that it names comes out, once that service's
//! sidecar has proven itself, or to somebody outside of the mesh, if that may be. Refuses tunnels on every other port, and the TLS that an `https:` target asks of a proxy.

use http::{Request, uri::Scheme};
use sidegate_codes::Code;

use super::{choose, leaving};
use crate::{
    config::{LeadsTo, Protocol},
    error::Error,
    http::tunnel,
    snapshot::Route,
    telemetry::Record,
    upstream::{Carries, peer},
    worker::Worker,
};

/// Opens a tunnel. What it will carry is not known before its answer, so the link promises nothing: the far sidecar
/// finds out, and judges HTTP in it as HTTP. A service that is declared to speak other bytes gets them as such.
pub(super) async fn connect<B>(
    request: Request<B>,
    port: usize,
    record: &mut Record,
    worker: &Worker,
) -> Result<peer::Link, Error> {
    let snapshot = worker.mesh.snapshot();
    let route = &snapshot.outbound[port];
    let LeadsTo::Proxy(table) = &route.port.leads_to else {
        return Err(Error::bad_request(Code::UnsupportedRequest, "CONNECT to a port that is no proxy"));
    };
    let host = tunnel::host(&request)?;
    let Some(index) = table.find(&host) else { return leaving::connect(&request, record, worker).await };
    let carries = match table.protocol(index) {
        Protocol::Tcp => Carries::Tcp,
        Protocol::Auto | Protocol::Http | Protocol::Http2 => Carries::Any,
    };
    peer::connect(choose::nth(route, index)?.reach(worker), carries, record).await
}

/// A client that sends `GET https://…` to its proxy wants TLS between the two, and would take the answer for the one of
/// a server that it has verified.
pub(super) fn refuse_https<B>(route: &Route, request: &Request<B>) -> Result<(), Error> {
    let is_proxy = matches!(route.port.leads_to, LeadsTo::Proxy(_));
    if is_proxy && request.uri().scheme() == Some(&Scheme::HTTPS) {
        return Err(Error::bad_request(Code::UnsupportedRequest, "an https target; ask for it by CONNECT"));
    }
    Ok(())
}
