//! What one sending may take: times, and places under the breakers of its service.

use std::time::Duration;

use sidegate_codes::Code;
use tokio::time::{Instant, timeout_at};

use crate::{
    balance::{ConnectionSlot, PendingSlot, Picked},
    error::Error,
};

/// What one sending may take, and where it is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds<'a> {
    /// Until when the head of the answer must be there.
    pub(crate) deadline: Instant,
    /// What dialling may take of that.
    pub(crate) connect: Duration,
    /// How long a connection made for it may idle.
    pub(crate) idle: Duration,
    /// No idle HTTP/1.1 connection is used: one that ended just now is rarely the only one.
    pub(crate) is_fresh: bool,
    /// The endpoint, with its breakers; the local application has none.
    pub(crate) picked: Option<&'a Picked>,
}

impl Bounds<'_> {
    /// The time until the head of the answer is bounded; the request's body counts towards it.
    pub(super) async fn in_time<T>(&self, sending: impl Future<Output = T>) -> Result<T, Error> {
        timeout_at(self.deadline, sending).await.map_err(|_| Error::Upstream {
            code: Code::UpstreamTimeout,
            detail: "no answer in time".to_owned(),
        })
    }

    /// Until when a connection must be there.
    pub(in crate::upstream) fn connected_by(&self) -> Instant {
        Instant::now().checked_add(self.connect).map_or(self.deadline, |by| by.min(self.deadline))
    }

    pub(super) fn connection(&self) -> Result<Option<ConnectionSlot>, Error> {
        self.picked.map(Picked::connection).transpose()
    }

    pub(super) fn pending(&self) -> Result<Option<PendingSlot>, Error> {
        self.picked.map(Picked::pending).transpose()
    }
}
