//! To the local application. What is sent is what the permit holds; there is no other way in.

use std::rc::Rc;

use http::{HeaderValue, Version};
use sidegate_codes::Code;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Answer, Pool,
    dial::Carries,
    stream::{Carried, OverTcp, carry},
};
use crate::{
    authorize::Permit,
    config::{Forward, Inbound, Protocol},
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
    let bounds = pool.unpicked();
    let answer = if speaks_http2 {
        pool.send_http2(&destination, request.into_http2()?.map(Sent::Once), bounds).await
    } else {
        pool.send_http1(&destination, request.into_http1().map(Sent::Once), bounds).await
    };
    answer.map_err(|failure| failure.error)
}

/// Carries a permitted opaque connection until both sides have ended.
pub(crate) async fn forward<S: AsyncRead + AsyncWrite + OverTcp + Unpin>(
    permit: Permit<S>,
    forward: &Forward,
    pool: &Pool,
    carried: &Carried,
) -> Result<(), Error> {
    let (downstream, _) = permit.redeem();
    let destination = pool.dialer().app(forward).await?;
    let upstream = pool.dialer().dial(&destination, Carries::Tcp, pool.connected_by()).await?.stream;
    tokio::select! {
        idle = carried.until_idle(pool.dialer().limits.opaque_idle_timeout) => Err(idle),
        result = carry(downstream, upstream, carried) => {
            result.map_err(|error| Error::Upstream { code: Code::UpstreamFailed, detail: error.to_string() })
        }
    }
}
