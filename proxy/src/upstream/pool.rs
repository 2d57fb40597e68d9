//! Connections kept for the next request, per worker: HTTP/1.1 connections lent to one request at a time, HTTP/2
//! connections shared. A connection serves only a destination equal to its own, and leaves the pool before either
//! side's certificate ends.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hashbrown::HashMap;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use sidegate_codes::Code;
use tokio::{sync::Mutex, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    Answer,
    dial::{Carries, Destination, dial},
};
use crate::{
    config::Limits,
    error::Error,
    http::{LocalExecutor, RequestBody},
    identity::Peer,
    snapshot::Reader,
};

/// The connections of one worker.
#[derive(Debug)]
pub(crate) struct Pool {
    limits: Arc<Limits>,
    trust: Reader,
    tasks: TaskTracker,
    idle: RefCell<HashMap<Destination, Vec<Http1>>>,
    shared: RefCell<HashMap<Destination, Vec<Http2>>>,
    /// One dial at a time per destination, so that a burst of streams shares one connection. Held across the dial.
    dialing: RefCell<HashMap<Destination, Rc<Mutex<()>>>>,
}

/// A request that was not sent, for another try; or the reason alone when it may have been.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) unsent: Option<Box<Request<RequestBody>>>,
}

/// The body of an upstream's answer. Its end gives the connection back to the pool; dropping it before ends the
/// HTTP/1.1 connection or resets the HTTP/2 stream.
#[derive(Debug)]
pub(crate) struct Leased {
    body: Incoming,
    lease: Option<Lease>,
}

#[derive(Debug)]
enum Lease {
    Http1 {
        pool: Rc<Pool>,
        destination: Destination,
        connection: Http1,
    },
    Http2 {
        _stream: StreamSlot,
    },
}

#[derive(Debug)]
struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    terms: Terms,
}

#[derive(Clone, Debug)]
struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Cell<u32>>,
    terms: Terms,
}

/// How long a connection may take new requests.
#[derive(Clone, Debug)]
struct Terms {
    peer: Option<Arc<Peer>>,
    retires: Option<Instant>,
    idle_since: Instant,
}

/// One stream of a shared connection; counted until dropped.
#[derive(Debug)]
struct StreamSlot(Rc<Cell<u32>>);

impl Pool {
    /// An empty pool. `tasks` owns what drives its connections.
    pub(crate) fn new(limits: Arc<Limits>, trust: Reader, tasks: TaskTracker) -> Self {
        Self {
            limits,
            trust,
            tasks,
            idle: RefCell::default(),
            shared: RefCell::default(),
            dialing: RefCell::default(),
        }
    }

    /// Sends `request` as HTTP/1.1 on an idle connection or a new one.
    pub(crate) async fn send_http1(
        self: &Rc<Self>,
        destination: &Destination,
        mut request: Request<RequestBody>,
    ) -> Result<Answer, Failure> {
        loop {
            let reused = self.take_idle(destination);
            let is_reused = reused.is_some();
            let mut connection = match reused {
                Some(connection) => connection,
                None => match self.connect_http1(destination).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        return Err(Failure {
                            error,
                            unsent: Some(Box::new(request)),
                        });
                    }
                },
            };
            match self.in_time(connection.sender.try_send_request(request)).await {
                Ok(Ok(response)) => return Ok(self.lend(destination, connection, response)),
                Ok(Err(mut failed)) => match failed.take_message() {
                    // The server closed an idle connection just now; nothing of the request went out.
                    Some(unsent) if is_reused => request = unsent,
                    unsent => return Err(failure(destination, failed.error(), unsent)),
                },
                Err(error) => return Err(Failure { error, unsent: None }),
            }
        }
    }

    /// Sends `request` as a stream of a shared HTTP/2 connection, or of a new one.
    pub(crate) async fn send_http2(
        self: &Rc<Self>,
        destination: &Destination,
        mut request: Request<RequestBody>,
    ) -> Result<Answer, Failure> {
        loop {
            let (mut connection, is_reused) = match self.share(destination).await {
                Ok(shared) => shared,
                Err(error) => {
                    return Err(Failure {
                        error,
                        unsent: Some(Box::new(request)),
                    });
                }
            };
            let slot = StreamSlot::take(&connection.streams);
            match self.in_time(connection.sender.try_send_request(request)).await {
                Ok(Ok(response)) => {
                    let lease = (!response.body().is_end_stream()).then_some(Lease::Http2 { _stream: slot });
                    let peer = connection.terms.peer.as_ref().map(|peer| peer.id().clone());
                    return Ok(Answer {
                        response: response.map(|body| Leased { body, lease }),
                        peer,
                    });
                }
                Ok(Err(mut failed)) => match failed.take_message() {
                    Some(unsent) if is_reused => request = unsent,
                    unsent => return Err(failure(destination, failed.error(), unsent)),
                },
                Err(error) => return Err(Failure { error, unsent: None }),
            }
        }
    }

    /// Drops what has been idle too long or may take no more requests. Called every now and then.
    pub(crate) fn prune(&self) {
        let now = Instant::now();
        let lives = |destination: &Destination| self.is_current(destination);
        self.idle.borrow_mut().retain(|destination, connections| {
            connections.retain(|connection| connection.is_usable(now, self.limits.idle_timeout));
            lives(destination) && !connections.is_empty()
        });
        self.shared.borrow_mut().retain(|destination, connections| {
            connections.retain(|connection| {
                let is_idle = connection.streams.get() == 0
                    && now.duration_since(connection.terms.idle_since) > self.limits.idle_timeout;
                connection.is_usable(now) && !is_idle
            });
            lives(destination) && !connections.is_empty()
        });
        self.dialing
            .borrow_mut()
            .retain(|_, gate| Rc::strong_count(gate) > 1);
    }

    /// Whether any route still leads to `destination` under the same credentials, trust and identities.
    fn is_current(&self, destination: &Destination) -> bool {
        let Destination::Peer { address, tls } = destination else {
            return true;
        };
        let snapshot = self.trust.load();
        snapshot
            .outbound
            .iter()
            .filter_map(|route| route.service.as_ref())
            .any(|service| service.tls.as_ref() == Some(tls) && service.endpoints.contains(address))
    }

    fn take_idle(&self, destination: &Destination) -> Option<Http1> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(destination)?;
        let now = Instant::now();
        // The most recently used first: the others may rest until they are pruned.
        while let Some(connection) = connections.pop() {
            if connection.is_usable(now, self.limits.idle_timeout) {
                return Some(connection);
            }
        }
        None
    }

    async fn connect_http1(&self, destination: &Destination) -> Result<Http1, Error> {
        let (stream, peer) = dial(
            destination,
            Carries::Http1,
            self.limits.connect_timeout,
            &self.trust,
        )
        .await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(self.limits.header_bytes)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| upstream_failed(destination, &error))?;
        let terms = Terms::new(peer);
        self.tasks
            .spawn_local(drive(connection, terms.peer.clone(), self.trust.clone()));
        Ok(Http1 { sender, terms })
    }

    /// A shared connection with a free stream, and whether it existed before.
    async fn share(&self, destination: &Destination) -> Result<(Http2, bool), Error> {
        if let Some(connection) = self.find_shared(destination) {
            return Ok((connection, true));
        }
        let gate = Rc::clone(self.dialing.borrow_mut().entry(destination.clone()).or_default());
        let _dialing = gate.lock().await;
        if let Some(connection) = self.find_shared(destination) {
            return Ok((connection, true));
        }
        let connection = self.connect_http2(destination).await?;
        self.shared
            .borrow_mut()
            .entry(destination.clone())
            .or_default()
            .push(connection.clone());
        Ok((connection, false))
    }

    fn find_shared(&self, destination: &Destination) -> Option<Http2> {
        let now = Instant::now();
        let mut shared = self.shared.borrow_mut();
        let connections = shared.get_mut(destination)?;
        connections.retain(|connection| connection.is_usable(now));
        let free = connections
            .iter_mut()
            .find(|connection| connection.streams.get() < self.limits.streams)?;
        free.terms.idle_since = now;
        Some(free.clone())
    }

    async fn connect_http2(&self, destination: &Destination) -> Result<Http2, Error> {
        let (stream, peer) = dial(
            destination,
            Carries::Http2,
            self.limits.connect_timeout,
            &self.trust,
        )
        .await?;
        let (sender, connection) = http2::Builder::new(LocalExecutor(self.tasks.clone()))
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(self.limits.header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| upstream_failed(destination, &error))?;
        let terms = Terms::new(peer);
        self.tasks
            .spawn_local(drive(connection, terms.peer.clone(), self.trust.clone()));
        Ok(Http2 {
            sender,
            streams: Rc::default(),
            terms,
        })
    }

    /// The time until the head of the answer is bounded; the request's body counts towards it.
    async fn in_time<T>(&self, sending: impl Future<Output = T>) -> Result<T, Error> {
        tokio::time::timeout(self.limits.response_timeout, sending)
            .await
            .map_err(|_| Error::Upstream {
                code: Code::UpstreamTimeout,
                detail: format!(
                    "no answer within {}",
                    humantime::format_duration(self.limits.response_timeout)
                ),
            })
    }

    fn lend(
        self: &Rc<Self>,
        destination: &Destination,
        connection: Http1,
        response: Response<Incoming>,
    ) -> Answer {
        let peer = connection.terms.peer.as_ref().map(|peer| peer.id().clone());
        let lease = Lease::Http1 {
            pool: Rc::clone(self),
            destination: destination.clone(),
            connection,
        };
        let response = response.map(|body| {
            let mut leased = Leased {
                body,
                lease: Some(lease),
            };
            leased.end_if_complete();
            leased
        });
        Answer { response, peer }
    }

    /// Takes a connection back once its answer is through. hyper needs one more turn to be ready for another request,
    /// and does not get there if the request's body is still on its way: then the connection is given up.
    fn give_back(self: Rc<Self>, destination: Destination, mut connection: Http1) {
        connection.terms.idle_since = Instant::now();
        if connection.sender.is_ready() {
            self.keep(destination, connection);
        } else if !connection.sender.is_closed() {
            let tasks = self.tasks.clone();
            tasks.spawn_local(async move {
                let ready = tokio::time::timeout(TURNAROUND, connection.sender.ready()).await;
                if matches!(ready, Ok(Ok(()))) {
                    self.keep(destination, connection);
                }
            });
        }
    }

    fn keep(&self, destination: Destination, connection: Http1) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(destination).or_default();
        if connections.len() < self.limits.idle_connections {
            connections.push(connection);
        }
    }
}

/// Runs a connection until it ends, or until its peer is trusted no longer.
async fn drive(connection: impl Future<Output = hyper::Result<()>>, peer: Option<Arc<Peer>>, trust: Reader) {
    let result = match peer {
        None => connection.await,
        Some(peer) => tokio::select! {
            biased;
            ended = peer.until_untrusted(trust) => {
                tracing::info!(code = %ended.code(), detail = %ended, "upstream connection closed");
                return;
            }
            result = connection => result,
        },
    };
    if let Err(error) = result {
        tracing::debug!(%error, "upstream connection broke");
    }
}

fn upstream_failed(destination: &Destination, error: &hyper::Error) -> Error {
    Error::Upstream {
        code: Code::UpstreamFailed,
        detail: format!("{destination}: {}", chain(error)),
    }
}

fn failure(destination: &Destination, error: &hyper::Error, unsent: Option<Request<RequestBody>>) -> Failure {
    Failure {
        error: upstream_failed(destination, error),
        unsent: unsent.map(Box::new),
    }
}

/// hyper names the cause, such as a TLS alert, only in the chain.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl Terms {
    fn new(peer: Option<Arc<Peer>>) -> Self {
        let now = Instant::now();
        let retires = peer.as_ref().map(|peer| now + peer.time_to_begin());
        Self {
            peer,
            retires,
            idle_since: now,
        }
    }

    fn has_retired(&self, now: Instant) -> bool {
        self.retires.is_some_and(|retires| now >= retires)
    }
}

impl Http1 {
    fn is_usable(&self, now: Instant, idle: Duration) -> bool {
        self.sender.is_ready()
            && !self.terms.has_retired(now)
            && now.duration_since(self.terms.idle_since) < idle
    }
}

impl Http2 {
    fn is_usable(&self, now: Instant) -> bool {
        !self.sender.is_closed() && !self.terms.has_retired(now)
    }
}

impl StreamSlot {
    fn take(streams: &Rc<Cell<u32>>) -> Self {
        streams.set(streams.get().saturating_add(1));
        Self(Rc::clone(streams))
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Leased {
    fn end_if_complete(&mut self) {
        if self.body.is_end_stream() {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Some(Lease::Http1 {
            pool,
            destination,
            connection,
        }) = self.lease.take()
        {
            pool.give_back(destination, connection);
        }
    }
}

impl Body for Leased {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.end(),
            Some(Ok(_)) => self.end_if_complete(),
            // What broke is not lent again.
            Some(Err(_)) => self.lease = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

const KEEP_ALIVE: Duration = Duration::from_secs(30);
const TURNAROUND: Duration = Duration::from_secs(1);
