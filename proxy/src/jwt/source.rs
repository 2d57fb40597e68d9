//! The keys of one issuer as they are known: looked at again and again, and once more when a token names a key that is not
//! among them, though not more often than a stranger's tokens may cause. What was good is used while no new keys can be had, up
//! to `maxStale`; then there are none, and nothing is verified.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::Instant,
};

use super::{
    fetch::{DEADLINE, fetch},
    keys::KeySet,
};
use crate::{
    config::{KeysFrom, Origin},
    snapshot::Reader,
    telemetry::Metrics,
};

/// The keys of one issuer, and how to have them looked at.
#[derive(Debug)]
pub(crate) struct KeySource {
    from: KeysFrom,
    /// Held for a few instructions.
    state: Mutex<State>,
    /// A look is wanted at once.
    wanted: Notify,
    /// Counts looks that have ended.
    looked: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    keys: Option<(Arc<KeySet>, Instant)>,
    is_looking: bool,
    /// From when on a token may have the keys looked at.
    next: Option<Instant>,
}

impl KeySource {
    pub(super) fn new(from: &KeysFrom) -> Self {
        let state = State { keys: None, is_looking: true, next: None };
        Self {
            from: from.clone(),
            state: Mutex::new(state),
            wanted: Notify::new(),
            looked: watch::Sender::new(0),
        }
    }

    pub(super) fn is_from(&self, from: &KeysFrom) -> bool {
        self.from == *from
    }

    /// Those in force; `None` if they were never had, or not for too long.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        let state = self.state();
        let (keys, seen) = state.keys.as_ref()?;
        (seen.elapsed() < self.from.max_stale).then(|| Arc::clone(keys))
    }

    /// Those in force after a look, if one may be caused now or is on its way; else those that there are.
    pub(super) async fn newer_keys(&self) -> Option<Arc<KeySet>> {
        let mut looked = self.looked.subscribe();
        if self.want() {
            // Longer than a look takes: whoever waits is not left behind by it.
            let _ = tokio::time::timeout(DEADLINE + Duration::from_secs(1), looked.changed()).await;
        }
        self.keys()
    }

    /// Whether a look is on its way.
    fn want(&self) -> bool {
        let mut state = self.state();
        if state.is_looking {
            return true;
        }
        let now = Instant::now();
        if state.next.is_some_and(|next| now < next) {
            return false;
        }
        state.next = Some(now + BETWEEN_WANTED);
        state.is_looking = true;
        self.wanted.notify_one();
        true
    }

    /// Looks again and again, for as long as it is polled.
    pub(super) async fn feed(self: Arc<Self>, metrics: Arc<Metrics>) -> Infallible {
        let mut last_error = None;
        loop {
            self.state().is_looking = true;
            let pause = match fetch(&self.from.origin).await {
                Ok(keys) => {
                    if last_error.take().is_some() {
                        tracing::info!("the keys of an issuer of tokens are had again");
                    }
                    self.looked_at(Some(keys));
                    match self.from.origin {
                        Origin::File(_) => FILE,
                        Origin::Url(_) => self.from.refresh,
                    }
                }
                Err(error) => {
                    self.looked_at(None);
                    metrics.token_keys_failed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let message = error.to_string();
                    // Said once, not at each look.
                    if last_error.as_ref() != Some(&message) {
                        let code = sidegate_codes::Code::TokenKeysUnknown;
                        tracing::error!(%code, error = %message, "the keys of an issuer of tokens cannot be had");
                        last_error = Some(message);
                    }
                    AFTER_ERROR.min(self.from.refresh)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    fn looked_at(&self, keys: Option<KeySet>) {
        let mut state = self.state();
        state.is_looking = false;
        if let Some(keys) = keys {
            // What was verified with the same keys stays verified.
            let same = state.keys.take().map(|(known, _)| known).filter(|known| **known == keys);
            state.keys = Some((same.unwrap_or_else(|| Arc::new(keys)), Instant::now()));
        }
        drop(state);
        self.looked.send_modify(|count| *count += 1);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Feeds the sources of the snapshot in force, for as long as it is polled.
pub(crate) async fn follow(mut changes: Reader, metrics: Arc<Metrics>) -> Infallible {
    let mut fed: Vec<(Arc<KeySource>, tokio::task::AbortHandle)> = Vec::new();
    let mut feeders = JoinSet::new();
    loop {
        let issuers = Arc::clone(&changes.load().issuers);
        let is_wanted = |source: &Arc<KeySource>| issuers.sources().iter().any(|it| Arc::ptr_eq(it, source));
        fed.retain(|(source, feeder)| {
            let is_wanted = is_wanted(source);
            if !is_wanted {
                feeder.abort();
            }
            is_wanted
        });
        for source in issuers.sources() {
            if !fed.iter().any(|(it, _)| Arc::ptr_eq(it, source)) {
                let feeder = feeders.spawn(Arc::clone(source).feed(Arc::clone(&metrics)));
                fed.push((Arc::clone(source), feeder));
            }
        }
        changes.changed().await;
        while feeders.try_join_next().is_some() {}
    }
}

/// Between two looks that tokens cause.
const BETWEEN_WANTED: Duration = Duration::from_secs(30);
const AFTER_ERROR: Duration = Duration::from_secs(10);
const FILE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
