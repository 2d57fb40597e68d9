//! Certificates rotate under load, each with a fresh serial, and no request fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, interval, sleep_until, timeout},
};

use super::{Performers, Stage, Trial};
use crate::{
    api::{self, client::Client},
    short,
};

/// The serials seen of each sidecar, collected in the background.
pub(super) struct Serials {
    seen: watch::Receiver<BTreeMap<String, BTreeSet<String>>>,
    /// Owns the task that collects; dropping it ends the task.
    _collector: JoinSet<()>,
}

impl Serials {
    /// Asks the control plane for the sidecars' certificates from now on.
    pub(super) fn watch(api: Client) -> Self {
        let (sender, seen) = watch::channel(BTreeMap::new());
        let mut collector = JoinSet::new();
        collector.spawn(async move {
            let mut ticks = interval(EVERY);
            loop {
                ticks.tick().await;
                // While the control plane is down there is nothing to learn.
                if let Ok(proxies) = api.get::<api::Proxies>("/v1/proxies").await {
                    sender.send_modify(|seen| add(seen, &proxies));
                }
            }
        });
        Self { seen, _collector: collector }
    }
}

/// Waits until the load has run its time and every sidecar has had two certificates under it.
pub(super) async fn rotation(
    stage: &Stage,
    performers: &Performers,
    mut serials: Serials,
    end_of_load: Instant,
) -> Trial {
    let mut trial =
        Trial::new("certificate-rotation", "2 or more serials for every sidecar, no failed request");
    sleep_until(end_of_load).await;
    let sidecars = stage.cast.workloads.len();
    let rotated = |seen: &BTreeMap<String, BTreeSet<String>>| {
        seen.len() == sidecars && seen.values().all(|serials| serials.len() >= 2)
    };
    let in_time = timeout(GRACE, serials.seen.wait_for(rotated)).await.is_ok_and(|seen| seen.is_ok());
    for (identity, serials) in serials.seen.borrow().iter() {
        trial.measure(&short::identity(Some(identity)), serials.len());
    }
    let report = performers.load.report();
    trial.measure("requests", report.ok);
    trial.measure("failed", report.failed);
    trial.require(in_time, "not every sidecar had two certificates");
    trial.require(report.failed == 0, format!("{} requests failed meanwhile", report.failed));
    trial
}

fn add(seen: &mut BTreeMap<String, BTreeSet<String>>, proxies: &api::Proxies) {
    for proxy in &proxies.proxies {
        if let Some(certificate) = &proxy.certificate {
            seen.entry(proxy.identity.clone()).or_default().insert(certificate.serial.clone());
        }
    }
}

const EVERY: Duration = Duration::from_millis(500);
/// A renewal comes after half a life; with the shortest load the second may be just ahead.
const GRACE: Duration = Duration::from_secs(8);
