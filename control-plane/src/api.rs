//! The operator's API: JSON over HTTP on a loopback address, read-only. Refuses a Host that is not loopback, so that
//! no web page can reach it through a name of its own (DNS rebinding).

mod documents;
mod in_force;

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Query, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    ca::Authority,
    clock, federation,
    ledger::Ledger,
    mesh::Mesh,
    metrics::{self, Metrics, Readings},
    proxies::Proxies,
};

/// What the API shows.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) mesh: watch::Receiver<Arc<Mesh>>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) proxies: Arc<Proxies>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) started_at_ms: u64,
}

/// Serves until `stop`, then lets the requests in flight end.
pub(crate) async fn serve(listener: TcpListener, shown: Shown, stop: CancellationToken) {
    let served = axum::serve(listener, router(shown)).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the API ended");
    }
}

/// What a control plane that waits for its turn says: that it lives, and for whom it waits.
pub(crate) async fn standby(listener: TcpListener, why: watch::Receiver<String>) {
    let router = Router::new()
        .route("/livez", get(|| async { "standby\n" }))
        .route("/metrics", get(|| async { exposition(metrics::standby()) }))
        .fallback(move || std::future::ready(stands_by(&why)))
        .layer(middleware::from_fn(only_loopback_host));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the API ended");
    }
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/metrics", get(measured))
        .route("/v1/status", get(status))
        .route("/v1/proxies", get(proxies))
        .route("/v1/policies", get(policies))
        .route("/v1/mesh", get(in_force))
        .route("/v1/edges", get(edges))
        .route("/spiffe/bundle.json", get(bundle))
        .layer(middleware::from_fn(only_loopback_host))
        .with_state(shown)
}

async fn status(State(shown): State<Shown>) -> impl IntoResponse {
    Json(documents::Status::of(&shown))
}

async fn proxies(State(shown): State<Shown>) -> impl IntoResponse {
    Json(documents::Proxies::of(&shown))
}

async fn policies(State(shown): State<Shown>) -> impl IntoResponse {
    Json(documents::Policies::of(&shown))
}

async fn in_force(State(shown): State<Shown>) -> impl IntoResponse {
    Json(in_force::InForce::of(&shown))
}

/// Our own bundle, for whoever federates with this mesh.
async fn bundle(State(shown): State<Shown>) -> Response {
    let bundle = federation::published(&shown.mesh.borrow());
    bundle.map_or_else(
        || refuse(StatusCode::NOT_IMPLEMENTED, "an authority's key has no form in this document".to_owned()),
        |bundle| Json(bundle).into_response(),
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EdgesQuery {
    window: Option<String>,
}

async fn edges(State(shown): State<Shown>, Query(query): Query<EdgesQuery>) -> Response {
    match window_ms(query.window.as_deref()) {
        Ok(window_ms) => Json(documents::Edges::of(&shown, window_ms, clock::now_ms())).into_response(),
        Err(message) => refuse(StatusCode::BAD_REQUEST, message),
    }
}

async fn measured(State(shown): State<Shown>) -> impl IntoResponse {
    let mesh = shown.mesh.borrow().clone();
    let (ledger_cells, ledger_dropped) = shown.ledger.size();
    let blocked = shown.authority.blocked(mesh.config.leaf_life, clock::now_ms());
    let readings = Readings {
        active: shown.authority.is_active(),
        policy_stale: !mesh.policy_problems.is_empty(),
        policy_count: mesh.policies.as_ref().map_or(0, |policies| policies.set.len()),
        proxies_connected: shown.proxies.count().0,
        ledger_cells,
        ledger_dropped,
        signing_ends: shown.authority.signing().not_after().as_secs(),
        rotation_blockers: blocked.count,
        rotation_overdue: blocked.overdue.as_secs(),
    };
    exposition(shown.metrics.write(readings))
}

fn exposition(text: String) -> impl IntoResponse {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text)
}

fn stands_by(why: &watch::Receiver<String>) -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, why.borrow().clone())
}

async fn only_loopback_host(request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    if hosts.next().is_none() && host.is_some_and(is_loopback) {
        return next.run(request).await;
    }
    refuse(StatusCode::MISDIRECTED_REQUEST, "the Host must be localhost or a loopback address".to_owned())
}

/// `localhost`, `127.x.x.x` or `[::1]`, with a port or without.
fn is_loopback(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, port),
        _ => (host, "0"),
    };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let loopback =
        name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    loopback && port.parse::<u16>().is_ok()
}

fn window_ms(text: Option<&str>) -> Result<u64, String> {
    let Some(text) = text else {
        return Ok(MAX_WINDOW_MS);
    };
    let window: Duration =
        humantime::parse_duration(text).map_err(|error| format!("window is not a duration: {error}"))?;
    u64::try_from(window.as_millis())
        .ok()
        .filter(|ms| (1..=MAX_WINDOW_MS).contains(ms))
        .ok_or_else(|| "window is not between 1ms and 1h".to_owned())
}

#[derive(Serialize)]
struct Refusal {
    error: String,
}

fn refuse(status: StatusCode, error: String) -> Response {
    (status, Json(Refusal { error })).into_response()
}

/// The ledger holds an hour.
const MAX_WINDOW_MS: u64 = 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_hosts_pass() {
        for good in ["localhost", "LOCALHOST:15180", "127.0.0.1", "127.0.0.1:15180", "[::1]", "[::1]:15180"] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in
            ["", "attacker.test", "localhost.attacker.test", "10.0.0.1:15180", "127.0.0.1:x", "[::2]:1"]
        {
            assert!(!is_loopback(bad), "{bad}");
        }
    }

    #[test]
    fn a_window_has_its_bounds() {
        assert_eq!(window_ms(None), Ok(3_600_000));
        assert_eq!(window_ms(Some("60s")), Ok(60_000));
        for bad in ["", "0s", "61m", "a"] {
            assert!(window_ms(Some(bad)).is_err(), "{bad}");
        }
    }
}
