//! A downstream's HTTP/1 connection, that holds no buffers while it is silent. hyper has 16 KiB of them for as long as it has a
//! connection, so one that rests is taken from it, and its next byte makes another of hyper's connections. Takes the guarded
//! stream and the service of its requests; hands on what hyper says of its end.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::{
    body::{Body, Incoming},
    server::conn::http1::{Builder, Parts, UpgradeableConnection},
    service::HttpService,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{guard::Guarded, lingering::Lingering};
use crate::detect::Rewound;

/// What hyper reads.
pub(super) type Downstream<S> = Guarded<Lingering<Rewound<S>>>;

/// One connection, until it ends or becomes a tunnel.
pub(super) struct Connection<S, H: HttpService<Incoming>> {
    builder: Builder,
    state: State<S, H>,
}

enum State<S, H: HttpService<Incoming>> {
    /// On the heap, so that it is gone when the connection rests.
    Served(Box<UpgradeableConnection<TokioIo<Downstream<S>>, H>>),
    Resting(Box<(Downstream<S>, H)>),
    /// What carries a tunnel now.
    Left,
}

impl<S, H> Connection<S, H>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: HttpService<Incoming, ResBody: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static>,
    H::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(super) fn new(builder: Builder, stream: Downstream<S>, service: H) -> Self {
        let state = serve(&builder, stream, service);
        Self { builder, state }
    }

    /// Lets go of the buffers. For a connection between two requests, of which everything was read and every byte of the
    /// answers was taken: what hyper had still to write would be lost.
    pub(super) fn rest(&mut self) {
        self.state = match mem::replace(&mut self.state, State::Left) {
            State::Served(connection) => match connection.into_parts() {
                // What is left of what was read are empty lines (RFC 9112 §2.2): the guard saw no request begin.
                Some(Parts { io, service, .. }) => State::Resting(Box::new((io.into_inner(), service))),
                None => State::Left,
            },
            resting => resting,
        };
    }

    /// Finishes what is in flight and takes no more.
    pub(super) fn shut_down(&mut self) {
        self.wake();
        if let State::Served(connection) = &mut self.state {
            Pin::new(connection.as_mut()).graceful_shutdown();
        }
    }

    fn wake(&mut self) {
        self.state = match mem::replace(&mut self.state, State::Left) {
            State::Resting(rested) => {
                let (stream, service) = *rested;
                serve(&self.builder, stream, service)
            }
            other => other,
        };
    }
}

fn serve<S, H>(builder: &Builder, stream: Downstream<S>, service: H) -> State<S, H>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: HttpService<Incoming, ResBody: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static>,
    H::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    State::Served(Box::new(connection))
}

impl<S, H> Future for Connection<S, H>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: HttpService<Incoming, ResBody: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static>
        + Unpin,
    H::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Output = hyper::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let State::Resting(rested) = &mut this.state {
            ready!(rested.0.below_mut().below_mut().poll_begun(cx));
            this.wake();
        }
        match &mut this.state {
            State::Served(connection) => Pin::new(connection.as_mut()).poll(cx),
            State::Resting(..) | State::Left => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::poll_fn};

    use http::{Request, Response};
    use hyper::service::service_fn;
    use socket2::SockRef;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn hello(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
        Ok(Response::new("hello".to_owned()))
    }

    /// Of a client that was answered once, and is silent since.
    async fn rested() -> (TcpStream, impl Future<Output = hyper::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let stream = Guarded::http1(Lingering::new(Rewound::fresh(server)).0);
        let wire = stream.wire();
        let mut connection = Connection::new(Builder::new(), stream, service_fn(hello));
        ask(&mut client, &mut connection).await;
        wire.request();
        assert!(wire.is_at_rest());
        connection.rest();
        assert!(matches!(connection.state, State::Resting(..)), "it has no buffers");
        (client, connection)
    }

    async fn ask(client: &mut TcpStream, connection: &mut (impl Future<Output = hyper::Result<()>> + Unpin)) {
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let answer = async {
            let mut answer = Vec::new();
            while !answer.ends_with(b"hello") {
                assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "it ended");
            }
        };
        tokio::select! {
            () = answer => {}
            ended = connection => panic!("it ended: {ended:?}"),
        }
    }

    #[tokio::test]
    async fn a_connection_that_rested_serves_its_next_request() {
        let (mut client, connection) = rested().await;
        let mut connection = std::pin::pin!(connection);
        ask(&mut client, &mut connection).await;
        ask(&mut client, &mut connection).await;
    }

    #[tokio::test]
    async fn a_client_that_leaves_a_resting_connection_ends_it_in_order() {
        let (client, connection) = rested().await;
        drop(client);
        connection.await.unwrap();
    }

    #[tokio::test]
    async fn a_resting_connection_that_is_reset_is_gone() {
        let (client, connection) = rested().await;
        SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(client);
        connection.await.unwrap();
    }

    #[tokio::test]
    async fn a_resting_connection_that_is_shut_down_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let stream = Guarded::http1(Lingering::new(Rewound::fresh(server)).0);
        let mut connection = Connection::new(Builder::new(), stream, service_fn(hello));
        connection.rest();
        connection.shut_down();
        let mut heard = Vec::new();
        let (ended, read) =
            tokio::join!(poll_fn(|cx| Pin::new(&mut connection).poll(cx)), client.read_to_end(&mut heard));
        ended.unwrap();
        assert_eq!(read.unwrap(), 0);
    }
}
