//! Connections kept for the next request, per worker: HTTP/1.1 connections lent to one request at a time, HTTP/2
//! connections shared. A connection serves only a destination equal to its own, and leaves the pool before either
//! side's certificate ends.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use hashbrown::HashMap;
use http::{Method, Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use sidegate_codes::Code;
use sidegate_identity::SpiffeId;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;

use super::{
    Answer,
    connection::{Http1, Http2, Settings, StreamSlot, Terms},
    dial::{Carries, Destination, Dialed, Dialer},
    heard::Heard,
    leased::{Lease, Leased},
    stream::Stream,
};
use crate::{
    balance::{ConnectionSlot, PendingSlot, Picked},
    contain::contained,
    error::Error,
    http::{LocalExecutor, STREAM_WINDOW, connection_window, expect},
    resilience::{Fault, Sent},
};

/// The connections of one worker.
#[derive(Debug)]
pub(crate) struct Pool {
    dialer: Dialer,
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
    pub(crate) fault: Fault,
    pub(crate) unsent: Option<Box<Request<Sent>>>,
    /// Who had proven to be at the other end by then.
    pub(crate) peer: Option<SpiffeId>,
}

/// What one sending may take, and where it is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds<'a> {
    /// Until when the head of the answer must be there.
    pub(crate) deadline: Instant,
    /// What dialling may take of that.
    pub(crate) connect: Duration,
    /// How long a connection made for it may idle.
    pub(crate) idle: Duration,
    /// No idle HTTP/1.1 connection is used: one that ended just now is rarely the only one.
    pub(crate) is_fresh: bool,
    /// The endpoint, with its breakers; the local application has none.
    pub(crate) picked: Option<&'a Picked>,
}

impl Pool {
    /// An empty pool. `tasks` owns what drives its connections.
    pub(crate) fn new(dialer: Dialer, tasks: TaskTracker) -> Self {
        Self {
            dialer,
            tasks,
            idle: RefCell::default(),
            shared: RefCell::default(),
            dialing: RefCell::default(),
        }
    }

    fn executor(&self) -> LocalExecutor {
        LocalExecutor { tasks: self.tasks.clone(), metrics: Arc::clone(&self.dialer.metrics) }
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn_local(contained(task, Arc::clone(&self.dialer.metrics)));
    }

    /// The bounds of what goes to the local application: those of the sidecar.
    pub(crate) fn unpicked(&self, time: Duration) -> Bounds<'static> {
        let limits = &self.dialer.limits;
        let now = Instant::now();
        Bounds {
            deadline: now.checked_add(time).unwrap_or(now),
            connect: limits.connect_timeout,
            idle: limits.idle_timeout,
            is_fresh: false,
            picked: None,
        }
    }

    /// Until when a connection to the local application that is begun now must be there.
    pub(crate) fn connected_by(&self) -> Instant {
        self.unpicked(self.dialer.limits.response_timeout).connected_by()
    }

    /// What opens its connections.
    pub(crate) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Sends `request` as HTTP/1.1 on an idle connection or a new one.
    pub(crate) async fn send_http1(
        self: &Rc<Self>,
        destination: &Destination,
        mut request: Request<Sent>,
        bounds: Bounds<'_>,
    ) -> Result<Answer, Failure> {
        loop {
            let reused = if bounds.is_fresh { None } else { self.take_idle(destination) };
            let is_reused = reused.is_some();
            let mut connection = match reused {
                Some(connection) => connection,
                None => match self.connect_http1(destination, bounds).await {
                    Ok(connection) => connection,
                    Err(error) => return Err(Failure::before_sending(error, request)),
                },
            };
            connection.answer.forget();
            let held = request.extensions().get::<expect::Expecting>().cloned();
            match bounds.in_time(connection.sender.try_send_request(request)).await {
                Ok(Ok(response)) => {
                    let answered = held.as_ref().map(expect::Expecting::answered);
                    return Ok(self.lend(destination, connection, response, answered));
                }
                Ok(Err(mut failed)) => match failed.take_message() {
                    // The server closed an idle connection just now; nothing of the request went out.
                    Some(unsent) if is_reused => request = unsent,
                    unsent => {
                        let was_kept = is_reused && !connection.answer.has_begun();
                        return Err(Failure::of(
                            destination,
                            failed.error(),
                            unsent,
                            was_kept,
                            &connection.terms,
                        ));
                    }
                },
                Err(error) => {
                    return Err(Failure::late(error, &connection.terms));
                }
            }
        }
    }

    /// Sends `request` as a stream of a shared HTTP/2 connection, or of a new one.
    pub(crate) async fn send_http2(
        self: &Rc<Self>,
        destination: &Destination,
        mut request: Request<Sent>,
        bounds: Bounds<'_>,
    ) -> Result<Answer, Failure> {
        loop {
            let (mut connection, is_reused) = match self.share(destination, bounds).await {
                Ok(shared) => shared,
                Err(error) => return Err(Failure::before_sending(error, request)),
            };
            let stream = StreamSlot::take(&connection.streams);
            if request.method() == Method::CONNECT && !takes_websockets(&connection).await {
                let error = Error::bad_request(
                    Code::UnsupportedRequest,
                    "a WebSocket to an application without RFC 8441",
                );
                return Err(Failure::before_sending(error, request));
            }
            match bounds.in_time(connection.sender.try_send_request(request)).await {
                Ok(Ok(response)) => {
                    let lease = Lease::Http2 { _stream: stream };
                    let response = response.map(|body| Leased::new(body, lease));
                    return Ok(Answer { response, peer: connection.terms.peer(), opening: None });
                }
                Ok(Err(mut failed)) => match failed.take_message() {
                    Some(unsent) if is_reused => request = unsent,
                    unsent => {
                        return Err(Failure::of(
                            destination,
                            failed.error(),
                            unsent,
                            is_reused,
                            &connection.terms,
                        ));
                    }
                },
                Err(error) => {
                    return Err(Failure::late(error, &connection.terms));
                }
            }
        }
    }

    /// Takes a connection back once its answer is through. hyper needs one more turn to be ready for another request,
    /// and does not get there if the request's body is still on its way: then the connection is given up.
    pub(super) fn give_back(self: Rc<Self>, destination: Destination, mut connection: Http1) {
        connection.terms.idle_since = Instant::now();
        if connection.sender.is_ready() {
            self.keep(destination, connection);
        } else if !connection.sender.is_closed() {
            let tasks = self.tasks.clone();
            tasks.spawn_local(async move {
                if matches!(timeout(TURNAROUND, connection.sender.ready()).await, Ok(Ok(()))) {
                    self.keep(destination, connection);
                }
            });
        }
    }

    /// Drops what has been idle too long or may take no more requests. Called every now and then.
    pub(crate) fn prune(&self) {
        let now = Instant::now();
        self.idle.borrow_mut().retain(|destination, connections| {
            connections.retain(|connection| connection.is_usable(now));
            self.is_current(destination) && !connections.is_empty()
        });
        self.shared.borrow_mut().retain(|destination, connections| {
            connections.retain(|connection| connection.is_usable(now) && !connection.is_idle(now));
            self.is_current(destination) && !connections.is_empty()
        });
        self.dialing.borrow_mut().retain(|_, gate| Rc::strong_count(gate) > 1);
    }

    /// Whether any route still leads to `destination` under the same credentials, trust and identities, or the
    /// application is still there.
    fn is_current(&self, destination: &Destination) -> bool {
        let (address, tls) = match destination {
            Destination::Peer { address, tls } => (address, tls),
            Destination::App { forward, addresses } => return self.dialer.names.has(forward, addresses),
        };
        let snapshot = self.dialer.mesh.load();
        snapshot
            .services
            .values()
            .any(|service| service.tls.as_ref() == Some(tls) && service.endpoints.contains(address))
    }

    fn take_idle(&self, destination: &Destination) -> Option<Http1> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(destination)?;
        let now = Instant::now();
        // The most recently used first: the others may rest until they are pruned.
        while let Some(connection) = connections.pop() {
            if connection.is_usable(now) {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, destination: Destination, connection: Http1) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(destination).or_default();
        if connections.len() < self.dialer.limits.idle_connections {
            connections.push(connection);
        }
    }

    fn lend(
        self: &Rc<Self>,
        destination: &Destination,
        connection: Http1,
        response: Response<Incoming>,
        answered: Option<expect::Answered>,
    ) -> Answer {
        let peer = connection.terms.peer();
        let (pool, destination) = (Rc::clone(self), destination.clone());
        let lease = Lease::Http1 { pool, destination, connection, answered };
        Answer { response: response.map(|body| Leased::new(body, lease)), peer, opening: None }
    }

    async fn connect_http1(&self, destination: &Destination, bounds: Bounds<'_>) -> Result<Http1, Error> {
        let _pending = bounds.pending()?;
        let slot = bounds.connection()?;
        let (stream, terms) = self.connect(destination, Carries::Http1, bounds).await?;
        let (stream, answer) = Heard::new(stream);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(self.dialer.limits.header_bytes)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| upstream_failed(destination, &error))?;
        self.spawn(drive(connection.with_upgrades(), slot));
        Ok(Http1 { sender, answer, terms })
    }

    /// A shared connection with a free stream, and whether it existed before. Waiting for another's dial counts
    /// towards the connect timeout like the dial itself.
    async fn share(&self, destination: &Destination, bounds: Bounds<'_>) -> Result<(Http2, bool), Error> {
        if let Some(connection) = self.find_shared(destination) {
            return Ok((connection, true));
        }
        let _pending = bounds.pending()?;
        let gate = Rc::clone(self.dialing.borrow_mut().entry(destination.clone()).or_default());
        let dialed = timeout_at(bounds.connected_by(), async {
            let _dialing = gate.lock().await;
            if let Some(connection) = self.find_shared(destination) {
                return Ok((connection, true));
            }
            let connection = self.connect_http2(destination, bounds).await?;
            self.shared.borrow_mut().entry(destination.clone()).or_default().push(connection.clone());
            Ok((connection, false))
        });
        dialed.await.unwrap_or_else(|_| Err(Error::ConnectTimeout(destination.to_string())))
    }

    fn find_shared(&self, destination: &Destination) -> Option<Http2> {
        let now = Instant::now();
        let mut shared = self.shared.borrow_mut();
        let connections = shared.get_mut(destination)?;
        connections.retain(|connection| connection.is_usable(now));
        let most = self.dialer.limits.streams;
        let free = connections.iter_mut().find(|connection| connection.has_room(most))?;
        free.terms.idle_since = now;
        Some(free.clone())
    }

    async fn connect_http2(&self, destination: &Destination, bounds: Bounds<'_>) -> Result<Http2, Error> {
        let slot = bounds.connection()?;
        let (stream, terms) = self.connect(destination, Carries::Http2, bounds).await?;
        let limits = &self.dialer.limits;
        let (sender, connection) = http2::Builder::new(self.executor())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(connection_window(limits))
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| upstream_failed(destination, &error))?;
        let settings = Settings::new(connection);
        self.spawn(drive(settings.clone().drive(), slot));
        Ok(Http2 { sender, settings, streams: Rc::default(), terms })
    }

    /// Dials, and severs the stream when its peer is trusted or expected no longer: hyper runs the streams of a
    /// connection in a task of its own, which dropping the connection does not end.
    async fn connect(
        &self,
        destination: &Destination,
        carries: Carries,
        bounds: Bounds<'_>,
    ) -> Result<(Stream, Terms), Error> {
        let until = bounds.connected_by();
        let Dialed { stream, peer } = self.dialer.dial(destination, carries, until).await?;
        if let Some(peer) = peer.clone() {
            let (cut, mesh, destination) = (stream.cut(), self.dialer.mesh.clone(), destination.clone());
            self.spawn(async move {
                let is_expected = |snapshot: &_| destination.expects(peer.id(), snapshot);
                tokio::select! {
                    () = cut.closed() => {}
                    ended = peer.until_untrusted(mesh, is_expected) => {
                        tracing::info!(code = %ended.code(), detail = %ended, "upstream connection severed");
                        cut.sever();
                    }
                }
            });
        }
        let terms = Terms::new(peer, bounds.idle, &self.dialer.mesh.load());
        Ok((stream, terms))
    }
}

impl Bounds<'_> {
    /// The time until the head of the answer is bounded; the request's body counts towards it.
    async fn in_time<T>(&self, sending: impl Future<Output = T>) -> Result<T, Error> {
        timeout_at(self.deadline, sending).await.map_err(|_| Error::Upstream {
            code: Code::UpstreamTimeout,
            detail: "no answer in time".to_owned(),
        })
    }

    /// Until when a connection must be there.
    pub(super) fn connected_by(&self) -> Instant {
        Instant::now().checked_add(self.connect).map_or(self.deadline, |by| by.min(self.deadline))
    }

    fn connection(&self) -> Result<Option<ConnectionSlot>, Error> {
        self.picked.map(Picked::connection).transpose()
    }

    fn pending(&self) -> Result<Option<PendingSlot>, Error> {
        self.picked.map(Picked::pending).transpose()
    }
}

impl Failure {
    /// This sidecar has nothing to send.
    pub(super) fn own(error: Error) -> Self {
        Self { error, fault: Fault::Own, unsent: None, peer: None }
    }

    fn before_sending(error: Error, request: Request<Sent>) -> Self {
        let fault = match &error {
            Error::BreakerOpen { breaker, .. } if breaker.is_of_endpoint() => Fault::Full,
            Error::BreakerOpen { .. } => Fault::Own,
            _ => Fault::Unsent,
        };
        Self { error, fault, unsent: Some(Box::new(request)), peer: None }
    }

    fn late(error: Error, terms: &Terms) -> Self {
        Self { error, fault: Fault::Late, unsent: None, peer: terms.peer() }
    }

    fn of(
        destination: &Destination,
        error: &hyper::Error,
        unsent: Option<Request<Sent>>,
        is_reused: bool,
        terms: &Terms,
    ) -> Self {
        let fault = if unsent.is_some() { Fault::Unsent } else { Fault::of(error, is_reused) };
        let error = upstream_failed(destination, error);
        Self { error, fault, unsent: unsent.map(Box::new), peer: terms.peer() }
    }
}

/// RFC 8441 §3: to be asked for a WebSocket, the other side must have said that it takes them. Its SETTINGS are the first that
/// it sends, and hyper has no way to wait for them.
async fn takes_websockets(connection: &Http2) -> bool {
    let mut looks = tokio::time::interval(LOOK);
    for _ in 0..MOST_LOOKS {
        looks.tick().await;
        if connection.settings.takes_extended_connect() {
            return true;
        }
    }
    false
}

/// Runs a connection until it ends, and with it its place.
async fn drive(connection: impl Future<Output = hyper::Result<()>>, _slot: Option<ConnectionSlot>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "upstream connection broke");
    }
}

fn upstream_failed(destination: &Destination, error: &hyper::Error) -> Error {
    Error::Upstream { code: Code::UpstreamFailed, detail: format!("{destination}: {}", chain(error)) }
}

/// hyper names the cause, such as a TLS alert, only in the chain.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Half a second in all, for what takes one round trip on a new connection and nothing on others.
const LOOK: Duration = Duration::from_millis(5);
const MOST_LOOKS: u32 = 100;
const TURNAROUND: Duration = Duration::from_secs(1);
