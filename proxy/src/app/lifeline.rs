//! Notices a part of the sidecar that ends while it should go on: a sidecar without its control side, or with a port
//! that nobody accepts from, would serve on blindly.

use std::fmt;

use tokio::sync::mpsc;

/// A part that the others count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// What follows the configuration and the control plane.
    Control,
    /// A worker's thread.
    Worker,
    /// What accepts connections for a worker.
    Listener,
    /// What judges a worker's open connections again, follows names and drops what is kept for nobody.
    Upkeep,
    /// What looks at the memory.
    Memory,
}

/// Tells the main thread of each part that ends, by a panic or otherwise.
#[derive(Clone, Debug)]
pub(super) struct Lifeline(mpsc::Sender<Part>);

/// Held by a part until it ends.
#[derive(Debug)]
pub(super) struct Held {
    part: Part,
    lifeline: Lifeline,
}

impl Lifeline {
    pub(super) fn new() -> (Self, mpsc::Receiver<Part>) {
        // The first part that ends is the fault; what ends after it follows from it.
        let (parts, lost) = mpsc::channel(1);
        (Self(parts), lost)
    }

    /// Tells of `part` when dropped.
    pub(super) fn end(&self, part: Part) -> Held {
        Held { part, lifeline: self.clone() }
    }

    /// Tells of `part` when `future` ends.
    pub(super) fn hold<F: Future<Output = ()>>(
        &self,
        part: Part,
        future: F,
    ) -> impl Future<Output = ()> + use<F> {
        let held = self.end(part);
        async move {
            future.await;
            drop(held);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Full: another part was first. Closed: ending is what is wanted by now.
        let _ = self.lifeline.0.try_send(self.part);
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "the control side",
            Self::Worker => "a worker",
            Self::Listener => "a worker's listener",
            Self::Upkeep => "a worker's upkeep",
            Self::Memory => "the watch over memory",
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_is_told_of() {
        let (lifeline, mut lost) = Lifeline::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(lifeline.hold(Part::Control, async { panic!("a fault") }));
        assert_eq!(lost.recv().await, Some(Part::Control));
        assert!(tasks.join_next().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_part_that_goes_on_is_not_told_of() {
        let (lifeline, mut lost) = Lifeline::new();
        let _going_on = lifeline.end(Part::Worker);
        assert!(lost.try_recv().is_err());
    }
}
