//! The data plane outlives the control plane: it is killed and started again under load, and while it is down a
//! sidecar is killed too and serves again from its cache on disk.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::{Instant, sleep, timeout};

use super::{Performers, Stage, Trial, millis};
use crate::{
    api,
    demo::{
        cast::{CUSTOMER, ORDERS, PAYMENTS, WEB},
        parts::service::{CALLER, work},
        stage::{CONTROL_PLANE, sidecar},
    },
    http1::Connection,
};

/// SIGKILL for the control plane, and a restart, while customers buy.
pub(super) async fn control_plane(stage: &mut Stage, performers: &Performers) -> Trial {
    let mut trial = Trial::new(
        "control-plane-killed",
        "no request fails while it is down and when it is back; every sidecar connects again",
    );
    let before = performers.load.report();
    if trial.attempt("kill", stage.children.kill(CONTROL_PLANE).await).is_none() {
        return trial;
    }
    let killed = Instant::now();
    let while_down = performers.load.until_ok(before.ok + REQUESTS_WHILE_DOWN, DOWN_TIMEOUT).await;
    trial.require(while_down.is_some(), "the load stopped while the control plane was down");
    trial.attempt("start again", stage.children.start_again(CONTROL_PLANE));
    reconnected(&mut trial, stage, killed).await;
    let after = performers.load.until_ok(performers.load.report().ok + REQUESTS_AFTER, DOWN_TIMEOUT).await;
    trial.require(after.is_some(), "the load stopped after the control plane came back");
    let after = performers.load.report();
    trial.measure("requests", after.ok - before.ok);
    trial.measure("failed", after.failed - before.failed);
    trial.require(after.failed == before.failed, format!("requests failed: {}", after.kinds_of_failure()));
    trial
}

/// SIGKILL for the control plane and the sidecar of `orders`, in the middle of the chain; only the sidecar starts
/// again. The load is paused: what was in flight through a killed sidecar is lost by nature.
pub(super) async fn sidecar_without_control_plane(stage: &mut Stage, performers: &mut Performers) -> Trial {
    let mut trial = Trial::new(
        "sidecar-restarted-without-control-plane",
        "it serves again from its cache on disk, permits and denials as before; then everything connects again",
    );
    trial.require(performers.load.pause().await.is_some(), "the load did not pause");
    let orders = sidecar(ORDERS);
    let killed = Instant::now();
    for name in [CONTROL_PLANE, &*orders] {
        trial.attempt("kill", stage.children.kill(name).await);
    }
    if trial.attempt("start again", stage.children.start_again(&orders)).is_some() {
        serves(&mut trial, stage, Instant::now()).await;
        denies(&mut trial, stage).await;
        let down = stage.api.get::<api::Status>("/v1/status").await.is_err();
        trial.measure("controlPlaneWasDown", down);
        trial.require(down, "the control plane was there all the while");
    }
    trial.attempt("start again", stage.children.start_again(CONTROL_PLANE));
    reconnected(&mut trial, stage, killed).await;

    let before = performers.load.report();
    trial.require(performers.load.resume().await.is_some(), "the load did not resume");
    let after = performers.load.until_ok(before.ok + REQUESTS_AFTER, DOWN_TIMEOUT).await;
    trial.require(after.is_some(), "the load does not flow again");
    trial.measure("failedAfterwards", performers.load.report().failed - before.failed);
    trial
}

/// The whole chain answers, through the sidecar that was restarted, and keeps answering.
async fn serves(trial: &mut Trial, stage: &Stage, started: Instant) {
    let deadline = started + SERVE_TIMEOUT;
    let mut refusals = 0_u64;
    while Instant::now() < deadline {
        match buy(stage).await {
            Ok(StatusCode::OK) => break,
            _ => refusals += 1,
        }
        sleep(POLL).await;
    }
    trial.measure("servedAfterMs", millis(started.elapsed()));
    trial.measure("triesBefore", refusals);
    let mut ok = 0;
    for _ in 0..REQUESTS_FROM_CACHE {
        ok += u64::from(buy(stage).await == Ok(StatusCode::OK));
    }
    trial.measure("served", ok);
    trial.require(
        ok == REQUESTS_FROM_CACHE,
        format!("{} of {REQUESTS_FROM_CACHE} failed", REQUESTS_FROM_CACHE - ok),
    );
}

/// A restart must not forget a denial: nobody but `web` may order.
async fn denies(trial: &mut Trial, stage: &Stage) {
    let status = request(stage.cast.outbound(WEB, ORDERS), ORDERS, &Method::DELETE, "/orders").await;
    trial.measure("deniedStill", status == Ok(StatusCode::FORBIDDEN));
    trial
        .require(status == Ok(StatusCode::FORBIDDEN), format!("a forbidden request was answered {status:?}"));
    let status = request(stage.cast.outbound(ORDERS, PAYMENTS), PAYMENTS, &Method::POST, "/admin").await;
    trial.require(status == Ok(StatusCode::FORBIDDEN), format!("a closed path was answered {status:?}"));
}

async fn buy(stage: &Stage) -> Result<StatusCode, String> {
    let (method, path) = work(WEB);
    request(stage.cast.outbound(CUSTOMER, WEB), WEB, &method, path).await
}

async fn request(
    listener: std::net::SocketAddr,
    service: &str,
    method: &Method,
    path: &str,
) -> Result<StatusCode, String> {
    let exchange = async {
        Connection::open(listener, service).await?.send(method.clone(), path, &[(CALLER, "probe")]).await
    };
    match timeout(DOWN_TIMEOUT, exchange).await {
        Ok(answer) => answer.map(|answer| answer.status).map_err(|error| error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Every sidecar is connected to the new control plane and up to date.
async fn reconnected(trial: &mut Trial, stage: &mut Stage, killed: Instant) {
    if let Err(failure) = stage.control_plane_up().await {
        trial.require(false, format!("{}: {}", failure.what(), failure.why()));
        return;
    }
    trial.measure("downMs", millis(killed.elapsed()));
    let deadline = Instant::now() + RECONNECT_TIMEOUT;
    while !stage.everybody_connected().await && Instant::now() < deadline {
        sleep(POLL).await;
    }
    trial.measure("reconnectedMs", millis(killed.elapsed()));
    trial.require(stage.everybody_connected().await, "not every sidecar is connected again");
}

/// At 200 requests a second: a second and a half without a control plane.
const REQUESTS_WHILE_DOWN: u64 = 300;
const REQUESTS_AFTER: u64 = 100;
const REQUESTS_FROM_CACHE: u64 = 20;
const DOWN_TIMEOUT: Duration = Duration::from_secs(6);
const SERVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Sidecars try again with growing pauses.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
