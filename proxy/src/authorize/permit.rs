//! The proof that something was admitted. It owns what was judged, so nothing else can be forwarded under it.

use sidegate_identity::SpiffeId;

use crate::telemetry::Judgement;

/// `T` was judged and admitted. Made by `authorize` alone; given up to `upstream` alone.
#[derive(Debug)]
pub(crate) struct Permit<T> {
    subject: T,
    peer: Option<SpiffeId>,
    admission: Admission,
}

/// Under which policy and rule something was admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admission(Judgement);

impl<T> Permit<T> {
    /// Visible to `authorize` and nobody else: this line is promise 1.
    pub(super) fn new(subject: T, peer: Option<SpiffeId>, admission: Admission) -> Self {
        Self { subject, peer, admission }
    }

    /// Under which policy and rule.
    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// What was judged. It can be looked at, and changed no more.
    pub(crate) fn subject(&self) -> &T {
        &self.subject
    }

    /// What was judged, and who asked for it, if that is proven.
    pub(crate) fn redeem(self) -> (T, Option<SpiffeId>) {
        (self.subject, self.peer)
    }
}

impl Admission {
    pub(super) fn new(judgement: Judgement) -> Self {
        Self(judgement)
    }

    /// As it is recorded.
    pub(crate) fn judgement(&self) -> Judgement {
        self.0.clone()
    }
}
