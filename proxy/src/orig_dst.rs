//! Where a captured connection was going before the kernel led it here. Receives a connection of a listener for captured
//! ones, hands on its [`OrigDst`], and refuses what was not redirected or was sent to the sidecar itself: such a
//! connection is a way around the rules, or would lead back here for ever.

use std::{io, net::SocketAddr};

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::error::Error;

/// The address that whoever opened the connection gave, as the kernel remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OrigDst(SocketAddr);

impl OrigDst {
    /// Asks the kernel. `own` are the ports of the sidecar itself.
    pub(crate) fn of(tcp: &TcpStream, own: &[u16]) -> Result<Self, Error> {
        let original =
            asked(tcp).map_err(|error| Error::NotCaptured(format!("it was not redirected: {error}")))?;
        // One that was not redirected has the listener's own address here.
        if own.contains(&original.port()) {
            return Err(Error::NotCaptured(format!(
                "it was sent to {original}, a port of the sidecar itself"
            )));
        }
        Ok(Self(original))
    }

    /// The address.
    pub(crate) fn address(self) -> SocketAddr {
        self.0
    }
}

/// A connection over IPv4 is asked in IPv4's words, even if its listener is one of IPv6.
fn asked(tcp: &TcpStream) -> io::Result<SocketAddr> {
    let socket = SockRef::from(tcp);
    let original = if tcp.local_addr()?.ip().to_canonical().is_ipv4() {
        socket.original_dst_v4()?
    } else {
        socket.original_dst_v6()?
    };
    original.as_socket().ok_or_else(|| io::Error::other("no address of a socket"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn connected(listen: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(listen).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    // What was redirected is tried in `tests/capture`, which needs rules of the kernel.
    #[tokio::test]
    async fn a_connection_that_was_not_redirected_is_refused_in_both_families() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let (_client, server) = connected(listen).await;
            let own = [server.local_addr().unwrap().port()];
            let refused = OrigDst::of(&server, &own);
            assert!(matches!(refused, Err(Error::NotCaptured(_))), "{listen}: {refused:?}");
        }
    }
}
