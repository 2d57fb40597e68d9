//! Connections kept for the next request, per worker: HTTP/1.1 connections lent to one request at a time, HTTP/2
//! connections shared. A connection serves only a destination equal to its own, and leaves the pool before either
//! side's certificate ends.

mod bounds;
mod connect;
mod failure;

use std::{cell::RefCell, rc::Rc, time::Duration};

use hashbrown::HashMap;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use sidegate_codes::Code;
use tokio::{sync::Mutex, time::Instant};
use tokio_util::task::TaskTracker;

pub(crate) use bounds::Bounds;
pub(crate) use failure::{Failure, chain};

use super::{
    Answer,
    connection::{Http1, Http2, StreamSlot},
    dial::{Destination, Dialer},
    leased::{Lease, Leased},
};
use crate::{error::Error, http::expect, resilience::Sent};

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
                // On the heap, as it is rare: what waits for an answer is smaller without it.
                None => match Box::pin(self.connect_http1(destination, bounds)).await {
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
            let (mut connection, is_reused) = match self.find_shared(destination) {
                Some(connection) => (connection, true),
                None => match Box::pin(self.share(destination, bounds)).await {
                    Ok(shared) => shared,
                    Err(error) => return Err(Failure::before_sending(error, request)),
                },
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

    /// Takes a connection back once its answer is through. hyper needs one more turn to be ready for another request, and does
    /// not get there if the request's body is still on its way: then the connection goes with the next pruning.
    pub(super) fn give_back(&self, destination: Destination, mut connection: Http1) {
        connection.terms.idle_since = Instant::now();
        if !connection.sender.is_closed() {
            self.keep(destination, connection);
        }
    }

    /// Drops what has been idle too long or may take no more requests. Called every now and then.
    pub(crate) fn prune(&self) {
        let now = Instant::now();
        let most = self.dialer.limits.idle_connections;
        self.idle.borrow_mut().retain(|destination, connections| {
            connections.retain(|connection| connection.is_usable(now));
            // Those that have rested longest come first.
            connections.drain(..connections.len().saturating_sub(most));
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
            // Whoever uses it was let out to these addresses.
            Destination::Outside { .. } => return true,
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
        // The most recently used first: the others may rest until they are pruned. The very last may not be ready yet.
        for at in (0..connections.len()).rev() {
            if connections[at].is_usable(now) {
                return Some(connections.remove(at));
            }
            if connections[at].sender.is_closed() {
                connections.remove(at);
            }
        }
        None
    }

    /// Until it is pruned it may be one of more than shall be kept: under load, what is idle is asked for in the next moment,
    /// and connecting anew costs as much as the request.
    fn keep(&self, destination: Destination, connection: Http1) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(destination).or_default();
        if connections.len() < self.dialer.limits.idle_connections.saturating_mul(BETWEEN_PRUNINGS) {
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

/// Half a second in all, for what takes one round trip on a new connection and nothing on others.
const LOOK: Duration = Duration::from_millis(5);
const MOST_LOOKS: u32 = 100;
/// As many times as many may be idle for a second.
const BETWEEN_PRUNINGS: usize = 8;
