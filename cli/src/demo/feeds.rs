//! What the parts of the demo say while they run: JSON lines on stdout, each the whole state so far, the latest kept.

use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{ChildStdin, ChildStdout},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::{children::Pipes, parts::load::LoadReport};

/// The latest line of one process.
#[derive(Debug)]
pub(super) struct Feed<T> {
    latest: watch::Receiver<T>,
    /// Owns the task that reads; dropping it ends the task.
    _reader: JoinSet<()>,
}

impl<T: DeserializeOwned + Default + Clone + Send + Sync + 'static> Feed<T> {
    /// Reads lines until the process ends.
    pub(super) fn read(stdout: ChildStdout) -> Self {
        let (sender, latest) = watch::channel(T::default());
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(state) = serde_json::from_str(&line) {
                    sender.send_replace(state);
                }
            }
        });
        Self { latest, _reader: reader }
    }

    /// The state so far.
    pub(super) fn latest(&self) -> T {
        self.latest.borrow().clone()
    }

    /// The first state that is as wanted; `None` when there is none within `wait`.
    pub(super) async fn until(&self, wait: Duration, wanted: impl FnMut(&T) -> bool) -> Option<T> {
        let mut latest = self.latest.clone();
        let state = timeout(wait, latest.wait_for(wanted)).await.ok()?.ok()?;
        Some(state.clone())
    }
}

/// The load: its report, and the word to pause.
#[derive(Debug)]
pub(super) struct Load {
    feed: Feed<LoadReport>,
    stdin: ChildStdin,
}

impl Load {
    pub(super) fn new(pipes: Pipes) -> Self {
        Self { feed: Feed::read(pipes.stdout), stdin: pipes.stdin }
    }

    pub(super) fn report(&self) -> LoadReport {
        self.feed.latest()
    }

    /// Returns the report when at least `ok` requests in all were answered.
    pub(super) async fn until_ok(&self, ok: u64, wait: Duration) -> Option<LoadReport> {
        self.feed.until(wait, |report| report.ok >= ok).await
    }

    /// Stops sending; the report returned is complete: nothing is in flight any more.
    pub(super) async fn pause(&mut self) -> Option<LoadReport> {
        self.stdin.write_all(b"pause\n").await.ok()?;
        self.feed.until(PAUSE_TIMEOUT, |report| report.paused && report.in_flight == 0).await
    }

    /// Sends again.
    pub(super) async fn resume(&mut self) -> Option<LoadReport> {
        self.stdin.write_all(b"resume\n").await.ok()?;
        self.feed.until(PAUSE_TIMEOUT, |report| !report.paused).await
    }
}

/// Longer than the load waits for an answer.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(7);
