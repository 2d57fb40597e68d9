//! To an address outside of the mesh, in plaintext. Only a captured listener leads here, and only for addresses that
//! its configuration names.

use std::net::SocketAddr;

use sidegate_codes::Code;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::{
    Pool,
    stream::{Carried, OverTcp, Stream, carry as carry_both},
};
use crate::error::Error;

/// Connects to `address` and carries the application's connection until both sides have ended.
pub(crate) async fn carry<S: AsyncRead + AsyncWrite + OverTcp + Unpin>(
    downstream: S,
    address: SocketAddr,
    pool: &Pool,
    carried: &Carried,
) -> Result<(), Error> {
    let unreachable = |why: &dyn std::fmt::Display| Error::Upstream {
        code: Code::UpstreamUnreachable,
        detail: format!("{address}: {why}"),
    };
    let upstream = timeout(pool.dialer().limits.connect_timeout, TcpStream::connect(address))
        .await
        .map_err(|_| unreachable(&"no connection in time"))?
        .map_err(|error| unreachable(&error))?;
    upstream.set_nodelay(true).map_err(|error| unreachable(&error))?;
    carry_both(downstream, Stream::plain(upstream), carried)
        .await
        .map_err(|error| Error::Upstream { code: Code::UpstreamFailed, detail: error.to_string() })
}
