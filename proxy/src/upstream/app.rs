//! To the local application. What is sent is what the permit holds; there is no other way in.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use http::{HeaderValue, Version};
use sidegate_codes::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Answer, Pool,
    deadline::time_for,
    dial::Carries,
    stream::{Carried, OverTcp, Stream, carry},
};
use crate::{
    authorize::Permit,
    config::{Forward, Inbound, Protocol},
    detect::Rewound,
    error::Error,
    http::{Checked, PEER, RequestBody},
    resilience::Sent,
};

/// Sends a permitted request, with the verified caller's SPIFFE ID in `x-sidegate-peer`.
pub(crate) async fn send(
    permit: Permit<Checked<RequestBody>>,
    inbound: &Inbound,
    downstream: Version,
    pool: &Rc<Pool>,
) -> Result<Answer, Error> {
    let (mut request, peer) = permit.redeem();
    if let Ok(peer) = HeaderValue::from_str(peer.as_str()) {
        request.headers_mut().insert(PEER, peer);
    }
    let destination = pool.dialer().app(&inbound.forward).await?;
    let speaks_http2 = match inbound.protocol {
        Protocol::Http2 => true,
        Protocol::Http => false,
        // The far sidecar's application spoke this version to a service of this kind.
        Protocol::Auto | Protocol::Tcp => downstream == Version::HTTP_2,
    };
    let bounds = pool.unpicked(time_for(request.headers(), pool.dialer().limits.response_timeout));
    let answer = if speaks_http2 {
        pool.send_http2(&destination, request.into_http2()?.map(Sent::Once), bounds).await
    } else {
        pool.send_http1(&destination, request.into_http1().map(Sent::Once), bounds).await
    };
    answer.map_err(|failure| failure.error)
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
pub(crate) async fn forward<S: AsyncRead + AsyncWrite + OverTcp + Unpin>(
    permit: Permit<S>,
    candidate: Option<Rewound<Candidate>>,
    forward: &Forward,
    pool: &Pool,
    carried: &Carried,
) -> Result<(), Error> {
    let (downstream, _) = permit.redeem();
    let upstream = match candidate.map(Rewound::into_parts) {
        Some((said, Candidate(stream))) => Rewound::new(said, stream),
        None => Rewound::fresh(dial(forward, pool).await?),
    };
    tokio::select! {
        idle = carried.until_idle(pool.dialer().limits.opaque_idle_timeout) => Err(idle),
        result = carry(downstream, upstream, carried) => {
            result.map_err(|error| Error::Upstream { code: Code::UpstreamFailed, detail: error.to_string() })
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
