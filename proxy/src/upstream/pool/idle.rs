//! The HTTP/1.1 connections to one destination that are idle, and the links to it, of which there may be any number of streams.
//! Each connection knows its place, so that one whose answer is through is put back without looking for where it came from.

use std::{
    cell::{Cell, RefCell},
    ops::Deref,
    rc::Rc,
};

use tokio::{sync::Mutex, time::Instant};

use crate::{
    message::Most,
    mux::Opener,
    upstream::{
        connection::{Http1, Terms},
        http1,
        stream::Stream,
    },
};

/// What leads to one destination.
#[derive(Debug)]
pub(in crate::upstream) struct Idle {
    /// Connections of their own, and streams of links; of each those that have rested longest first.
    kept: RefCell<Vec<Http1>>,
    streams: RefCell<Vec<Http1>>,
    links: RefCell<Vec<Link>>,
    /// Held while a link is dialled, so that a burst of requests shares one.
    pub(super) linking: Mutex<()>,
    /// As far as is known, the other side takes links.
    takes_links: Cell<bool>,
    /// How many are in use.
    lent: Cell<usize>,
    /// Until it is pruned it may hold more than shall be kept: under load, what is idle is asked for in the next moment, and
    /// connecting anew costs as much as the request.
    most: usize,
    is_closed: Cell<bool>,
}

/// Somebody uses a connection to the destination.
#[derive(Debug)]
pub(in crate::upstream) struct Lent(Rc<Idle>);

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

/// A link that streams are opened of.
#[derive(Debug)]
struct Link {
    opener: Opener,
    terms: Terms,
}

impl Idle {
    pub(super) fn new(most: usize, takes_links: bool) -> Rc<Self> {
        Rc::new(Self {
            kept: RefCell::default(),
            streams: RefCell::default(),
            links: RefCell::default(),
            linking: Mutex::default(),
            takes_links: Cell::new(takes_links),
            lent: Cell::new(0),
            most,
            is_closed: Cell::new(false),
        })
    }

    /// One more is in use.
    pub(super) fn lend(self: &Rc<Self>) -> Lent {
        self.lent.set(self.lent.get().saturating_add(1));
        Lent(Rc::clone(self))
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
        let mut links = self.links.borrow_mut();
        links.retain(|link| link.is_usable(now));
        links.iter().filter(|link| link.opener.count() < MOST_STREAMS).find_map(|link| link.open(most, now))
    }

    /// There is a link now. Its first stream, unless it has ended already.
    pub(super) fn link(&self, opener: Opener, terms: Terms, most: Most) -> Option<Http1> {
        let link = Link { opener, terms };
        let first = link.open(most, Instant::now());
        if !self.is_closed.get() {
            self.links.borrow_mut().push(link);
        }
        first
    }

    /// Whether a request should go over a link: many at once are cheaper over one connection, and few over their own.
    pub(super) fn is_busy(&self) -> bool {
        self.takes_links.get() && self.lent.get() > FEW
    }

    /// The other side takes no links.
    pub(super) fn takes_no_links(&self) {
        self.takes_links.set(false);
    }

    pub(super) fn takes_links(&self) -> bool {
        self.takes_links.get()
    }

    /// Keeps it for the next request, unless nobody wants it any more.
    pub(in crate::upstream) fn put(&self, connection: Http1) {
        let kept = if connection.is_of_link { &self.streams } else { &self.kept };
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
        self.links.borrow_mut().retain(|link| link.is_usable(now));
    }

    /// Nothing leads here any more: what is still lent is not taken back.
    pub(super) fn close(&self) {
        self.is_closed.set(true);
        self.kept.borrow_mut().clear();
        self.streams.borrow_mut().clear();
        self.links.borrow_mut().clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.borrow().is_empty() && self.streams.borrow().is_empty() && self.links.borrow().is_empty()
    }
}

impl Link {
    fn is_usable(&self, now: Instant) -> bool {
        self.opener.is_open() && !self.terms.has_retired(now)
    }

    fn open(&self, most: Most, now: Instant) -> Option<Http1> {
        let connection = http1::Connection::new(Stream::shared(self.opener.open()?), most);
        let mut terms = self.terms.clone();
        terms.idle_since = now;
        Some(Http1 { connection, terms, is_of_link: true })
    }
}

impl Drop for Link {
    /// It ends with the last of its streams.
    fn drop(&mut self) {
        self.opener.go_away();
    }
}

impl Deref for Lent {
    type Target = Idle;

    fn deref(&self) -> &Idle {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.lent.set(self.0.lent.get().saturating_sub(1));
    }
}

/// So many at once have a connection of their own each: a link costs two more wake-ups each way.
const FEW: usize = 4;
/// Of one link. More go over another, which may be another worker's at the other side.
const MOST_STREAMS: usize = 32;
