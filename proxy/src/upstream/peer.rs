//! To another sidecar, over mutual TLS or not at all. Each endpoint must prove one of the service's identities. What
//! fails is tried again where `resilience` says that it may be.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Method, Version};
use sidegate_codes::Code;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    Answer, Bounds, Pool,
    deadline::time_for,
    dial::{Carries, Destination, Dialed},
    pool::{Failure, Lent},
    sending::Sending,
    stream::{Carried, Stream, carry, carry_tunnel},
};
use crate::{
    balance::{Balancer, Calls, ConnectionSlot, Key, Outcome, Picked},
    config::{Balance, Resilience, Retries},
    detect::Rewound,
    egress::Leave,
    error::Error,
    http::{Checked, RequestBody},
    resilience::{Fault, Reason, Stop, Time, Tries},
    snapshot::{PeerTls, Service},
    telemetry::Record,
    transport::Resets,
};

/// A service with the means to reach it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach<'a> {
    pub(crate) name: &'a str,
    pub(crate) service: &'a Service,
    /// The endpoint that the application has chosen itself, if it has.
    pub(crate) only: Option<SocketAddr>,
    pub(crate) balancer: &'a Balancer,
    pub(crate) pool: &'a Rc<Pool>,
    /// What the rule that matched allows one try, if one did. The whole it bounds itself.
    pub(crate) per_try: Option<Duration>,
    /// What is tried again, if the rule has a word on it. `None`: what the service says.
    pub(crate) retries: Option<&'a Retries>,
}

/// A connected link to a peer, or to somebody outside of the mesh. On the heap: each step of the path would hold another.
#[derive(Debug)]
pub(crate) struct Link(Box<Connected>);

#[derive(Debug)]
struct Connected {
    dialed: Dialed,
    destination: Destination,
    under: Under,
}

/// What a link stands under.
#[derive(Debug)]
enum Under {
    /// The breakers of its service.
    Breakers { _in_flight: Picked, _connection: ConnectionSlot, _lent: Lent },
    /// What lets it leave the mesh.
    Leave(Leave),
}

/// Sends a request to an endpoint of the service, and again where that is safe. `record` learns which endpoints it were
/// and who answered there.
pub(crate) async fn send(
    request: Checked<RequestBody>,
    version: Version,
    reach: Reach<'_>,
    record: &mut Record,
) -> Result<Answer, Error> {
    let tls = reach.tls()?;
    // A tunnel has a link of its own: nobody waits behind its bytes.
    let is_http2 = version == Version::HTTP_2 && request.opening().is_none();
    let request = if is_http2 { request.into_http2()? } else { request.into_http1() };
    let key = reach.key(request.headers(), record);
    let time = reach.time(request.headers());
    let mut tries = Tries::begin(reach.calls(), reach.retries(), time, request.method()).at(reach.only);
    let mut sending = Sending::of(request, is_http2, reach.retries());
    let mut picked = tries.first(key)?;
    loop {
        let endpoint = picked.endpoint();
        record.tried(endpoint);
        let destination = Destination::Peer { address: endpoint, tls: tls.clone() };
        let bounds = reach.bounds(&tries, &picked);
        let mut result = sending.send(&destination, reach.pool, bounds).await;
        if let Ok(Answer { peer: Some(peer), .. }) | Err(Failure { peer: Some(peer), .. }) = &result {
            record.proven(peer);
        }
        let reason = judge(&mut sending, &mut result, &picked, &mut tries);
        let stop = match reason {
            None => Stop::Exhausted,
            Some(reason) => {
                record.flow().rests();
                match tries.again(reason, endpoint, key).await {
                    Ok(next) => {
                        picked = next;
                        continue;
                    }
                    Err(stop) => stop,
                }
            }
        };
        return match (result, stop) {
            (Ok(answer), _) => {
                record.counted_at(picked);
                Ok(answer)
            }
            (Err(failure), Stop::Budget) => Err(Error::RetryBudget(Box::new(failure.error))),
            (Err(failure), Stop::Exhausted | Stop::Time) => Err(failure.error),
        };
    }
}

/// What a try says of its endpoint, and whether and why there may be another.
fn judge(
    sending: &mut Sending,
    result: &mut Result<Answer, Failure>,
    picked: &Picked,
    tries: &mut Tries<'_>,
) -> Option<Reason> {
    let reason = match result {
        Ok(answer) => {
            picked.answered(answer.response.status());
            tries.after_answer(answer.response.status())
        }
        Err(failure) => {
            let waits_for_the_caller = failure.fault == Fault::Late && !sending.has_ended();
            if failure.fault.blames_endpoint() && !waits_for_the_caller {
                picked.ended(Outcome::Failed);
            }
            tries.after_fault(failure.fault)
        }
    };
    tries.ended(result.is_ok() && reason.is_none());
    let unsent = result.as_mut().err().and_then(|failure| failure.unsent.take());
    reason.filter(|_| sending.is_there(unsent))
}

/// Connects a link of its own to an endpoint of the service, noting in `record` where and to whom.
pub(crate) async fn connect(reach: Reach<'_>, carries: Carries, record: &mut Record) -> Result<Link, Error> {
    let tls = reach.tls()?;
    let none = HeaderMap::new();
    let key = reach.key(&none, record);
    // Nothing of a connection that did not come about was sent, so that another is always safe.
    let time = reach.time(&none);
    let mut tries = Tries::begin(reach.calls(), reach.retries(), time, &Method::CONNECT).at(reach.only);
    let mut picked = tries.first(key)?;
    loop {
        let endpoint = picked.endpoint();
        record.tried(endpoint);
        let destination = Destination::Peer { address: endpoint, tls: tls.clone() };
        let bounds = reach.bounds(&tries, &picked);
        let (error, reason) =
            match dial(&destination, carries, bounds.connected_by(), &picked, reach.pool).await {
                Ok((dialed, connection, lent)) => {
                    if let Some(peer) = &dialed.peer {
                        record.proven(peer.id());
                    }
                    picked.ended(Outcome::Answered);
                    tries.ended(true);
                    let under = Under::Breakers { _in_flight: picked, _connection: connection, _lent: lent };
                    return Ok(Link(Box::new(Connected { dialed, destination, under })));
                }
                Err(error @ Error::BreakerOpen { breaker, .. }) if breaker.is_of_endpoint() => {
                    (error, Reason::Full)
                }
                Err(error @ Error::BreakerOpen { .. }) => return Err(error),
                Err(error) => {
                    picked.ended(Outcome::Failed);
                    (error, Reason::Unreachable)
                }
            };
        tries.ended(false);
        picked = match tries.again(reason, endpoint, key).await {
            Ok(next) => next,
            Err(Stop::Budget) => return Err(Error::RetryBudget(Box::new(error))),
            Err(Stop::Exhausted | Stop::Time) => return Err(error),
        };
    }
}

async fn dial(
    destination: &Destination,
    carries: Carries,
    until: Instant,
    picked: &Picked,
    pool: &Pool,
) -> Result<(Dialed, ConnectionSlot, Lent), Error> {
    let _pending = picked.pending()?;
    let connection = picked.connection()?;
    let (dialed, lent) = pool.tunnel(destination, carries, until).await?;
    Ok((dialed, connection, lent))
}

impl Link {
    /// To somebody outside of the mesh.
    pub(super) fn outside(dialed: Dialed, destination: Destination, leave: Leave) -> Self {
        Self(Box::new(Connected { dialed, destination, under: Under::Leave(leave) }))
    }

    /// Carries the application's connection until both sides have ended, or the peer is trusted or expected no longer.
    pub(crate) fn carry<S: AsyncRead + AsyncWrite + Resets + Unpin>(
        link: Rewound<Self>,
        downstream: S,
        pool: &Pool,
        carried: &Carried,
    ) -> impl Future<Output = Result<(), Error>> {
        let (said, link) = link.into_parts();
        link.while_trusted(pool, carried, |stream| carry(downstream, Rewound::new(said, stream), carried))
    }

    /// The same for what was a request of the application's before.
    pub(crate) async fn carry_upgraded<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        downstream: S,
        pool: &Pool,
        carried: &Carried,
    ) -> Result<(), Error> {
        self.while_trusted(pool, carried, |stream| carry_tunnel(downstream, stream, carried)).await
    }

    fn while_trusted<C: Future<Output = io::Result<()>>>(
        self,
        pool: &Pool,
        carried: &Carried,
        carrying: impl FnOnce(Stream) -> C,
    ) -> impl Future<Output = Result<(), Error>> {
        let Connected { dialed: Dialed { stream, peer }, destination, under } = *self.0;
        async move {
            let untrusted = async {
                let mesh = pool.dialer().mesh.clone();
                match (&under, &peer) {
                    (Under::Leave(leave), _) => leave.until_denied(mesh).await,
                    (Under::Breakers { .. }, None) => std::future::pending().await,
                    (Under::Breakers { .. }, Some(peer)) => {
                        let is_expected = |snapshot: &_| destination.expects(peer.id(), snapshot);
                        peer.until_untrusted(mesh, is_expected).await
                    }
                }
            };
            tokio::select! {
                // First, so that a cut is told as a cut.
                biased;
                ended = untrusted => Err(ended),
                idle = carried.until_idle(pool.dialer().limits.opaque_idle_timeout) => Err(idle),
                result = carrying(stream) => result.map_err(|error| match &peer {
                    // Its link was severed, which somebody else has noticed first.
                    Some(peer) if error.kind() == io::ErrorKind::ConnectionAborted => {
                        Error::PeerEnded(format!("{} is trusted no longer", peer.id()))
                    }
                    _ => failed(&error),
                }),
            }
        }
    }
}

fn failed(error: &io::Error) -> Error {
    Error::Upstream { code: Code::UpstreamFailed, detail: error.to_string() }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.dialed.stream).poll_read(cx, buf)
    }
}

impl<'a> Reach<'a> {
    fn tls(&self) -> Result<&'a PeerTls, Error> {
        self.service.tls.as_ref().ok_or(Error::NoCredentials)
    }

    fn calls(&self) -> Rc<Calls> {
        self.balancer.calls(self.name, self.service)
    }

    fn rules(&self) -> &'a Resilience {
        &self.service.resilience
    }

    fn retries(&self) -> &'a Retries {
        self.retries.unwrap_or(&self.service.resilience.retries)
    }

    fn time(&self, fields: &HeaderMap) -> Time {
        let limits = &self.pool.dialer().limits;
        let timeouts = &self.rules().timeouts;
        let most = timeouts.request.unwrap_or(limits.response_timeout);
        Time { request: time_for(fields, most), per_try: self.per_try.or(timeouts.per_try) }
    }

    fn bounds<'p>(&self, tries: &Tries<'_>, picked: &'p Picked) -> Bounds<'p> {
        let limits = &self.pool.dialer().limits;
        let timeouts = &self.rules().timeouts;
        let or = |own: Option<Duration>, limit| own.unwrap_or(limit);
        Bounds {
            deadline: tries.deadline(),
            connect: or(timeouts.connect, limits.connect_timeout),
            idle: or(timeouts.idle, limits.idle_timeout),
            is_fresh: tries.is_after_reset(),
            picked: Some(picked),
        }
    }

    /// What the call is hashed by, if its service is balanced so and it has that.
    fn key(&self, headers: &HeaderMap, record: &Record) -> Option<Key> {
        match &self.rules().balance {
            Balance::Hash(by) => Key::of(by, headers, record.source()),
            Balance::Latency | Balance::RoundRobin => None,
        }
    }
}
