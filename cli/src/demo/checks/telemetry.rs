//! What the sidecars tell agrees with what happened: requests that customers were answered are counted as allowed,
//! in the metrics and in the control plane's edges, under the policy and rule that allowed them, and the intruder
//! shows as denied.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Performers, Stage, Trial};
use crate::{
    api,
    demo::{
        cast::{CUSTOMER, INTRUDER, NAMESPACE, ORDERS, PAYMENTS, WEB, identity},
        evidence::Metrics,
    },
};

/// A call that policies permit, and who permits it.
struct Call {
    source: &'static str,
    destination: &'static str,
    policy: &'static str,
    rule: &'static str,
}

/// The chain.
const CALLS: [Call; 3] = [
    Call { source: CUSTOMER, destination: WEB, policy: "shop/web-callers", rule: "customers-buy" },
    Call { source: WEB, destination: ORDERS, policy: "shop/orders-callers", rule: "web-orders" },
    Call { source: ORDERS, destination: PAYMENTS, policy: "shop/payments-callers", rule: "orders-charge" },
];

/// Compares the customers' own count with the sidecars' and the control plane's. Made before anything is restarted,
/// because counters begin anew then.
pub(super) async fn agrees(stage: &Stage, performers: &Performers) -> Trial {
    let mut trial = Trial::new(
        "telemetry-agrees",
        "each answered request is counted as allowed, in metrics and edges, under its policy and rule; the intruder as denied",
    );
    let answered = performers.load.report().ok;
    trial.measure("answered200", answered);
    for call in &CALLS {
        counted_as_allowed(&mut trial, stage, call, answered).await;
    }
    for call in &CALLS {
        shown_as_allowed(&mut trial, stage, call).await;
    }
    intruder_shown_as_denied(&mut trial, stage).await;
    trial
}

async fn counted_as_allowed(trial: &mut Trial, stage: &Stage, call: &Call, answered: u64) {
    let metrics = Metrics::of(stage.cast.workload(call.destination).admin).await;
    let (source, destination) = (call.source, call.destination);
    let label = format!("{NAMESPACE}/{source}");
    let count = |verdict| {
        let labels =
            [("direction", "inbound"), ("src", &*label), ("code_class", "2xx"), ("verdict", verdict)];
        metrics.sum("sidegate_requests_total", &labels)
    };
    let (allowed, failed) = (count("allowed"), count("failed"));
    trial.measure(&format!("{destination}Allowed"), allowed);
    trial.measure(&format!("{destination}AnsweredButFailed"), failed);
    #[expect(clippy::cast_precision_loss, reason = "a demo does not make 2^53 requests")]
    let enough = allowed >= answered as f64;
    trial.require(enough, format!("{source} to {destination}: {allowed} of {answered} counted as allowed"));
    trial.require(
        failed == 0.0,
        format!("{source} to {destination}: {failed} answered 2xx but counted as failed"),
    );
}

async fn shown_as_allowed(trial: &mut Trial, stage: &Stage, call: &Call) {
    let Call { source, destination, policy, rule } = call;
    let edge = find(stage, |edge| call.is_shown_by(edge)).await;
    trial.measure(&format!("{destination}EdgeRps"), edge.as_ref().map(|edge| edge.rps.round()));
    trial.require(
        edge.is_some(),
        format!("no edge shows {source} to {destination} as mutual TLS, allowed by {policy}, {rule}"),
    );
}

async fn intruder_shown_as_denied(trial: &mut Trial, stage: &Stage) {
    let (source, destination) = (identity(INTRUDER), identity(PAYMENTS));
    let edge = find(stage, |edge| {
        edge.direction == "inbound"
            && edge.verdict == "denied"
            && edge.code.as_deref() == Some("SG0202")
            && edge.source.as_deref() == Some(&*source)
            && edge.destination.as_deref() == Some(&*destination)
    });
    let shown = edge.await.is_some();
    trial.measure("intruderEdge", shown);
    trial.require(shown, "no edge shows the intruder as denied");
}

/// The first edge that is as wanted. Reports come each second, so it may be a moment late.
async fn find(stage: &Stage, wanted: impl Fn(&api::Edge) -> bool) -> Option<api::Edge> {
    let deadline = Instant::now() + REPORT_TIMEOUT;
    loop {
        let edges = stage.api.get::<api::Edges>("/v1/edges").await.unwrap_or_default();
        let found = edges.edges.into_iter().find(&wanted);
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        sleep(POLL).await;
    }
}

impl Call {
    fn is_shown_by(&self, edge: &api::Edge) -> bool {
        edge.direction == "inbound"
            && edge.tls == "mutual"
            && edge.verdict == "allowed"
            && edge.source.as_deref() == Some(&*identity(self.source))
            && edge.destination.as_deref() == Some(&*identity(self.destination))
            && edge.policy.as_deref() == Some(self.policy)
            && edge.rule.as_deref() == Some(self.rule)
            && edge.count > 0
    }
}

const REPORT_TIMEOUT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(100);
