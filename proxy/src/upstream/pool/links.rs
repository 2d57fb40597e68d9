//! The links to one destination, each of which many share as streams. Few at once have a connection of their own each, since a link
//! costs two more wake-ups each way; more share one, since what they say in one turn is one write. A link serves only whom a
//! connection of its own would serve: the destinations are equal.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};

use crate::{
    mux::Opener,
    upstream::{connection::Terms, stream::Stream},
};

/// What leads to one destination beside connections of their own.
#[derive(Debug)]
pub(super) struct Links {
    kept: RefCell<Vec<Link>>,
    /// Held while one is dialled, so that a burst shares it.
    pub(super) linking: Mutex<()>,
    /// As far as is known, the other side takes links.
    are_taken: Cell<bool>,
    /// How many connections and streams to it are in use.
    lent: Cell<usize>,
}

/// Somebody uses a connection or a stream to the destination.
#[derive(Debug)]
pub(in crate::upstream) struct Lent(Rc<Links>);

/// How long a link takes streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Either certificate is about to end: for streams that serve request after request, and end between two of them.
    Retired,
    /// While it is young: for streams that are cut when a certificate ends.
    Old,
}

#[derive(Debug)]
struct Link {
    opener: Opener,
    terms: Terms,
    old: Instant,
}

impl Links {
    pub(super) fn new(are_taken: bool) -> Rc<Self> {
        Rc::new(Self {
            kept: RefCell::default(),
            linking: Mutex::default(),
            are_taken: Cell::new(are_taken),
            lent: Cell::default(),
        })
    }

    /// One more is in use.
    pub(super) fn lend(self: &Rc<Self>) -> Lent {
        self.lent.set(self.lent.get().saturating_add(1));
        Lent(Rc::clone(self))
    }

    /// Whether whoever comes next should have a stream of a link.
    pub(super) fn are_better(&self) -> bool {
        self.are_taken.get() && self.lent.get() > FEW
    }

    pub(super) fn are_taken(&self) -> bool {
        self.are_taken.get()
    }

    /// The other side takes none.
    pub(super) fn refused(&self) {
        self.are_taken.set(false);
    }

    /// A new stream of a link that has room for it.
    pub(super) fn open(&self, until: Until, now: Instant) -> Option<(Stream, Terms)> {
        self.prune(now);
        self.kept.borrow().iter().find_map(|link| link.open(until, now))
    }

    /// There is another.
    pub(super) fn add(&self, opener: Opener, terms: Terms) {
        let now = Instant::now();
        let left = terms.left(now).map_or(MOST_YOUTH, |left| left / YOUTH);
        let old = now + left.min(MOST_YOUTH);
        self.kept.borrow_mut().push(Link { opener, terms, old });
    }

    /// Drops those that open no more streams.
    pub(super) fn prune(&self, now: Instant) {
        self.kept.borrow_mut().retain(|link| link.is_usable(now));
    }

    /// Nothing leads here any more.
    pub(super) fn close(&self) {
        self.are_taken.set(false);
        self.kept.borrow_mut().clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.borrow().is_empty() && self.lent.get() == 0
    }
}

impl Link {
    fn is_usable(&self, now: Instant) -> bool {
        self.opener.is_open() && !self.terms.has_retired(now)
    }

    fn open(&self, until: Until, now: Instant) -> Option<(Stream, Terms)> {
        if until == Until::Old && now >= self.old || self.opener.count() >= MOST_STREAMS {
            return None;
        }
        Some((Stream::shared(self.opener.open()?), self.terms.used_at(now)))
    }
}

impl Drop for Link {
    /// It ends with the last of its streams.
    fn drop(&mut self) {
        self.opener.go_away();
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.lent.set(self.0.lent.get().saturating_sub(1));
    }
}

/// So many at once have connections of their own.
const FEW: usize = 4;
/// Of one link. More go over another, which may be another worker's at the other side.
const MOST_STREAMS: usize = 32;
/// Of what its certificates have left as it begins, a link is young for this part.
const YOUTH: u32 = 4;
const MOST_YOUTH: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests;
