//! The idle HTTP/1.1 connections to one destination, and the links to it. Each connection knows its place, so that one whose answer
//! is through is put back without looking for where it came from.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use tokio::time::Instant;

use super::links::{Links, Until};
use crate::{
    message::Most,
    upstream::{connection::Http1, http1},
};

/// Idle connections and streams of links, of each those that have rested longest first.
#[derive(Debug)]
pub(in crate::upstream) struct Idle {
    kept: RefCell<Vec<Http1>>,
    streams: RefCell<Vec<Http1>>,
    pub(super) links: Rc<Links>,
    /// Until it is pruned it may hold more than shall be kept: under load, what is idle is asked for in the next moment, and
    /// connecting anew costs as much as the request.
    most: usize,
    is_closed: Cell<bool>,
}

/// What a request may go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// A connection that nobody else uses.
    Own,
    /// Preferably such a one.
    Either,
    /// Preferably a stream of a link.
    Link,
}

impl Idle {
    pub(super) fn new(most: usize, takes_links: bool) -> Rc<Self> {
        Rc::new(Self {
            kept: RefCell::default(),
            streams: RefCell::default(),
            links: Links::new(takes_links),
            most,
            is_closed: Cell::new(false),
        })
    }

    /// The most recently used first: the others may rest until they are pruned.
    pub(super) fn take(&self, over: Over, most: Most, now: Instant) -> Option<Http1> {
        let of = |kept: &RefCell<Vec<Http1>>| {
            let mut kept = kept.borrow_mut();
            std::iter::from_fn(|| kept.pop()).find(|connection| connection.is_usable(now))
        };
        match over {
            Over::Own => of(&self.kept),
            Over::Either => of(&self.kept).or_else(|| of(&self.streams)),
            Over::Link => of(&self.streams).or_else(|| self.open(most, now)).or_else(|| of(&self.kept)),
        }
    }

    /// A new stream of a link that has room for it.
    pub(super) fn open(&self, most: Most, now: Instant) -> Option<Http1> {
        let (stream, terms) = self.links.open(Until::Retired, now)?;
        Some(Http1 { connection: http1::Connection::new(stream, most), terms })
    }

    /// Keeps it for the next request, unless nobody wants it any more.
    pub(in crate::upstream) fn put(&self, connection: Http1) {
        let kept = if connection.connection.is_shared() { &self.streams } else { &self.kept };
        let mut kept = kept.borrow_mut();
        if !self.is_closed.get() && kept.len() < self.most {
            kept.push(connection);
        }
    }

    /// Drops what may take no more requests, and of the others all but `most`.
    pub(super) fn prune(&self, now: Instant, most: usize) {
        for kept in [&self.kept, &self.streams] {
            let mut kept = kept.borrow_mut();
            kept.retain(|connection| connection.is_usable(now));
            let over = kept.len().saturating_sub(most);
            kept.drain(..over);
        }
        self.links.prune(now);
    }

    /// Nothing leads here any more: what is still lent is not taken back.
    pub(super) fn close(&self) {
        self.is_closed.set(true);
        self.kept.borrow_mut().clear();
        self.streams.borrow_mut().clear();
        self.links.close();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.borrow().is_empty() && self.streams.borrow().is_empty() && self.links.is_empty()
    }
}
