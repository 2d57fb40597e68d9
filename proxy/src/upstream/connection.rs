//! One HTTP connection to an upstream: its sender, and the terms under which it takes new requests.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use sidegate_identity::SpiffeId;
use tokio::time::Instant;

use super::{http1, stream::Stream};
use crate::{
    http::LocalExecutor,
    identity::{Peer, client_time_to_begin},
    resilience::Sent,
    snapshot::Snapshot,
};

/// Lent to one request at a time.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) connection: http1::Connection,
    pub(super) terms: Terms,
}

/// Shared by many requests.
#[derive(Clone, Debug)]
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<Sent>,
    pub(super) settings: Settings,
    pub(super) streams: Rc<Cell<u32>>,
    pub(super) terms: Terms,
}

/// What the other side says that it takes, for as long as the connection lives.
#[derive(Clone)]
pub(super) struct Settings(Rc<RefCell<Option<Http2Connection>>>);

type Http2Connection = http2::Connection<TokioIo<Stream>, Sent, LocalExecutor>;

/// How long a connection may take new requests.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    peer: Option<Arc<Peer>>,
    retires: Option<Instant>,
    /// How long it may idle.
    idle: Duration,
    pub(super) idle_since: Instant,
}

/// One stream of a shared connection; counted until dropped.
#[derive(Debug)]
pub(super) struct StreamSlot(Rc<Cell<u32>>);

impl Terms {
    /// For a connection just made under `snapshot`.
    pub(super) fn new(peer: Option<Arc<Peer>>, idle: Duration, snapshot: &Snapshot) -> Self {
        let now = Instant::now();
        let retires = peer.as_ref().zip(snapshot.secured.as_ref()).and_then(|(peer, secured)| {
            now.checked_add(client_time_to_begin(secured.credentials.svid(), peer))
        });
        Self { peer, retires, idle, idle_since: now }
    }

    #[cfg(test)]
    pub(super) fn until(retires: Option<Instant>) -> Self {
        Self { peer: None, retires, idle: Duration::MAX, idle_since: Instant::now() }
    }

    /// The same for another stream of the connection, which is used from `now` on.
    pub(super) fn used_at(&self, now: Instant) -> Self {
        Self { idle_since: now, ..self.clone() }
    }

    /// For how long it may still take new requests, unless that is for as long as anybody likes.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        self.retires.map(|retires| retires.saturating_duration_since(now))
    }

    /// Who has proven to be at the other end.
    pub(super) fn proven(&self) -> Option<Arc<Peer>> {
        self.peer.clone()
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> Option<SpiffeId> {
        self.peer.as_ref().map(|peer| peer.id().clone())
    }

    pub(super) fn has_retired(&self, now: Instant) -> bool {
        self.retires.is_some_and(|retires| now >= retires)
    }

    fn has_idled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.idle_since) >= self.idle
    }
}

impl Http1 {
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        !self.terms.has_retired(now) && !self.terms.has_idled(now) && self.connection.is_idle()
    }
}

impl Http2 {
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        !self.sender.is_closed() && !self.terms.has_retired(now)
    }

    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.streams.get() == 0 && self.terms.has_idled(now)
    }

    /// A stream beyond what the peer takes would wait inside the HTTP library, in a queue of its own.
    pub(super) fn has_room(&self, most: u32) -> bool {
        self.streams.get() < most.min(self.settings.streams())
    }
}

impl Settings {
    /// Of a connection that is yet to be driven.
    pub(super) fn new(connection: Http2Connection) -> Self {
        Self(Rc::new(RefCell::new(Some(connection))))
    }

    /// Runs the connection to its end.
    pub(super) async fn drive(self) -> hyper::Result<()> {
        let ended = poll_fn(|cx| match &mut *self.0.borrow_mut() {
            Some(connection) => Pin::new(connection).poll(cx),
            None => std::task::Poll::Ready(Ok(())),
        });
        let ended = ended.await;
        // Its sender then sees that it is closed.
        self.0.borrow_mut().take();
        ended
    }

    /// How many streams it takes at once; hyper's guess until it has said so.
    pub(super) fn streams(&self) -> u32 {
        let streams = self.0.borrow().as_ref().map_or(0, http2::Connection::current_max_send_streams);
        u32::try_from(streams).unwrap_or(u32::MAX)
    }

    /// Whether it takes WebSockets (RFC 8441 §3).
    pub(super) fn takes_extended_connect(&self) -> bool {
        self.0.borrow().as_ref().is_some_and(http2::Connection::is_extended_connect_protocol_enabled)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("streams", &self.streams()).finish_non_exhaustive()
    }
}

impl StreamSlot {
    pub(super) fn take(streams: &Rc<Cell<u32>>) -> Self {
        streams.set(streams.get().saturating_add(1));
        Self(Rc::clone(streams))
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
