//! To somebody outside of the mesh, in plaintext, unless the application encrypts by itself. Takes nothing without a
//! [`Leave`], and connects to the addresses in it and to no other. Nothing is sent twice: who answers there is not ours.

use std::{rc::Rc, sync::Arc};

use http::Version;

use super::{
    Answer, Pool,
    deadline::time_for,
    dial::{Carries, Destination},
    peer::Link,
    sending::Sending,
};
use crate::{
    config::Retries,
    egress::Leave,
    error::Error,
    http::{Checked, RequestBody},
};

/// Sends a request, in the version in which it came.
pub(crate) async fn send(
    request: Checked<RequestBody>,
    version: Version,
    leave: &Leave,
    pool: &Rc<Pool>,
) -> Result<Answer, Error> {
    let opening = request.opening().cloned();
    // A tunnel has a connection of its own.
    let is_http2 = version == Version::HTTP_2 && opening.is_none();
    let bounds = pool.unpicked(time_for(request.headers(), pool.dialer().limits.response_timeout));
    let request = if is_http2 { request.into_http2()? } else { request.into_http1() };
    let mut sending = Sending::of(request, is_http2, &Retries::default());
    let answer = sending.send(&destination(leave), pool, bounds).await.map_err(|failure| failure.error)?;
    Ok(Answer { opening, ..answer })
}

/// Connects for bytes of the application's own.
pub(crate) async fn connect(leave: Leave, pool: &Pool) -> Result<Link, Error> {
    let destination = destination(&leave);
    let dialed = pool.dialer().dial(&destination, Carries::Tcp, pool.connected_by()).await?;
    Ok(Link::outside(dialed, destination, leave))
}

fn destination(leave: &Leave) -> Destination {
    Destination::Outside { name: leave.name(), addresses: Arc::clone(leave.addresses()) }
}
