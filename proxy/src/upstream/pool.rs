//! Connections kept for the next request, per worker: HTTP/1.1 connections lent to one request at a time, HTTP/2
//! connections shared. A connection serves only a destination equal to its own, and leaves the pool before either
//! side's certificate ends.

mod bounds;
mod connect;
mod failure;
mod idle;
mod links;

use std::{cell::RefCell, rc::Rc, time::Duration};

use hashbrown::HashMap;
use http::{Method, Request, header::UPGRADE, request::Parts};
use sidegate_codes::Code;
use tokio::{sync::Mutex, time::Instant};
use tokio_util::task::TaskTracker;

pub(crate) use bounds::Bounds;
pub(crate) use failure::{Failure, chain};
pub(super) use idle::Idle;
use idle::Over;
pub(super) use links::Lent;
use links::Links;

use super::{
    Answer,
    connection::{Http1, Http2, StreamSlot},
    dial::{Carries, Destination, Dialed, Dialer},
    leased::{Lease, Leased},
};
use crate::{error::Error, http::expect, message::Most, resilience::Sent};

/// The connections of one worker.
#[derive(Debug)]
pub(crate) struct Pool {
    dialer: Dialer,
    tasks: TaskTracker,
    idle: RefCell<HashMap<Destination, Rc<Idle>>>,
    shared: RefCell<HashMap<Destination, Vec<Http2>>>,
    /// Links whose streams carry opaque bytes.
    tunnels: RefCell<HashMap<Destination, Rc<Links>>>,
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
            tunnels: RefCell::default(),
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

    /// Sends a request as HTTP/1.1 on an idle connection or a new one.
    pub(crate) async fn send_http1(
        &self,
        destination: &Destination,
        head: &Parts,
        body: Sent,
        bounds: Bounds<'_>,
    ) -> Result<Answer, Failure> {
        let idle = self.idle_at(destination);
        let lent = idle.links.lend();
        // What becomes a tunnel is carried for itself: nobody waits behind its bytes.
        let over = match bounds.is_fresh || head.headers.contains_key(UPGRADE) {
            true => Over::Own,
            false if idle.links.are_better() => Over::Link,
            false => Over::Either,
        };
        let most = Most::of(&self.dialer.limits);
        let reused = if bounds.is_fresh { None } else { idle.take(over, most, Instant::now()) };
        let is_reused = reused.is_some();
        let Http1 { connection, terms } = match reused {
            Some(connection) => connection,
            // On the heap, as it is rare: what waits for an answer is smaller without it.
            None => match Box::pin(self.connect_http1(destination, &idle, over, bounds)).await {
                Ok(connection) => connection,
                Err(error) => return Err(Failure::before_sending(error, body)),
            },
        };
        let expecting = head.extensions.get::<expect::Expecting>().cloned();
        let informed = |status| {
            if let Some(expecting) = &expecting {
                expecting.informed(status);
            }
        };
        match bounds.in_time(connection.exchange(head, body, informed)).await {
            Ok(Ok(response)) => {
                if !connection.has_sent() {
                    self.spawn(connection.send_rest());
                }
                let answered = expecting.as_ref().map(expect::Expecting::answered);
                let peer = terms.peer();
                let lease = Lease { idle, _lent: lent, terms, answered };
                Ok(Answer { response: response.map(|body| Leased::http1(body, lease)), peer, opening: None })
            }
            Ok(Err(broken)) => {
                let fault = broken.fault(is_reused && !connection.has_begun());
                Err(Failure::sent(destination, &broken, fault, &terms))
            }
            Err(error) => Err(Failure::late(error, &terms)),
        }
    }

    /// Sends `request` as a stream of a shared HTTP/2 connection, or of a new one.
    pub(crate) async fn send_http2(
        &self,
        destination: &Destination,
        mut request: Request<Sent>,
        bounds: Bounds<'_>,
    ) -> Result<Answer, Failure> {
        loop {
            let (mut connection, is_reused) = match self.find_shared(destination) {
                Some(connection) => (connection, true),
                None => match Box::pin(self.share(destination, bounds)).await {
                    Ok(shared) => shared,
                    Err(error) => return Err(Failure::before_sending(error, request.into_body())),
                },
            };
            let stream = StreamSlot::take(&connection.streams);
            if request.method() == Method::CONNECT && !takes_websockets(&connection).await {
                let error = Error::bad_request(
                    Code::UnsupportedRequest,
                    "a WebSocket to an application without RFC 8441",
                );
                return Err(Failure::before_sending(error, request.into_body()));
            }
            match bounds.in_time(connection.sender.try_send_request(request)).await {
                Ok(Ok(response)) => {
                    let response = response.map(|body| Leased::http2(body, stream));
                    return Ok(Answer { response, peer: connection.terms.peer(), opening: None });
                }
                Ok(Err(mut failed)) => match failed.take_message() {
                    Some(unsent) if is_reused => request = unsent,
                    unsent => {
                        return Err(Failure::of(
                            destination,
                            failed.error(),
                            unsent.map(Request::into_body),
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

    /// A stream for opaque bytes to a peer: a connection of its own, or one of a link's if there are many at once. Whoever uses it
    /// keeps what it comes with.
    pub(super) async fn tunnel(
        &self,
        destination: &Destination,
        carries: Carries,
        until: Instant,
    ) -> Result<(Dialed, Lent), Error> {
        let links = self.tunnels_to(destination);
        let lent = links.lend();
        if carries == Carries::Tcp
            && links.are_better()
            && let Some(dialed) = self.tunnel_of_link(destination, &links, until).await?
        {
            return Ok((dialed, lent));
        }
        Ok((self.dialer.dial(destination, carries, until).await?, lent))
    }

    /// Drops what has been idle too long or may take no more requests. Called every now and then.
    pub(crate) fn prune(&self) {
        let now = Instant::now();
        let most = self.dialer.limits.idle_connections;
        self.idle.borrow_mut().retain(|destination, idle| {
            idle.prune(now, most);
            let is_current = self.is_current(destination);
            if !is_current {
                idle.close();
            }
            // One whose connections are lent out is found again by those that come back.
            is_current && (!idle.is_empty() || Rc::strong_count(idle) > 1)
        });
        self.shared.borrow_mut().retain(|destination, connections| {
            connections.retain(|connection| connection.is_usable(now) && !connection.is_idle(now));
            self.is_current(destination) && !connections.is_empty()
        });
        self.tunnels.borrow_mut().retain(|destination, links| {
            links.prune(now);
            let is_current = self.is_current(destination);
            if !is_current {
                links.close();
            }
            is_current && !links.is_empty()
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

    /// Where connections to `destination` idle.
    fn idle_at(&self, destination: &Destination) -> Rc<Idle> {
        let mut idle = self.idle.borrow_mut();
        let most = || self.dialer.limits.idle_connections.saturating_mul(BETWEEN_PRUNINGS);
        let at = idle.entry_ref(destination).or_insert_with(|| Idle::new(most(), destination.is_peer()));
        Rc::clone(at)
    }

    fn tunnels_to(&self, destination: &Destination) -> Rc<Links> {
        let mut tunnels = self.tunnels.borrow_mut();
        Rc::clone(tunnels.entry_ref(destination).or_insert_with(|| Links::new(destination.is_peer())))
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
