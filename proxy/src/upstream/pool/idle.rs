//! The idle HTTP/1.1 connections to one destination. Each of them knows its place, so that one whose answer is through is put
//! back without looking for where it came from.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use tokio::time::Instant;

use crate::upstream::connection::Http1;

/// Idle connections, those that have rested longest first.
#[derive(Debug)]
pub(in crate::upstream) struct Idle {
    kept: RefCell<Vec<Http1>>,
    /// Until it is pruned it may hold more than shall be kept: under load, what is idle is asked for in the next moment, and
    /// connecting anew costs as much as the request.
    most: usize,
    is_closed: Cell<bool>,
}

impl Idle {
    pub(super) fn new(most: usize) -> Rc<Self> {
        Rc::new(Self { kept: RefCell::default(), most, is_closed: Cell::new(false) })
    }

    /// The most recently used first: the others may rest until they are pruned.
    pub(super) fn take(&self, now: Instant) -> Option<Http1> {
        let mut kept = self.kept.borrow_mut();
        std::iter::from_fn(|| kept.pop()).find(|connection| connection.is_usable(now))
    }

    /// Keeps it for the next request, unless nobody wants it any more.
    pub(in crate::upstream) fn put(&self, connection: Http1) {
        let mut kept = self.kept.borrow_mut();
        if !self.is_closed.get() && kept.len() < self.most {
            kept.push(connection);
        }
    }

    /// Drops what may take no more requests, and of the others all but `most`.
    pub(super) fn prune(&self, now: Instant, most: usize) {
        let mut kept = self.kept.borrow_mut();
        kept.retain(|connection| connection.is_usable(now));
        let over = kept.len().saturating_sub(most);
        kept.drain(..over);
    }

    /// Nothing leads here any more: what is still lent is not taken back.
    pub(super) fn close(&self) {
        self.is_closed.set(true);
        self.kept.borrow_mut().clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.borrow().is_empty()
    }
}
