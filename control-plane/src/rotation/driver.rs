//! Turns the wheel: every second it hears what operators ask, what sidecars acknowledged and what time it is, and lets the
//! authority take the steps that nobody is in the way of. A step that fails is tried again. What people have to do something
//! about is told in the log, again each hour.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sidegate_codes::Code;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::machine::{self, Moment};
use crate::{
    ca::{Authority, Seen, StepError},
    clock, federation,
    mesh::Mesh,
    proxies::{Entry, Proxies},
};

/// What the rotation is driven with.
pub(crate) struct Driver {
    authority: Arc<Authority>,
    proxies: Arc<Proxies>,
    mesh: watch::Receiver<Arc<Mesh>>,
    started: Instant,
    /// When the log told last of the end of what signs, and of a rotation that is blocked: milliseconds since the Unix epoch.
    told_of_end: AtomicU64,
    told_of_blockers: AtomicU64,
}

impl Driver {
    pub(crate) fn new(
        authority: Arc<Authority>,
        proxies: Arc<Proxies>,
        mesh: watch::Receiver<Arc<Mesh>>,
    ) -> Self {
        let (told_of_end, told_of_blockers) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { authority, proxies, mesh, started: Instant::now(), told_of_end, told_of_blockers }
    }

    /// Turns until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let driver = Arc::new(self);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let turning = driver.clone();
            // It waits for the disk.
            match tokio::task::spawn_blocking(move || turning.turn()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(code = %Code::RotationStuck, %error, "the root's rotation does not go on");
                }
                Err(error) => return tracing::error!(%error, "the root's rotation ended"),
            }
        }
    }

    fn turn(&self) -> Result<(), StepError> {
        let config = self.mesh.borrow().config.clone();
        self.authority.answer_requests(config.root_life)?;
        self.authority.start_if_due(config.leaf_life, config.root_life)?;
        let seen: Vec<_> = self.proxies.list().into_iter().map(seen).collect();
        let moment = Moment {
            now_ms: clock::now_ms(),
            up: self.started.elapsed(),
            margin: machine::margin(config.leaf_life),
        };
        let lead = if config.bundle.is_some() { federation::lead(config.leaf_life) } else { Duration::ZERO };
        let turned = self.authority.turn(&seen, moment, lead);
        self.tell_of_the_end(config.leaf_life, moment.now_ms);
        self.tell_of_blockers(config.leaf_life, moment.now_ms);
        turned
    }

    /// Nobody but the owner of an offline root can do something about it; another root is replaced by itself.
    fn tell_of_the_end(&self, leaf_life: Duration, now_ms: u64) {
        let signing = self.authority.signing();
        let (begins, ends) = (signing.not_before().as_secs(), signing.not_after().as_secs());
        let left = Duration::from_secs(ends.saturating_sub(now_ms / 1000));
        let is_late = left < Duration::from_secs(ends.saturating_sub(begins)) / INTERMEDIATE_SHARE;
        if !signing.is_offline() || !is_late || !is_due(&self.told_of_end, now_ms) {
            return;
        }
        let (code, not_after) = (Code::IntermediateEnding, clock::rfc3339_of(signing.not_after()));
        if left < leaf_life {
            tracing::error!(%code, not_after, "the intermediate ends, and the life of certificates with it");
        } else {
            tracing::warn!(%code, not_after, "the intermediate is in the last third of its life");
        }
    }

    fn tell_of_blockers(&self, leaf_life: Duration, now_ms: u64) {
        let blocked = self.authority.blocked(leaf_life, now_ms);
        if blocked.overdue.is_zero() || !is_due(&self.told_of_blockers, now_ms) {
            return;
        }
        tracing::warn!(
            code = %Code::RotationBlocked,
            phase = blocked.phase,
            overdue_seconds = blocked.overdue.as_secs(),
            certificates = blocked.count,
            of = blocked.some.join(", "),
            "the root's rotation waits for longer than it should"
        );
    }
}

/// Whether it was not told within the hour; then it is told now.
fn is_due(told_ms: &AtomicU64, now_ms: u64) -> bool {
    let hour = u64::try_from(AGAIN.as_millis()).unwrap_or(u64::MAX);
    let is_due = now_ms.saturating_sub(told_ms.load(Ordering::Relaxed)) >= hour;
    if is_due {
        told_ms.store(now_ms, Ordering::Relaxed);
    }
    is_due
}

fn seen(entry: Entry) -> Seen {
    Seen {
        connected: entry.is_connected(),
        serial: entry.certificate.serial,
        address: entry.origin.to_string(),
        bundle: entry.bundle,
    }
}

const TICK: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_hours(1);
/// A third: what is renewed by hand needs time.
const INTERMEDIATE_SHARE: u32 = 3;
