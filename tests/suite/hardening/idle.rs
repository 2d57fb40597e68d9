//! What carries opaque bytes and carries none for too long: a connection, a WebSocket, a tunnel of a proxy. It is ended on
//! whichever side says so first.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::ORDERS;
use crate::{
    mesh::{Authority, PATIENCE, Port, Sidecar, id},
    opaque::echo,
    websocket::{HANDSHAKE, SWITCHED, chat},
};

const CONNECT: &str = "CONNECT payments:80 HTTP/1.1\r\nHost: payments:80\r\n\r\n";

/// How bytes become opaque, and what an application says for that.
#[derive(Clone, Copy, Debug)]
enum Opaque {
    Connection,
    WebSocket,
    Tunnel,
}

const ALL: [Opaque; 3] = [Opaque::Connection, Opaque::WebSocket, Opaque::Tunnel];

impl Opaque {
    fn opening(self) -> &'static str {
        match self {
            Self::Connection => "",
            Self::WebSocket => HANDSHAKE,
            Self::Tunnel => CONNECT,
        }
    }

    /// A pair of sidecars in front of `app`, the caller's first, with these limits.
    fn pair(self, app: SocketAddr, orders: &str, payments: &str) -> (Sidecar, Sidecar) {
        let authority = Authority::new();
        let start = |account: &str, ports: &[Port<'_>], more: &str| {
            Sidecar::start_as(account, &authority.svid(&id(account)), &authority, ORDERS, ports, more)
        };
        let protocol = if matches!(self, Self::WebSocket) { "protocol: http" } else { "protocol: tcp" };
        let payments = start("payments", &[Port::Inbound(app, protocol)], payments);
        let list = [("payments", payments.inbound(), protocol)];
        let port = match self {
            Self::Tunnel => Port::Among("proxy", &list),
            _ => Port::Outbound("payments", payments.inbound(), protocol),
        };
        let orders = start("orders", &[port], orders);
        (orders, payments)
    }

    /// Opens it, and sees that it carries bytes.
    async fn open(self, orders: &Sidecar) -> TcpStream {
        let mut client = TcpStream::connect(orders.outbound()).await.unwrap();
        client.write_all(self.opening().as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !self.opening().is_empty() && !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.expect("a whole head"));
        }
        ping(&mut client).await;
        client
    }
}

async fn ping(client: &mut TcpStream) {
    client.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    client.read_exact(&mut echo).await.expect("it carries bytes");
    assert_eq!(&echo, b"ping");
}

#[tokio::test]
async fn what_carries_nothing_is_ended_on_either_side() {
    const IDLE: &str = "limits: {opaqueIdleTimeout: 3s}";
    let (echo, chat) = (echo().await, chat(SWITCHED).await);
    for opaque in ALL {
        let app = if matches!(opaque, Opaque::WebSocket) { chat.address } else { echo.address };
        for (orders_limits, payments_limits) in [(IDLE, ""), ("", IDLE)] {
            let (orders, payments) = opaque.pair(app, orders_limits, payments_limits);
            let mut quiet = opaque.open(&orders).await;
            let begun = Instant::now();
            let end = timeout(PATIENCE, quiet.read(&mut [0; 4])).await;
            assert!(matches!(end, Ok(Ok(0) | Err(_))), "{opaque:?}: {end:?}");
            assert!(begun.elapsed() >= Duration::from_secs(1), "{opaque:?}: {:?}", begun.elapsed());
            let (sidecar, direction) =
                if orders_limits == IDLE { (&orders, "outbound") } else { (&payments, "inbound") };
            let line = sidecar.accessed(|line| line["code"] == "SG0653");
            assert_eq!((&line["direction"], &line["verdict"]), (&direction.into(), &"failed".into()));
            let counted = format!("sidegate_failed_total{{direction=\"{direction}\",code=\"SG0653\"}} 1");
            assert!(sidecar.page("/metrics").await.body.contains(&counted), "{opaque:?}");
        }
    }
}

#[tokio::test]
async fn what_carries_something_now_and_then_stays_open() {
    const IDLE: &str = "limits: {opaqueIdleTimeout: 5s}";
    let (echo, chat) = (echo().await, chat(SWITCHED).await);
    for opaque in ALL {
        let app = if matches!(opaque, Opaque::WebSocket) { chat.address } else { echo.address };
        let (orders, _payments) = opaque.pair(app, IDLE, IDLE);
        let mut client = opaque.open(&orders).await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(6) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            ping(&mut client).await;
        }
    }
}
