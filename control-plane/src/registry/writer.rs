//! The one thread that writes. Whatever waits while the disk syncs goes into the next transaction together, so that a storm
//! of renewals costs a few syncs and not one each. Between transactions it seals and prunes.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use sidegate_codes::Code;
use tokio_util::sync::CancellationToken;

use super::{
    Event, RecordError,
    chain::{Chain, Kind},
    seal::Seal,
    store::{Store, StoreError},
};
use crate::{clock, hex};

/// The handle; dropping it ends the thread after what it has taken.
pub(super) struct Writer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    taken_over: CancellationToken,
    held: Held,
}

/// Until when the registry is this writer's without another word of the database; `None`: for good.
#[derive(Clone)]
struct Held(
    /// Held for a few instructions.
    Arc<Mutex<Option<Instant>>>,
);

struct Job {
    event: Event,
    /// Holds the one answer.
    answer: SyncSender<Result<(), RecordError>>,
}

/// What the thread owns.
struct Desk {
    store: Box<dyn Store>,
    seal: Seal,
    chain: Chain,
    retention: Duration,
    taken_over: CancellationToken,
    held: Held,
}

impl Writer {
    pub(super) fn start(
        store: Box<dyn Store>,
        seal: Seal,
        chain: Chain,
        retention: Duration,
    ) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::sync_channel(QUEUE);
        let taken_over = CancellationToken::new();
        // Since when it was not written to is not known, so the first word of the database has to come.
        let held = Held(Arc::new(Mutex::new(store.lease().map(|_| Instant::now()))));
        let desk = Desk { store, seal, chain, retention, taken_over: taken_over.clone(), held: held.clone() };
        let thread = thread::Builder::new().name("registry".to_owned()).spawn(move || desk.work(&waiting))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), taken_over, held })
    }

    /// Cancelled when the registry is somebody else's.
    pub(super) fn taken_over(&self) -> CancellationToken {
        self.taken_over.clone()
    }

    /// Whether the registry is this writer's, as far as can be known without asking.
    pub(super) fn is_held(&self) -> bool {
        !self.taken_over.is_cancelled() && self.held.holds(Instant::now())
    }

    /// Returns when the record is on disk.
    pub(super) fn record(&self, event: Event) -> Result<(), RecordError> {
        let (answer, answered) = mpsc::sync_channel(1);
        let ended = || RecordError::new("the registry's writer has ended");
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(Job { event, answer }).map_err(|_| ended())?;
        answered.recv().map_err(|_| ended())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the registry's writer panicked");
        }
    }
}

impl Held {
    fn holds(&self, now: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|until| now < until)
    }

    /// What began then was done under the lease, and renewed it.
    fn renew(&self, begun: Instant, lease: Option<Duration>) {
        let mut until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *until = lease.map(|lease| begun + lease);
    }
}

impl Desk {
    fn work(mut self, waiting: &Receiver<Job>) {
        let mut tidied = Instant::now();
        self.tidy();
        loop {
            match waiting.recv_timeout(self.beat()) {
                Ok(first) => {
                    let more = waiting.try_iter().take(MAX_BATCH - 1);
                    self.take(std::iter::once(first).chain(more).collect());
                }
                Err(RecvTimeoutError::Timeout) => self.keep(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if tidied.elapsed() >= TIDY || self.chain.unsealed() >= MAX_UNSEALED {
                tidied = Instant::now();
                self.tidy();
            }
        }
        self.seal();
        self.store.release();
    }

    /// Two may be lost before the lease is.
    fn beat(&self) -> Duration {
        self.store.lease().map_or(TIDY, |lease| lease / 3)
    }

    /// A database that does not answer is told and asked again; whoever records meanwhile is refused by itself.
    fn keep(&mut self) {
        let begun = Instant::now();
        match self.store.keep() {
            Ok(()) => self.held.renew(begun, self.store.lease()),
            Err(StoreError::TakenOver) => self.taken_over.cancel(),
            Err(error) => {
                tracing::error!(code = %Code::RegistryUnreachable, %error, "the registry does not answer");
            }
        }
    }

    /// All of it or nothing: the disk says no to all of them alike.
    fn take(&mut self, jobs: Vec<Job>) {
        let result = self.append(&jobs);
        for job in jobs {
            // Whoever does not wait any more issues nothing either; the record of it does no harm.
            let _ = job.answer.send(result.clone());
        }
    }

    fn append(&mut self, jobs: &[Job]) -> Result<(), RecordError> {
        self.catch_up()?;
        let mut chain = self.chain;
        let mut rows = Vec::with_capacity(jobs.len());
        for job in jobs {
            let body = serde_json::to_string(&job.event).map_err(RecordError::new)?;
            let row = chain.next(clock::now_ms(), &job.event, body);
            chain.advance(&row);
            rows.push(row);
        }
        let begun = Instant::now();
        let appended = self.store.append(self.chain.tail(), &rows);
        self.told(appended)?;
        self.held.renew(begun, self.store.lease());
        self.chain = chain;
        Ok(())
    }

    /// Records whose commit was never confirmed are a part of the chain if they are there. Nothing was signed for them.
    fn catch_up(&mut self) -> Result<(), RecordError> {
        let rows = self.store.unnoticed(self.chain.last());
        for row in self.told(rows)? {
            self.chain.follow(&row).map_err(RecordError::new)?;
        }
        Ok(())
    }

    fn told<T>(&self, done: Result<T, StoreError>) -> Result<T, RecordError> {
        if matches!(done, Err(StoreError::TakenOver)) {
            self.taken_over.cancel();
        }
        Ok(done?)
    }

    /// A failure is told and tried again: nothing that was recorded is lost by it.
    fn tidy(&mut self) {
        self.seal();
        if let Err(error) = self.prune() {
            tracing::warn!(%error, "old records could not be removed from the registry");
        }
    }

    /// The log is the copy that whoever rewrites the state folder does not reach.
    fn seal(&mut self) {
        if self.chain.unsealed() == 0 {
            return;
        }
        let checkpoint = self.seal.checkpoint(self.chain.last(), self.chain.head(), Kind::Kept);
        match self.store.seal(&checkpoint) {
            Ok(()) => {
                self.chain.seal();
                tracing::info!(
                    record = checkpoint.sequence,
                    hash = hex::encode(&checkpoint.hash),
                    signature = hex::encode(&checkpoint.signature),
                    "registry checkpoint"
                );
            }
            Err(error) => tracing::warn!(%error, "the registry could not be sealed"),
        }
    }

    fn prune(&mut self) -> Result<(), StoreError> {
        let cutoff = (clock::now_ms() / 1000).saturating_sub(self.retention.as_secs());
        let Some((sequence, hash)) = self.store.ended_before(cutoff)? else { return Ok(()) };
        self.store.prune(&self.seal.checkpoint(sequence, hash, Kind::Pruned))?;
        tracing::info!(up_to = sequence, "records whose retention is over were removed from the registry");
        Ok(())
    }
}

/// Callers beyond this wait on their own threads.
const QUEUE: usize = 256;
/// Records in one transaction: about 100 KiB.
const MAX_BATCH: usize = 256;
/// How often it seals and prunes at least.
const TIDY: Duration = Duration::from_hours(1);
/// Sealing comes earlier when so many records wait for it.
const MAX_UNSEALED: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_held_for_the_lease_from_the_last_word_on_and_without_a_lease_for_good() {
        let begun = Instant::now();
        let held = Held(Arc::new(Mutex::new(Some(begun))));
        assert!(!held.holds(begun), "nothing was heard yet");
        held.renew(begun, Some(Duration::from_secs(10)));
        assert!(held.holds(begun + Duration::from_secs(9)));
        assert!(!held.holds(begun + Duration::from_secs(10)), "another may have it");
        held.renew(begun, None);
        assert!(held.holds(begun + Duration::from_hours(10)));
    }
}
