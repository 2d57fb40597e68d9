//! The HTTP part of the path, the same for both directions: serves a downstream connection within limits, hands each
//! request to a handler in checked form, and turns refusals into answers that say "denied" and a request id.

pub mod authority;
mod body;
mod carry;
pub(crate) mod expect;
mod flow;
pub mod guard;
mod headers;
mod lingering;
mod pace;
pub mod path;
mod request;
mod trickle;
pub(crate) mod tunnel;
mod upgrade;

use std::{
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_TYPE, EXPECT, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE},
};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use sidegate_codes::Code;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

pub(crate) use authority::canonical_host;
pub(crate) use body::{RequestBody, ResponseBody};
pub(crate) use flow::Flow;
pub(crate) use headers::{PEER, is_changeable};
pub(crate) use path::normalize;
pub(crate) use request::{Checked, Rules};
pub(crate) use upgrade::Opening;

use carry::{connected, upgraded};
use guard::{Guarded, Wire};
use lingering::{Lingering, Tunnel};
use pace::{Due, Pace};
use upgrade::Became;

use crate::{
    config::Limits,
    contain::contained,
    error::Error,
    telemetry::{Carried, Exchange, Metrics, Record},
    upstream::{self, Answer, Leased},
    worker::Worker,
};

/// What a direction does with a request.
pub(crate) trait Handler {
    /// Forwards the request, noting in `record` what becomes of it, or says why not.
    async fn forward(&self, request: Request<RequestBody>, record: &mut Record) -> Result<Answer, Error>;

    /// Connects the tunnel that `request`, a CONNECT, asks for.
    async fn connect(
        &self,
        request: Request<RequestBody>,
        record: &mut Record,
    ) -> Result<upstream::peer::Link, Error>;

    /// Ends when a tunnel that was once a request may stay open no longer, since its peer is one no longer.
    async fn until_ended(&self) -> Error;
}

/// Spawns on the worker's own thread, under an owner that can be waited for.
#[derive(Clone, Debug)]
pub(crate) struct LocalExecutor {
    pub(crate) tasks: TaskTracker,
    /// Of faults.
    pub(crate) metrics: Arc<Metrics>,
}

/// Serves HTTP on `stream` until the downstream ends it. When `closing` ends, requests in flight are finished and no
/// more are taken.
pub(crate) async fn serve<S, H>(
    stream: S,
    version: Version,
    exchange: Rc<Exchange>,
    handler: H,
    worker: &Rc<Worker>,
    closing: impl Future<Output = ()>,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Handler + 'static,
{
    let carried = if version == Version::HTTP_2 { Carried::Http2 } else { Carried::Http1 };
    let is_http2 = version == Version::HTTP_2;
    let (stream, tunnel) = Lingering::new(stream);
    let stream = if is_http2 { Guarded::http2(stream, &worker.limits) } else { Guarded::http1(stream) };
    let wire = stream.wire();
    let handler = Rc::new(handler);
    let (requests, read, connection) = (Rc::clone(worker), Arc::clone(&wire), Rc::clone(&exchange));
    let service = service_fn(move |request: Request<Incoming>| {
        let (handler, exchange, worker) = (Rc::clone(&handler), Rc::clone(&connection), Rc::clone(&requests));
        let (wire, tunnel, nth) = (Arc::clone(&read), tunnel.clone(), read.request());
        // On the heap: hyper keeps its place for as long as the connection, and most connections are silent.
        Box::pin(async move {
            let agrees = is_http2 || wire.agrees(nth, request.body().size_hint().exact());
            let reading = Reading { carried, wire: &wire, lingering: &tunnel, agrees };
            Ok::<_, std::convert::Infallible>(answer(request, reading, &exchange, &handler, &worker).await)
        })
    });
    let stream = TokioIo::new(stream);
    let live = Live { exchange: &exchange, wire: &wire, carried, worker };
    if is_http2 {
        let connection =
            pin!(http2_server(&worker.limits, worker.executor()).serve_connection(stream, service));
        live.run(connection, http2::Connection::graceful_shutdown, closing).await
    } else {
        let connection = pin!(http1_server(&worker.limits).serve_connection(stream, service).with_upgrades());
        live.run(connection, http1::UpgradeableConnection::graceful_shutdown, closing).await
    }
}

/// A connection while it is served.
#[derive(Clone, Copy, Debug)]
struct Live<'a> {
    exchange: &'a Rc<Exchange>,
    wire: &'a Wire,
    carried: Carried,
    worker: &'a Worker,
}

impl Live<'_> {
    /// Runs it to its end, which `shutdown` makes one in order once `closing` has ended or its time is over.
    async fn run<C: Future<Output = hyper::Result<()>>>(
        self,
        mut connection: Pin<&mut C>,
        shutdown: impl Fn(Pin<&mut C>),
        closing: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let limits = &self.worker.limits;
        let age = self.worker.spread(limits.connection_age);
        let mut pace = Pace::new(limits, self.wire, self.exchange, age);
        let mut is_closing = false;
        let closing = async {
            closing.await;
            if self.carried == Carried::Http1 {
                // hyper would end a silent connection now, even one from which nothing was read yet. But its next request may
                // be under way: HTTP/1 has no GOAWAY that tells the client to send that one elsewhere.
                self.exchange.is_closing.set(true);
                sleep(LAST_REQUEST.min(limits.drain_timeout / 2)).await;
            }
        };
        tokio::pin!(closing);
        let result = loop {
            tokio::select! {
                biased;
                result = connection.as_mut() => break result,
                () = closing.as_mut(), if !is_closing => {
                    is_closing = true;
                    shutdown(connection.as_mut());
                }
                () = pace.pass() => {
                    self.record_refusals();
                    match pace.due(Instant::now()) {
                        None => {}
                        Some(Due::Leave) => return Ok(()),
                        Some(Due::Retire) => shutdown(connection.as_mut()),
                        Some(Due::End(error)) => {
                            self.cut(&error);
                            return Ok(());
                        }
                    }
                }
            }
        };
        self.record_refusals();
        self.ended(result)
    }

    /// What h2 refused by itself. It says no more than that.
    fn record_refusals(self) {
        for refused in self.wire.refused_by_h2() {
            Record::begin(self.exchange, self.carried).failed(&refused);
        }
    }

    /// Told by what is in flight, or else by a record of its own.
    fn cut(self, error: &Error) {
        self.exchange.cut(error);
        if self.exchange.in_flight.get() == 0 {
            Record::begin(self.exchange, self.carried).failed(error);
        }
    }

    /// Records what was refused below the requests, by the guard or by hyper, as the answer that hyper gave, unless the
    /// requests in flight tell it. The rest is a downstream that left.
    fn ended(self, result: hyper::Result<()>) -> Result<(), Error> {
        let (refused, is_answered) = match (self.wire.untold(), result) {
            (Some(refusal), _) => (refusal.error(), refusal.is_answered()),
            (None, Ok(())) => return Ok(()),
            (None, Err(error)) => match by_hyper(&error, self.wire) {
                Some(refused) => (refused, error.is_parse()),
                None => return Err(Error::Downstream(error.to_string())),
            },
        };
        self.exchange.cut(&refused);
        if self.exchange.in_flight.get() > 0 {
            return Ok(());
        }
        let mut record = Record::begin(self.exchange, self.carried);
        if is_answered {
            record.answered(refused.status());
        }
        record.failed(&refused);
        Ok(())
    }
}

/// How a request was read.
#[derive(Clone, Copy, Debug)]
struct Reading<'a> {
    carried: Carried,
    wire: &'a Wire,
    lingering: &'a Tunnel,
    /// hyper and the guard read the same message.
    agrees: bool,
}

/// What hyper refused by itself.
fn by_hyper(error: &hyper::Error, wire: &Wire) -> Option<Error> {
    if error.is_parse_too_large() {
        Some(Error::bad_request(Code::HeadersTooLarge, "limits.headerBytes or limits.headers"))
    } else if error.is_parse() {
        Some(Error::bad_request(Code::BadFraming, error.to_string()))
    } else {
        wire.ended_by_h2(&upstream::chain(error))
    }
}

fn http1_server(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // `pace` keeps the time: hyper's timer knows no difference between a slow head and a connection that idles.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes)
        .max_headers(limits.headers);
    builder
}

fn http2_server(limits: &Limits, executor: LocalExecutor) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window(limits))
        // What waits of one answer for a downstream that does not read.
        .max_send_buf_size(STREAM_WINDOW as usize)
        // Well over our own limit, which refuses with a record: what is over this h2 answers by itself.
        .max_header_list_size(header_list(limits))
        // CVE-2023-44487: streams that were reset and still wait to be accepted.
        .max_pending_accept_reset_streams(MOST_RESETS)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_ANSWER)
        // RFC 8441: WebSockets may be asked for.
        .enable_connect_protocol();
    builder
}

/// One request, start to end.
async fn answer<H: Handler + 'static>(
    mut request: Request<Incoming>,
    reading: Reading<'_>,
    exchange: &Rc<Exchange>,
    handler: &Rc<H>,
    worker: &Rc<Worker>,
) -> Response<ResponseBody> {
    let Reading { carried, wire, lingering, agrees } = reading;
    let mut record = Record::begin(exchange, carried);
    let id = request_id(request.headers(), worker);
    // A 200 would open the tunnel that a CONNECT asks for.
    let is_grpc = request.method() != Method::CONNECT && is_grpc(request.headers());
    let is_tunnel = tunnel::is_asked_for(&request);
    let target = request.uri().authority().filter(|_| is_tunnel);
    let shown = target.map_or(request.uri().path(), http::uri::Authority::as_str);
    record.request(request.method().as_str(), shown, id.to_str().unwrap_or_default());
    let may_become_tunnel = is_tunnel || request.headers().contains_key(UPGRADE);
    let may_hold_its_body = carried == Carried::Http1 && request.headers().contains_key(EXPECT);
    let upgrade = hyper::upgrade::on(&mut request);
    // A stream of messages has no pace.
    let is_stream = is_grpc && carried == Carried::Http2;
    if !is_stream && !request.body().is_end_stream() {
        record.flow().keeps_pace(&worker.limits);
    }
    let mut request = request.map(|body| RequestBody::new(body, Rc::clone(record.flow())));
    request.headers_mut().insert(headers::REQUEST_ID, id.clone());
    let result = match worker.request_slot(exchange.direction) {
        _ if !agrees => Err(Error::bad_request(Code::BadFraming, "a message with two readings")),
        Err(error) => Err(error),
        Ok(slot) => {
            record.hold(slot);
            if is_tunnel {
                handler.connect(request, &mut record).await.map(Passed::Connected)
            } else {
                handler.forward(request, &mut record).await.and_then(passed_on)
            }
        }
    };
    // The upstream failed because the body was given up, or could not be read.
    let result = result.map_err(|error| {
        let of_body = || wire.untold_of_body().map(guard::Refusal::error);
        record.flow().why_cut().or_else(of_body).unwrap_or(error)
    });
    let is_opened = matches!(result, Ok(Passed::Upgraded(_) | Passed::Connected(_)));
    if may_become_tunnel {
        wire.decide(is_opened);
    }
    // What an eager client has sent into a tunnel must not be read as its next request, and what follows a message with
    // two readings would be misread too.
    let is_not_opened = may_become_tunnel && !is_opened && carried == Carried::Http1;
    let is_last = carried == Carried::Http1 && exchange.is_closing.get() && !is_opened;
    // The rest of a body that trickles is not waited for either (RFC 9110 §15.5.9).
    let trickles = carried == Carried::Http1 && matches!(result, Err(Error::Expired { .. }));
    // A client that waits for a 100 may send the body after all, or its next request: nobody can tell.
    let is_held = may_hold_its_body && !record.flow().is_asked_for();
    let is_eager = is_not_opened && (is_tunnel || wire.is_early());
    let closes = !agrees || is_last || trickles || is_held || is_eager;
    let mut response = match result {
        Err(error) => refuse(&error, is_grpc, &id, record),
        Ok(Passed::Connected(link)) => {
            record.answered(StatusCode::OK);
            lingering.begin();
            let tunnel = connected(upgrade, link, Rc::clone(worker), record);
            let tunnel = contained(tunnel, Arc::clone(&worker.metrics));
            worker.tasks_of(exchange.direction).spawn_local(tunnel);
            let mut response = Response::new(ResponseBody::text(String::new()));
            response.headers_mut().insert(headers::REQUEST_ID, id);
            response
        }
        Ok(Passed::Upgraded(mut response)) => {
            record.answered(response.status());
            lingering.begin();
            let upstream = hyper::upgrade::on(&mut response);
            let idle = worker.limits.opaque_idle_timeout;
            let tunnel = upgraded(upgrade, upstream, Rc::clone(handler), idle, record);
            let tunnel = contained(tunnel, Arc::clone(&worker.metrics));
            worker.tasks_of(exchange.direction).spawn_local(tunnel);
            response.map(|_| ResponseBody::text(String::new()))
        }
        Ok(Passed::Answer(response)) => {
            record.answered(response.status());
            response.map(|body| {
                if body.is_end_stream() {
                    record.complete();
                }
                ResponseBody::upstream(body, record)
            })
        }
    };
    if closes {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What is passed on of an upstream's answer.
enum Passed {
    Answer(Response<Leased>),
    /// The peer that a CONNECT asked for has proven itself.
    Connected(upstream::peer::Link),
    /// Both sides agreed on another protocol.
    Upgraded(Response<Leased>),
}

/// The upstream's answer without what belongs to its own hop.
fn passed_on(answer: Answer) -> Result<Passed, Error> {
    let broke = |detail: String| Error::Upstream { code: Code::UpstreamFailed, detail };
    let Answer { mut response, opening, .. } = answer;
    // hyper lets chunked win; whoever reads the answer after us may not.
    request::refuse_ambiguous_framing(response.headers())
        .map_err(|error| broke(format!("the upstream's answer has {error}")))?;
    let became = Became::of(&response).map_err(broke)?;
    headers::remove_hop_by_hop(response.headers_mut()).map_err(broke)?;
    // An HTTP/1.0 application must not end the link's connection with each answer.
    *response.version_mut() = Version::HTTP_11;
    match (opening, became) {
        (Some(opening), became) => {
            let is_open = opening.is_opened_by(&mut response, became).map_err(broke)?;
            Ok(if is_open { Passed::Upgraded(response) } else { Passed::Answer(response) })
        }
        (None, None) => Ok(Passed::Answer(response)),
        (None, Some(_)) => {
            Err(broke("the upstream switched to a protocol that was not asked for".to_owned()))
        }
    }
}

/// What the downstream reads of a refusal: one word and the id under which the log explains it. The record is written
/// and the place among the requests is free at once, however slowly the refusal is read.
fn refuse(error: &Error, is_grpc: bool, id: &HeaderValue, mut record: Record) -> Response<ResponseBody> {
    let shown = id.to_str().unwrap_or_default();
    let (status, kind, text) = if is_grpc {
        (StatusCode::OK, "application/grpc", String::new())
    } else {
        (error.status(), "text/plain; charset=utf-8", format!("{} (request id {shown})\n", error.public()))
    };
    record.answered(status);
    record.failed(error);
    drop(record);
    let mut response = Response::new(ResponseBody::text(text));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(headers::REQUEST_ID, id.clone());
    if error.status() == StatusCode::UNAUTHORIZED {
        // RFC 6750 §3.1, and no more than that.
        fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""));
    }
    if let Some(seconds) = error.retry_after() {
        fields.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if is_grpc {
        fields.insert("grpc-status", HeaderValue::from(grpc_status(error.status())));
        fields.insert("grpc-message", HeaderValue::from_static(error.public()));
    }
    response
}

/// <https://grpc.io/docs/guides/status-codes/>
fn grpc_status(status: StatusCode) -> u16 {
    match status {
        StatusCode::FORBIDDEN => 7,
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::GATEWAY_TIMEOUT => 4,
        StatusCode::TOO_MANY_REQUESTS => 8,
        StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => 12,
        StatusCode::BAD_REQUEST
        | StatusCode::EXPECTATION_FAILED
        | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => 13,
        _ => 14,
    }
}

fn is_grpc(fields: &HeaderMap) -> bool {
    fields.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The caller's id if it is harmless in a log line, or a new one.
fn request_id(fields: &HeaderMap, worker: &Worker) -> HeaderValue {
    let mut ids = fields.get_all(headers::REQUEST_ID).iter();
    match (ids.next(), ids.next()) {
        (Some(id), None) if is_harmless(id.as_bytes()) => id.clone(),
        _ => worker.new_request_id(),
    }
}

fn is_harmless(id: &[u8]) -> bool {
    (1..=LONGEST_ID).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
}

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        self.tasks.spawn_local(contained(future, Arc::clone(&self.metrics)));
    }
}

fn header_list(limits: &Limits) -> u32 {
    let overhead = limits.headers.saturating_mul(HPACK_OVERHEAD);
    let bytes = limits.header_bytes.saturating_mul(HEADER_LIST_SHARE).saturating_add(overhead);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// What one connection may have in flight, so that a stream nobody reads never holds up another.
pub(crate) fn connection_window(limits: &Limits) -> u32 {
    STREAM_WINDOW.saturating_mul(limits.streams).min(MOST_WINDOW)
}

/// Bytes that one stream may have in flight.
pub(crate) const STREAM_WINDOW: u32 = 64 * 1024;
/// Of `limits.headerBytes`.
const HEADER_LIST_SHARE: usize = 4;
/// RFC 9113 §6.5.2.
const HPACK_OVERHEAD: usize = 32;
/// RFC 9113 §6.9.1.
const MOST_WINDOW: u32 = (1 << 31) - 1;
const MOST_RESETS: usize = 20;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(10);
const LONGEST_ID: usize = 128;
/// For a request on an HTTP/1 connection that was under way as the connection began to close, at any distance in a mesh.
const LAST_REQUEST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
