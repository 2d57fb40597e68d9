//! Every permitted request is answered 200 by the application, over the whole of the demo.

use super::{Performers, Stage, Trial};
use crate::demo::{
    cast::{CUSTOMER, ORDERS, PAYMENTS, WEB},
    evidence::{self, Log},
    parts::service::{counter_key, work},
    stage::sidecar,
};

/// Stops the load and counts. The applications' own counters must agree: an answer that a sidecar made up is none.
pub(super) async fn all(stage: &mut Stage, performers: &mut Performers) -> Trial {
    let mut trial = Trial::new(
        "permitted-requests",
        "every permitted request is answered 200, by the application, from the first to the last",
    );
    let Some(report) = performers.load.pause().await else {
        trial.require(false, "the load does not answer any more");
        return trial;
    };
    trial.measure("answered200", report.ok);
    trial.measure("failed", report.failed);
    trial.measure("connectionsOpened", report.opened);
    trial.measure("p50Ms", rounded(report.p50_ms));
    trial.measure("p99Ms", rounded(report.p99_ms));
    trial.require(report.ok > 0, "no request was answered at all");
    if report.failed > 0 {
        let (failed, kinds) = (report.failed, report.kinds_of_failure());
        trial.require(false, format!("{failed} requests failed: {kinds}"));
        trial.require(false, format!("the sidecars say: {}", causes(stage)));
    }
    charged(&mut trial, stage, report.ok).await;

    let ended = stage.children.ended();
    trial.require(ended.is_none(), format!("a process ended by itself: {ended:?}"));
    trial
}

/// The last in the chain saw at least what the customers were answered.
async fn charged(trial: &mut Trial, stage: &Stage, answered: u64) {
    let (method, path) = work(PAYMENTS);
    let counters = evidence::counters(stage.cast.served(PAYMENTS).counter).await.unwrap_or_default();
    let charged = counters.get(&counter_key(&method, path, ORDERS)).copied().unwrap_or_default();
    trial.measure("chargedByTheApplication", charged);
    trial.require(charged >= answered, format!("payments saw {charged} of {answered} requests only"));
}

/// The logs go with the folder, so what they say of a failure is told here.
fn causes(stage: &Stage) -> String {
    let told = |name: &&str| {
        let errors = Log::from_start(&stage.folder.logs(), &sidecar(name)).server_errors();
        let some: Vec<String> = errors.into_iter().take(CAUSES).collect();
        format!("{name}: [{}]", some.join("; "))
    };
    [CUSTOMER, WEB, ORDERS, PAYMENTS].iter().map(told).collect::<Vec<_>>().join(", ")
}

/// Kinds of errors quoted from each sidecar.
const CAUSES: usize = 4;

fn rounded(ms: f64) -> f64 {
    (ms * 100.0).round() / 100.0
}
