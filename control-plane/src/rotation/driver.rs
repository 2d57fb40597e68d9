//! Turns the wheel: every second it hears what operators ask, what sidecars acknowledged and what time it is, and lets the
//! authority take the steps that nobody is in the way of. A step that fails is tried again.

use std::{
    sync::Arc,
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
    clock,
    mesh::Mesh,
    proxies::{Entry, Proxies},
};

/// What the rotation is driven with.
pub(crate) struct Driver {
    authority: Arc<Authority>,
    proxies: Arc<Proxies>,
    mesh: watch::Receiver<Arc<Mesh>>,
    started: Instant,
}

impl Driver {
    pub(crate) fn new(
        authority: Arc<Authority>,
        proxies: Arc<Proxies>,
        mesh: watch::Receiver<Arc<Mesh>>,
    ) -> Self {
        Self { authority, proxies, mesh, started: Instant::now() }
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
        self.authority.turn(&seen, moment)
    }
}

fn seen(entry: Entry) -> Seen {
    Seen {
        connected: entry.is_connected(),
        serial: entry.certificate.serial,
        address: entry.address.to_string(),
        bundle: entry.bundle,
    }
}

const TICK: Duration = Duration::from_secs(1);
