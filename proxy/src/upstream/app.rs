//! To the local application. What is sent is what the permit holds; there is no other way in. A request that the
//! application says it did not process, or one that is the same done twice and met the end of a kept connection, is sent
//! once more; what may have been processed is not.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Version};
use sidegate_codes::Code;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep},
};

use super::{
    Answer, Pool,
    deadline::time_for,
    dial::Carries,
    pool::Failure,
    sending::Sending,
    stream::{Carried, Stream, carry},
};
use crate::{
    authorize::Permit,
    config::{Forward, Inbound, Protocol, Retries},
    detect::Rewound,
    error::Error,
    http::{Checked, PEER, RequestBody},
    resilience::{End, Fault, Reason, is_idempotent},
    telemetry::{Record, metrics::RetryLabels},
    transport::Resets,
};

/// Sends a permitted request, with the verified caller's SPIFFE ID in `x-sidegate-peer`, and again where that is safe. Who has
/// none leaves that field away: whatever stood in it was removed before.
/// `record` learns how often.
pub(crate) async fn send(
    permit: Permit<Checked<RequestBody>>,
    inbound: &Inbound,
    downstream: Version,
    pool: &Rc<Pool>,
    record: &mut Record,
) -> Result<Answer, Error> {
    let (mut request, peer) = permit.redeem();
    if let Some(Ok(peer)) = peer.map(|peer| HeaderValue::from_str(peer.as_str())) {
        request.headers_mut().insert(PEER, peer);
    }
    let destination = pool.dialer().app(&inbound.forward).await?;
    let speaks_http2 = match inbound.protocol {
        Protocol::Http2 => true,
        Protocol::Http => false,
        // The far sidecar's application spoke this version to a service of this kind.
        Protocol::Auto | Protocol::Tcp => downstream == Version::HTTP_2,
    };
    let mut bounds = pool.unpicked(time_for(request.headers(), pool.dialer().limits.response_timeout));
    let request = if speaks_http2 { request.into_http2()? } else { request.into_http1() };
    // There is one application: what a service may say of its endpoints is not for anybody to say here.
    let rules = Retries::default();
    let mut again = Again::new(&rules, is_idempotent(request.method()), bounds.deadline);
    let mut sending = Sending::of(request, speaks_http2, &rules);
    loop {
        let result = sending.send(&destination, pool, bounds).await;
        again.ended(&result, inbound, pool);
        let mut failure = match result {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let reason = again.reason(failure.fault).filter(|_| sending.is_there(failure.unsent.take()));
        let Some(reason) = reason else { return Err(again.given_up(failure)) };
        record.flow().rests();
        again.wait(reason, failure.fault).await;
        bounds.is_fresh = reason == Reason::Reset;
        record.again();
    }
}

/// The tries of one request to the application.
#[derive(Debug)]
struct Again<'a> {
    rules: &'a Retries,
    is_idempotent: bool,
    deadline: Instant,
    made: u32,
    /// Why the try that runs was made, if it is not the first.
    because: Option<Reason>,
}

impl<'a> Again<'a> {
    fn new(rules: &'a Retries, is_idempotent: bool, deadline: Instant) -> Self {
        Self { rules, is_idempotent, deadline, made: 1, because: None }
    }

    /// Counts the try that has ended, if it was a further one.
    fn ended(&mut self, result: &Result<Answer, Failure>, inbound: &Inbound, pool: &Pool) {
        if let Some(reason) = self.because.take() {
            let end = if result.is_ok() { End::Answered } else { End::Failed };
            let service: Arc<str> = inbound.forward.to_string().into();
            pool.dialer().metrics.retries.add(RetryLabels { service, reason, end });
        }
    }

    /// Why another try is safe and of use, if it is: an application that cannot be reached, or is late, is so a moment
    /// later too.
    fn reason(&self, fault: Fault) -> Option<Reason> {
        let reason = fault.reason(self.is_idempotent)?;
        let most = if fault == Fault::Goodbye { MOST_GOODBYES } else { self.rules.attempts };
        let is_of_use = matches!(reason, Reason::RefusedStream | Reason::Reset);
        (is_of_use && self.made < most && Instant::now() < self.deadline).then_some(reason)
    }

    /// The first repetition goes at once, to another connection, and so does what only came too late for one. Whoever is
    /// refused twice comes too fast.
    async fn wait(&mut self, reason: Reason, fault: Fault) {
        if self.made > 1 && fault != Fault::Goodbye {
            sleep(self.rules.backoff).await;
        }
        self.made += 1;
        self.because = Some(reason);
    }

    /// What is told of the last try.
    fn given_up(&self, failure: Failure) -> Error {
        match failure.error {
            Error::Upstream { code, detail } if failure.fault == Fault::Reset && !self.is_idempotent => {
                let detail = format!("{detail}; not sent again, since it may have been processed");
                Error::Upstream { code, detail }
            }
            error => error,
        }
    }
}

/// The application's end of a connection that may turn out to be opaque. It was connected under a permit, and what it says
/// goes nowhere without another.
#[derive(Debug)]
pub(crate) struct Candidate(Stream);

/// Connects to the application in case it speaks first.
pub(crate) async fn connect(permit: Permit<()>, forward: &Forward, pool: &Pool) -> Result<Candidate, Error> {
    permit.redeem();
    dial(forward, pool).await.map(Candidate)
}

/// Carries a permitted opaque connection until both sides have ended, by `candidate` if it was connected already.
pub(crate) fn forward<S: AsyncRead + AsyncWrite + Resets + Unpin>(
    permit: Permit<S>,
    candidate: Option<Rewound<Candidate>>,
    forward: &Forward,
    pool: &Pool,
    carried: &Carried,
) -> impl Future<Output = Result<(), Error>> {
    let (downstream, _) = permit.redeem();
    async move {
        let upstream = match candidate.map(Rewound::into_parts) {
            Some((said, Candidate(stream))) => Rewound::new(said, stream),
            // Boxed, as whatever is over before the copying begins: a silent connection has no room for it.
            None => Rewound::fresh(Box::pin(dial(forward, pool)).await?),
        };
        tokio::select! {
            idle = carried.until_idle(pool.dialer().limits.opaque_idle_timeout) => Err(idle),
            result = carry(downstream, upstream, carried) => {
                result.map_err(|error| Error::Upstream { code: Code::UpstreamFailed, detail: error.to_string() })
            }
        }
    }
}

async fn dial(forward: &Forward, pool: &Pool) -> Result<Stream, Error> {
    let destination = pool.dialer().app(forward).await?;
    pool.dialer().dial(&destination, Carries::Tcp, pool.connected_by()).await.map(|dialed| dialed.stream)
}

impl AsyncRead for Candidate {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

/// A connection that ends is no sign of overload, and one that serves few requests ends often: of a hundred requests at
/// once to nginx with `keepalive_requests 50` every tenth meets a second end.
const MOST_GOODBYES: u32 = 10;
