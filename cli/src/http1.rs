//! One HTTP/1.1 connection as a client: opened, used for requests one after another, closed when dropped.
//! Answers over [`MAX_BODY_BYTES`] are refused.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

/// The largest answer that is read: the edges of a large mesh fit many times.
pub(crate) const MAX_BODY_BYTES: usize = 64 << 20;

/// An open keep-alive connection. It never reconnects by itself: whoever measures it wants to know.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    /// Owns the task that drives the connection; dropping it ends the task.
    _driver: JoinSet<()>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody accepted the connection.
    #[error("{0}")]
    Connect(#[source] std::io::Error),
    /// The peer broke the connection or does not speak HTTP/1.1.
    #[error("{}", deepest(.0))]
    Exchange(#[from] hyper::Error),
    /// The body ended early or is larger than [`MAX_BODY_BYTES`].
    #[error("{0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// A header or target of ours cannot be sent.
    #[error("{0}")]
    Request(#[from] http::Error),
}

impl Connection {
    /// Connects to `address`; every request names `host`.
    pub(crate) async fn open(address: SocketAddr, host: &str) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await.map_err(Error::Connect)?;
        stream.set_nodelay(true).map_err(Error::Connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async {
            // The error also reaches the request that it hits, which reports it.
            let _ = connection.await;
        });
        Ok(Self { sender, host: host.to_owned(), _driver: driver })
    }

    /// Sends a request without a body and reads the whole answer.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer, Error> {
        let mut request = Request::builder().method(method).uri(path).header(http::header::HOST, &self.host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.sender.ready().await?;
        let answer = self.sender.send_request(request.body(Full::default())?).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect().await.map_err(Error::Body)?;
        Ok(Answer { status, body: body.to_bytes() })
    }

    /// Whether the peer has closed the connection; the next request would fail.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// A hyper error says less than its cause.
fn deepest(error: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    if std::ptr::addr_eq(cause, error) { error.to_string() } else { format!("{error}: {cause}") }
}
