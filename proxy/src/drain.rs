//! The orderly end, in two halves: [`Drain`] says when, [`DrainWatch`] hears it. First no new work is taken, then what
//! is in flight has until the deadline, then the rest is dropped.

use tokio_util::sync::CancellationToken;

/// The half that says when.
#[derive(Debug, Default)]
pub(crate) struct Drain(CancellationToken);

/// The half that hears it.
#[derive(Clone, Debug)]
pub(crate) struct DrainWatch(CancellationToken);

impl Drain {
    /// Another watch.
    pub(crate) fn watch(&self) -> DrainWatch {
        DrainWatch(self.0.clone())
    }

    /// From now on nothing new is taken.
    pub(crate) fn begin(&self) {
        self.0.cancel();
    }
}

impl DrainWatch {
    /// Ends when draining begins.
    pub(crate) async fn begun(&self) {
        self.0.cancelled().await;
    }

    /// Whether draining has begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.is_cancelled()
    }
}
