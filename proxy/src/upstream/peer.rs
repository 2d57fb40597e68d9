//! To another sidecar, over mutual TLS or not at all. Each endpoint must prove one of the service's identities.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use http::{Request, Version};
use sidegate_codes::Code;
use sidegate_identity::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Answer, Pool,
    dial::{Carries, Destination, Stream, dial},
    pool::Failure,
    stream::{Carried, carry},
};
use crate::{
    balance::{Balancer, Picked},
    config::Limits,
    error::Error,
    http::{Checked, RequestBody},
    identity::Peer,
    snapshot::{PeerTls, Reader, Service},
};

/// A service with the means to reach it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach<'a> {
    pub(crate) name: &'a str,
    pub(crate) service: &'a Service,
    pub(crate) balancer: &'a Balancer,
}

/// An answer, the endpoint that gave it, and its count of what is in flight there.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) endpoint: SocketAddr,
    pub(crate) in_flight: Picked,
}

/// A connected link to a peer.
#[derive(Debug)]
pub(crate) struct Link {
    stream: Stream,
    peer: Option<Arc<Peer>>,
    endpoint: SocketAddr,
    _in_flight: Picked,
}

/// Sends a request to an endpoint of the service; to another one if it was certainly not sent.
pub(crate) async fn send(
    request: Checked<RequestBody>,
    version: Version,
    reach: Reach<'_>,
    pool: &Rc<Pool>,
) -> Result<Answered, Error> {
    let tls = reach.tls()?;
    let is_http2 = version == Version::HTTP_2;
    let mut request = if is_http2 {
        request.into_http2()?
    } else {
        request.into_http1()
    };
    let mut tried = Vec::new();
    loop {
        let in_flight = reach.pick(&tried)?;
        let endpoint = in_flight.endpoint();
        let destination = Destination::Peer {
            address: endpoint,
            tls: tls.clone(),
        };
        match send_once(request, is_http2, &destination, pool).await {
            Ok(answer) => {
                return Ok(Answered {
                    answer,
                    endpoint,
                    in_flight,
                });
            }
            Err(Failure {
                unsent: Some(unsent), ..
            }) if reach.has_more(&tried, endpoint) => {
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

/// Connects an opaque link to an endpoint of the service.
pub(crate) async fn connect(reach: Reach<'_>, limits: &Limits, trust: &Reader) -> Result<Link, Error> {
    let tls = reach.tls()?;
    let mut tried = Vec::new();
    loop {
        let in_flight = reach.pick(&tried)?;
        let endpoint = in_flight.endpoint();
        let destination = Destination::Peer {
            address: endpoint,
            tls: tls.clone(),
        };
        match dial(&destination, Carries::Tcp, limits.connect_timeout, trust).await {
            Ok((stream, peer)) => {
                return Ok(Link {
                    stream,
                    peer,
                    endpoint,
                    _in_flight: in_flight,
                });
            }
            Err(_) if reach.has_more(&tried, endpoint) => tried.push(endpoint),
            Err(error) => return Err(error),
        }
    }
}

impl Link {
    /// Who answered.
    pub(crate) fn peer(&self) -> Option<&SpiffeId> {
        self.peer.as_ref().map(|peer| peer.id())
    }

    /// Where.
    pub(crate) fn endpoint(&self) -> SocketAddr {
        self.endpoint
    }

    /// Carries the application's connection until both sides have ended, or the peer is trusted no longer.
    pub(crate) async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        downstream: S,
        trust: Reader,
        carried: &Carried,
    ) -> Result<(), Error> {
        let untrusted = async {
            match &self.peer {
                Some(peer) => peer.until_untrusted(trust).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // First, so that a cut is told as a cut.
            biased;
            ended = untrusted => Err(ended),
            result = carry(downstream, self.stream, carried) => {
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
            && self
                .service
                .endpoints
                .iter()
                .any(|endpoint| *endpoint != last && !tried.contains(endpoint))
    }
}

const MOST_TRIES: usize = 3;
