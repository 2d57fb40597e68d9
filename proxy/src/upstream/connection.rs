//! One HTTP connection to an upstream: its sender, and the terms under which it takes new requests.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use hyper::client::conn::{http1, http2};
use sidegate_identity::SpiffeId;
use tokio::time::Instant;

use crate::{
    http::RequestBody,
    identity::{Peer, client_time_to_begin},
    snapshot::Snapshot,
};

/// Lent to one request at a time.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) terms: Terms,
}

/// Shared by many requests.
#[derive(Clone, Debug)]
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<RequestBody>,
    pub(super) streams: Rc<Cell<u32>>,
    pub(super) terms: Terms,
}

/// How long a connection may take new requests.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    peer: Option<Arc<Peer>>,
    retires: Option<Instant>,
    pub(super) idle_since: Instant,
}

/// One stream of a shared connection; counted until dropped.
#[derive(Debug)]
pub(super) struct StreamSlot(Rc<Cell<u32>>);

impl Terms {
    /// For a connection just made under `snapshot`.
    pub(super) fn new(peer: Option<Arc<Peer>>, snapshot: &Snapshot) -> Self {
        let now = Instant::now();
        let retires = peer.as_ref().zip(snapshot.secured.as_ref()).and_then(|(peer, secured)| {
            now.checked_add(client_time_to_begin(secured.credentials.svid(), peer))
        });
        Self { peer, retires, idle_since: now }
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> Option<SpiffeId> {
        self.peer.as_ref().map(|peer| peer.id().clone())
    }

    fn has_retired(&self, now: Instant) -> bool {
        self.retires.is_some_and(|retires| now >= retires)
    }
}

impl Http1 {
    pub(super) fn is_usable(&self, now: Instant, idle: Duration) -> bool {
        self.sender.is_ready()
            && !self.terms.has_retired(now)
            && now.duration_since(self.terms.idle_since) < idle
    }
}

impl Http2 {
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        !self.sender.is_closed() && !self.terms.has_retired(now)
    }

    pub(super) fn is_idle(&self, now: Instant, idle: Duration) -> bool {
        self.streams.get() == 0 && now.duration_since(self.terms.idle_since) > idle
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
