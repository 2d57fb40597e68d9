//! To another sidecar, over mutual TLS or not at all. Each endpoint must prove one of the service's identities.

use std::{io, net::SocketAddr, rc::Rc};

use http::{Request, Version};
use sidegate_codes::Code;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Answer, Pool,
    dial::{Carries, Destination, Dialed},
    pool::Failure,
    stream::{Carried, OverTcp, Stream, carry, carry_tunnel},
};
use crate::{
    balance::{Balancer, Picked},
    error::Error,
    http::{Checked, RequestBody},
    snapshot::{PeerTls, Service},
    telemetry::Record,
};

/// A service with the means to reach it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach<'a> {
    pub(crate) name: &'a str,
    pub(crate) service: &'a Service,
    pub(crate) balancer: &'a Balancer,
    pub(crate) pool: &'a Rc<Pool>,
}

/// A connected link to a peer.
#[derive(Debug)]
pub(crate) struct Link {
    dialed: Dialed,
    destination: Destination,
    _in_flight: Picked,
}

/// Sends a request to an endpoint of the service; to another one if it was certainly not sent. `record` learns which
/// endpoint it was and who answered there.
pub(crate) async fn send(
    request: Checked<RequestBody>,
    version: Version,
    reach: Reach<'_>,
    record: &mut Record,
) -> Result<Answer, Error> {
    let tls = reach.tls()?;
    let is_http2 = version == Version::HTTP_2;
    let mut request = if is_http2 { request.into_http2()? } else { request.into_http1() };
    let mut tried = Vec::new();
    loop {
        let in_flight = reach.pick(&tried)?;
        let endpoint = in_flight.endpoint();
        record.upstream(&endpoint);
        let destination = Destination::Peer { address: endpoint, tls: tls.clone() };
        let result = send_once(request, is_http2, &destination, reach.pool).await;
        if let Ok(Answer { peer: Some(peer), .. }) | Err(Failure { peer: Some(peer), .. }) = &result {
            record.proven(peer);
        }
        match result {
            Ok(answer) => {
                record.counted_at(in_flight);
                return Ok(answer);
            }
            Err(Failure { unsent: Some(unsent), .. }) if reach.has_more(&tried, endpoint) => {
                tried.push(endpoint);
                request = *unsent;
            }
            Err(failure) => return Err(failure.error),
        }
    }
}

async fn send_once(
    request: Request<RequestBody>,
    is_http2: bool,
    destination: &Destination,
    pool: &Rc<Pool>,
) -> Result<Answer, Failure> {
    if is_http2 {
        pool.send_http2(destination, request).await
    } else {
        pool.send_http1(destination, request).await
    }
}

/// Connects a link of its own to an endpoint of the service, noting in `record` where and to whom.
pub(crate) async fn connect(reach: Reach<'_>, carries: Carries, record: &mut Record) -> Result<Link, Error> {
    let tls = reach.tls()?;
    let mut tried = Vec::new();
    loop {
        let in_flight = reach.pick(&tried)?;
        let endpoint = in_flight.endpoint();
        record.upstream(&endpoint);
        let destination = Destination::Peer { address: endpoint, tls: tls.clone() };
        match reach.pool.dialer().dial(&destination, carries).await {
            Ok(dialed) => {
                if let Some(peer) = &dialed.peer {
                    record.proven(peer.id());
                }
                return Ok(Link { dialed, destination, _in_flight: in_flight });
            }
            Err(_) if reach.has_more(&tried, endpoint) => tried.push(endpoint),
            Err(error) => return Err(error),
        }
    }
}

impl Link {
    /// Carries the application's connection until both sides have ended, or the peer is trusted or expected no longer.
    pub(crate) async fn carry<S: AsyncRead + AsyncWrite + OverTcp + Unpin>(
        self,
        downstream: S,
        pool: &Pool,
        carried: &Carried,
    ) -> Result<(), Error> {
        self.while_trusted(pool, |stream| carry(downstream, stream, carried)).await
    }

    /// The same for what was a request of the application's before.
    pub(crate) async fn carry_upgraded<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        downstream: S,
        pool: &Pool,
        carried: &Carried,
    ) -> Result<(), Error> {
        self.while_trusted(pool, |stream| carry_tunnel(downstream, stream, carried)).await
    }

    async fn while_trusted<C: Future<Output = io::Result<()>>>(
        self,
        pool: &Pool,
        carrying: impl FnOnce(Stream) -> C,
    ) -> Result<(), Error> {
        let Dialed { stream, peer } = self.dialed;
        let destination = &self.destination;
        let untrusted = async {
            match &peer {
                None => std::future::pending().await,
                Some(peer) => {
                    let is_expected = |snapshot: &_| destination.expects(peer.id(), snapshot);
                    peer.until_untrusted(pool.dialer().mesh.clone(), is_expected).await
                }
            }
        };
        tokio::select! {
            // First, so that a cut is told as a cut.
            biased;
            ended = untrusted => Err(ended),
            result = carrying(stream) => {
                result.map_err(|error| Error::Upstream { code: Code::UpstreamFailed, detail: error.to_string() })
            }
        }
    }
}

impl<'a> Reach<'a> {
    fn tls(&self) -> Result<&'a PeerTls, Error> {
        self.service.tls.as_ref().ok_or(Error::NoCredentials)
    }

    fn pick(&self, tried: &[SocketAddr]) -> Result<Picked, Error> {
        self.balancer
            .pick(&self.service.endpoints, tried)
            .ok_or_else(|| Error::NoEndpoints(self.name.to_owned()))
    }

    fn has_more(&self, tried: &[SocketAddr], last: SocketAddr) -> bool {
        tried.len() + 1 < MOST_TRIES
            && self.service.endpoints.iter().any(|endpoint| *endpoint != last && !tried.contains(endpoint))
    }
}

const MOST_TRIES: usize = 3;
