//! One request in passing: its bytes are counted, and it can be cut from elsewhere. Shared by its two bodies, its record
//! and whoever judges what is open; a cut wakes whichever of them waits.

use std::{
    cell::{Cell, OnceCell, RefCell},
    future::poll_fn,
    task::{Context, Poll, Waker},
};

use crate::{authorize::Denial, error::Error};

/// What is known of one request while it is open.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    received: Cell<u64>,
    cut: OnceCell<Box<Denial>>,
    waiting: [RefCell<Option<Waker>>; 2],
}

/// Which half of a request waits: the tasks of two connections poll them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    /// Its body, on the way to the upstream.
    Request,
    /// Its answer, or the wait for it.
    Answer,
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenBody {
    /// Whoever sent it broke off. Transparent, so that hyper passes the reason of a reset on.
    #[error(transparent)]
    Broke(#[from] hyper::Error),
    /// Policy no longer permits what it belongs to.
    #[error("cut by policy")]
    Cut,
}

impl Flow {
    /// Bytes of the request's body so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    /// More bytes of the request's body have come.
    pub(crate) fn add_received(&self, bytes: u64) {
        self.received.set(self.received.get().saturating_add(bytes));
    }

    /// Ends both halves. The first reason is the reason.
    pub(crate) fn cut(&self, denial: Denial) {
        if self.cut.set(Box::new(denial)).is_ok() {
            for waiting in &self.waiting {
                if let Some(waker) = waiting.take() {
                    waker.wake();
                }
            }
        }
    }

    /// Why it was cut, or else `half` is woken when it is.
    pub(crate) fn poll_cut(&self, half: Half, cx: &mut Context<'_>) -> Poll<Error> {
        if let Some(denial) = self.cut.get() {
            return Poll::Ready(Error::Denied(denial.clone()));
        }
        let mut waiting = self.waiting[half as usize].borrow_mut();
        match &mut *waiting {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waiting = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Ends when it is cut.
    pub(crate) async fn until_cut(&self) -> Error {
        poll_fn(|cx| self.poll_cut(Half::Answer, cx)).await
    }
}
