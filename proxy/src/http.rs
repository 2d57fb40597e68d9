//! The HTTP part of the path, the same for both directions: serves a downstream connection within limits, hands each
//! request to a handler in checked form, and turns refusals into answers that say "denied" and a request id.

mod answer;
pub mod authority;
mod body;
mod carry;
pub(crate) mod expect;
mod flow;
pub mod guard;
mod headers;
mod http1;
mod lingering;
mod pace;
pub mod path;
mod refusal;
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

use http::{Request, Version};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use sidegate_codes::Code;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

pub(crate) use authority::canonical_host;
pub(crate) use body::RequestBody;
pub(crate) use flow::Flow;
pub(crate) use headers::{PEER, hyphenated, is_changeable};
pub(crate) use path::normalize;
pub(crate) use request::{Checked, Rules};
pub(crate) use upgrade::Opening;

use answer::{Reading, answer};
use body::Received;
use carry::Upgrade;
use guard::{Guarded, Wire};
use http1::Ended;
use lingering::Lingering;
use pace::{Due, Pace};

use crate::{
    config::Limits,
    contain::contained,
    detect::Rewound,
    error::Error,
    message::Most,
    telemetry::{Carried, Exchange, Metrics, Record},
    upstream::{self, Answer},
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
    stream: Rewound<S>,
    version: Version,
    exchange: Rc<Exchange>,
    handler: H,
    worker: &Rc<Worker>,
    closing: impl Future<Output = ()>,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler + 'static,
{
    let carried = if version == Version::HTTP_2 { Carried::Http2 } else { Carried::Http1 };
    let is_http2 = version == Version::HTTP_2;
    let (stream, tunnel) = Lingering::new(stream);
    let stream = if is_http2 { Guarded::http2(stream, &worker.limits) } else { Guarded::http1(stream) };
    let wire = stream.wire();
    let handler = Rc::new(handler);
    let live = Live { exchange: &exchange, wire: &wire, carried, worker };
    let (requests, read, connection) = (Rc::clone(worker), Arc::clone(&wire), Rc::clone(&exchange));
    let shared = move || {
        (Rc::clone(&handler), Rc::clone(&connection), Rc::clone(&requests), Arc::clone(&read), tunnel.clone())
    };
    if is_http2 {
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (handler, exchange, worker, wire, tunnel) = shared();
            wire.request();
            let upgrade = Upgrade::Http2(hyper::upgrade::on(&mut request));
            let request = request.map(Received::Http2);
            // On the heap: hyper keeps its place for as long as the stream.
            Box::pin(async move {
                let reading = Reading { carried, wire: &wire, lingering: &tunnel, agrees: true };
                let answer = answer(request, upgrade, reading, &exchange, &handler, &worker).await;
                Ok::<_, std::convert::Infallible>(answer)
            })
        });
        let server = http2_server(&worker.limits, worker.executor());
        // On the heap: it is larger than all that a connection of HTTP/1 has.
        let mut connection = Box::pin(server.serve_connection(TokioIo::new(stream), service));
        live.run(connection.as_mut(), http2::Connection::graceful_shutdown, |_| {}, closing).await
    } else {
        let answered = move |request: Request<Option<http1::Body>>, tunnel_opened: Option<http1::Tunnel>| {
            let (handler, exchange, worker, wire, tunnel) = shared();
            let upgrade = tunnel_opened.map_or(Upgrade::None, Upgrade::Http1);
            let request = request.map(|body| body.map_or(Received::Nothing, Received::Http1));
            async move {
                let agrees = wire.agrees(wire.request(), request.body().size_hint().exact());
                let reading = Reading { carried, wire: &wire, lingering: &tunnel, agrees };
                answer(request, upgrade, reading, &exchange, &handler, &worker).await
            }
        };
        let connection = pin!(http1::Connection::new(stream, Most::of(&worker.limits), answered));
        live.run(connection, |it| it.get_mut().shut_down(), |it| it.get_mut().rest(), closing).await
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
    async fn run<E: Into<Ended>, C: Future<Output = Result<(), E>>>(
        self,
        mut connection: Pin<&mut C>,
        shutdown: impl Fn(Pin<&mut C>),
        rest: impl Fn(Pin<&mut C>),
        closing: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let limits = &self.worker.limits;
        let age = self.worker.spread(limits.connection_age);
        let mut pace = Pace::new(limits, self.wire, self.exchange, age);
        let mut is_closing = false;
        let closing = async {
            closing.await;
            if self.carried == Carried::Http1 {
                // A silent connection would end now, even one from which nothing was read yet. But its next request may be
                // under way: HTTP/1 has no GOAWAY that tells the client to send that one elsewhere.
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
                        Some(Due::Rest) => rest(connection.as_mut()),
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
        self.ended(result.map_err(Into::into))
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

    /// Records what was refused below the requests, by the guard or by whoever reads messages, unless the requests in flight tell
    /// it. The rest is a downstream that left.
    fn ended(self, result: Result<(), Ended>) -> Result<(), Error> {
        let (refused, is_answered) = match (self.wire.untold(), result) {
            (Some(refusal), _) => (refusal.error(), refusal.is_answered()),
            (None, Ok(())) => return Ok(()),
            (None, Err(Ended::TooLarge)) => {
                (Error::bad_request(Code::HeadersTooLarge, "limits.headerBytes or limits.headers"), true)
            }
            (None, Err(Ended::Unreadable(detail))) => (Error::bad_request(Code::BadFraming, detail), true),
            (None, Err(Ended::Broken(detail))) => match self.wire.ended_by_h2(&detail) {
                Some(refused) => (refused, false),
                None => return Err(Error::Downstream(detail)),
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

impl From<hyper::Error> for Ended {
    fn from(error: hyper::Error) -> Self {
        Self::Broken(upstream::chain(&error))
    }
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
/// For a request on an HTTP/1 connection that was under way as the connection began to close, at any distance in a mesh.
const LAST_REQUEST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
