//! One request in passing: its bytes are counted, its body has a pace, and it can be cut. Shared by its two bodies, its
//! record and whoever judges what is open; a cut wakes whichever of them waits.

use std::{
    cell::{Cell, OnceCell, RefCell},
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use sidegate_codes::Code;

use super::{expect::NotAsked, trickle::Trickle};
use crate::{authorize::Denial, config::Limits, error::Error, message::Broken, upstream::BrokenAnswer};

/// What is known of one request while it is open.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    received: Cell<u64>,
    is_asked_for: Cell<bool>,
    has_broken: Cell<bool>,
    cut: OnceCell<Cut>,
    /// `None`: its body may come as slowly as it likes. Borrowed for one poll at a time.
    trickle: RefCell<Option<Pin<Box<Trickle>>>>,
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

/// Why it was cut.
#[derive(Clone, Debug)]
enum Cut {
    Denied(Box<Denial>),
    TooSlow,
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenBody {
    /// Whoever sent it broke off. Transparent, so that hyper passes the reason of a reset on.
    #[error(transparent)]
    Broke(#[from] hyper::Error),
    /// The same over HTTP/1.
    #[error(transparent)]
    Broke1(#[from] Broken),
    /// The upstream did.
    #[error(transparent)]
    Answer(#[from] BrokenAnswer),
    /// The request that it belongs to was cut.
    #[error("cut by this sidecar")]
    Cut,
    /// Nobody wants it.
    #[error(transparent)]
    NotAsked(#[from] NotAsked),
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

    /// Somebody wants the request's body.
    pub(crate) fn ask(&self) {
        self.is_asked_for.set(true);
    }

    /// Whether anybody has wanted it.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.is_asked_for.get()
    }

    /// The downstream broke the request's body off.
    pub(crate) fn break_off(&self) {
        self.has_broken.set(true);
    }

    /// Whether it did.
    pub(crate) fn has_broken(&self) -> bool {
        self.has_broken.get()
    }

    /// Policy permits it no longer: ends both halves.
    pub(crate) fn cut(&self, denial: Denial) {
        self.end(Cut::Denied(Box::new(denial)));
    }

    /// Its body must come at the pace that `limits` want.
    pub(super) fn keeps_pace(&self, limits: &Limits) {
        self.trickle.replace(Some(Box::pin(Trickle::new(limits))));
    }

    /// For a while nobody asks for more of the body: there is no upstream to send it to.
    pub(crate) fn rests(&self) {
        if let Some(trickle) = &mut *self.trickle.borrow_mut() {
            trickle.as_mut().rested();
        }
    }

    /// More of the body was asked for, and so many bytes came, or none yet. A body that comes too slowly ends both halves.
    pub(super) fn asked(&self, came: Option<u64>, cx: &mut Context<'_>) -> Result<(), BrokenBody> {
        self.add_received(came.unwrap_or(0));
        let mut trickle = self.trickle.borrow_mut();
        let is_too_slow = match (trickle.as_mut(), came) {
            (None, _) => false,
            (Some(trickle), Some(bytes)) => {
                trickle.as_mut().came(bytes);
                false
            }
            (Some(trickle), None) => trickle.as_mut().is_too_slow(cx),
        };
        if is_too_slow {
            self.end(Cut::TooSlow);
            return Err(BrokenBody::Cut);
        }
        Ok(())
    }

    /// The first reason is the reason.
    fn end(&self, cut: Cut) {
        if self.cut.set(cut).is_ok() {
            for waiting in &self.waiting {
                if let Some(waker) = waiting.take() {
                    waker.wake();
                }
            }
        }
    }

    /// Why it was cut, if it was.
    pub(super) fn why_cut(&self) -> Option<Error> {
        self.cut.get().map(|cut| match cut {
            Cut::Denied(denial) => Error::Denied(denial.clone()),
            Cut::TooSlow => Error::expired(Code::BodyTooSlow, "limits.bodyTimeout"),
        })
    }

    /// Why it was cut, or else `half` is woken when it is.
    pub(crate) fn poll_cut(&self, half: Half, cx: &mut Context<'_>) -> Poll<Error> {
        if let Some(why) = self.why_cut() {
            return Poll::Ready(why);
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
