//! Whoever decides beside policy, as Envoy's protocol for external authorization has it: a gRPC server that is written after
//! the protocol and shares no code with the sidecar. It remembers what it was asked, and says what a test has it say.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// What it says to a question.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    Answer(CheckResponse),
    /// These bytes in place of a message.
    Bytes(Vec<u8>),
    /// No message, and this status of gRPC.
    Fails(u16),
    /// Nothing, ever.
    Nothing,
}

/// A running server. Dropped, it is gone.
pub(crate) struct Decider {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Attributes>>>,
    says: Arc<Mutex<Says>>,
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Desk {
    asked: Arc<Mutex<Vec<Attributes>>>,
    says: Arc<Mutex<Says>>,
}

impl Decider {
    /// In plaintext on loopback.
    pub(crate) async fn start(says: Says) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), None, says).await
    }

    /// Behind TLS of the test's choice.
    pub(crate) async fn start_behind(acceptor: TlsAcceptor, says: Says) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), Some(acceptor), says).await
    }

    pub(crate) async fn start_at(address: SocketAddr, acceptor: Option<TlsAcceptor>, says: Says) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let desk = Desk::new(says);
        let mut serving = JoinSet::new();
        let at = desk.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (at, acceptor) = (at.clone(), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        None => at.serve(tcp).await,
                        // A client that does not trust it is no failure of the server.
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(tcp).await {
                                at.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, asked: desk.asked, says: desk.says, _serving: serving }
    }

    /// At a socket; `address` is no use then.
    pub(crate) fn start_at_socket(path: &Path, says: Says) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let desk = Desk::new(says);
        let mut serving = JoinSet::new();
        let at = desk.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let at = at.clone();
                connections.spawn(async move { at.serve(stream).await });
            }
        });
        let address = "127.0.0.1:1".parse().unwrap();
        Self { address, asked: desk.asked, says: desk.says, _serving: serving }
    }

    pub(crate) fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// Everything it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Attributes> {
        self.asked.lock().unwrap().clone()
    }
}

impl Desk {
    fn new(says: Says) -> Self {
        Self { asked: Arc::default(), says: Arc::new(Mutex::new(says)) }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let service = service_fn(move |request| self.clone().answer(request));
        // It ends when the sidecar does.
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<super::Body>, Infallible> {
        assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
        let message = request.into_body().collect().await.unwrap().to_bytes();
        // gRPC: not compressed, four bytes of length, the message.
        assert_eq!(message[0], 0);
        let question = CheckRequest::decode(&message[5..]).unwrap();
        self.asked.lock().unwrap().push(question.attributes.unwrap());
        let says = self.says.lock().unwrap().clone();
        let (message, status) = match says {
            Says::Answer(answer) => (Some(answer.encode_to_vec()), 0),
            Says::Bytes(bytes) => (Some(bytes), 0),
            Says::Fails(status) => (None, status),
            Says::Nothing => std::future::pending().await,
        };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(status));
        let message = message.map(|message| {
            let mut framed = BytesMut::new();
            framed.put_u8(0);
            framed.put_u32(u32::try_from(message.len()).unwrap());
            framed.put_slice(&message);
            Ok::<_, std::io::Error>(Frame::data(Bytes::from(framed)))
        });
        let frames = message.into_iter().chain([Ok(Frame::trailers(trailers))]);
        let body = StreamBody::new(tokio_stream::iter(frames.collect::<Vec<_>>()));
        let mut response = Response::new(body.boxed_unsync());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        Ok(response)
    }
}

/// `OK`, with changes of the request.
pub(crate) fn ok(headers: &[(&str, &str)], remove: &[&str]) -> CheckResponse {
    let headers = headers.iter().map(|(key, value)| option(key, value)).collect();
    let headers_to_remove = remove.iter().map(ToString::to_string).collect();
    let ok = OkResponse { headers, headers_to_remove, ..OkResponse::default() };
    CheckResponse { status: Some(Status::default()), denied: None, ok: Some(ok) }
}

/// No, with a status of gRPC and one of HTTP.
pub(crate) fn no(code: i32, http: i32) -> CheckResponse {
    let status = Status { code, message: "not on a Sunday".to_owned() };
    let denied = Denied { status: Some(HttpStatus { code: http }) };
    CheckResponse { status: Some(status), denied: Some(denied), ok: None }
}

pub(crate) fn option(key: &str, value: &str) -> HeaderValueOption {
    let header = HeaderField { key: key.to_owned(), value: value.to_owned() };
    HeaderValueOption { header: Some(header), append_action: 0 }
}

#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(message, tag = "1")]
    attributes: Option<Attributes>,
}

/// What a question says.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Attributes {
    #[prost(message, tag = "1")]
    pub(crate) source: Option<Peer>,
    #[prost(message, tag = "2")]
    pub(crate) destination: Option<Peer>,
    #[prost(message, tag = "4")]
    pub(crate) request: Option<Asked>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Peer {
    #[prost(message, tag = "1")]
    pub(crate) address: Option<Address>,
    #[prost(string, tag = "4")]
    pub(crate) principal: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Address {
    #[prost(message, tag = "1")]
    pub(crate) socket: Option<SocketAddress>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SocketAddress {
    #[prost(string, tag = "2")]
    pub(crate) address: String,
    #[prost(uint32, tag = "3")]
    pub(crate) port: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Asked {
    #[prost(message, tag = "2")]
    pub(crate) http: Option<HttpRequest>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HttpRequest {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) method: String,
    #[prost(map = "string, string", tag = "3")]
    pub(crate) headers: HashMap<String, String>,
    #[prost(string, tag = "4")]
    pub(crate) path: String,
    #[prost(string, tag = "5")]
    pub(crate) host: String,
    #[prost(int64, tag = "9")]
    pub(crate) size: i64,
    #[prost(string, tag = "10")]
    pub(crate) protocol: String,
    #[prost(string, tag = "11")]
    pub(crate) body: String,
    #[prost(bytes = "vec", tag = "12")]
    pub(crate) raw_body: Vec<u8>,
}

/// What it answers.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CheckResponse {
    #[prost(message, tag = "1")]
    pub(crate) status: Option<Status>,
    #[prost(message, tag = "2")]
    pub(crate) denied: Option<Denied>,
    #[prost(message, tag = "3")]
    pub(crate) ok: Option<OkResponse>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Status {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Denied {
    #[prost(message, tag = "1")]
    pub(crate) status: Option<HttpStatus>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HttpStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OkResponse {
    #[prost(message, repeated, tag = "2")]
    pub(crate) headers: Vec<HeaderValueOption>,
    #[prost(string, repeated, tag = "5")]
    pub(crate) headers_to_remove: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) response_headers_to_add: Vec<HeaderValueOption>,
    #[prost(string, repeated, tag = "8")]
    pub(crate) query_parameters_to_remove: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HeaderValueOption {
    #[prost(message, tag = "1")]
    pub(crate) header: Option<HeaderField>,
    #[prost(int32, tag = "3")]
    pub(crate) append_action: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HeaderField {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}
