//! A policy file that changes on disk is in force on open keep-alive connections of every sidecar within a second,
//! when it closes something and when it opens it again.

use std::{net::SocketAddr, time::Duration};

use http::{Method, StatusCode};
use tokio::{
    task::JoinSet,
    time::{Instant, interval},
};

use super::{Stage, Trial, millis};
use crate::{
    demo::{
        cast::{CUSTOMER, ORDERS, PAYMENTS, WEB},
        documents::{PROBES_FILE, Probes, probes},
        parts::service::CALLER,
    },
    http1::Connection,
};

/// Closes and opens the probes' path while a connection through each sidecar stays open.
pub(super) async fn policy_on_open_connections(stage: &Stage) -> Trial {
    let mut trial = Trial::new(
        "policy-change-on-open-connections",
        "both changes in force in under 1000 ms on the same TCP connections, at every sidecar",
    );
    let Some(mut open) = trial.attempt("the probes cannot connect", connect(stage).await) else {
        return trial;
    };
    for (state, want, figure) in CHANGES {
        let changed = Instant::now();
        let written = stage.folder.write_policy(PROBES_FILE, &probes(state));
        if trial.attempt("the policy file cannot be written", written).is_none() {
            return trial;
        }
        for seen in observe(&mut open, want, changed).await {
            note(&mut trial, &seen, figure);
        }
    }
    trial
}

/// What the file becomes, what the probes are then answered, and the figure's name.
const CHANGES: [(Probes, StatusCode, &str); 2] =
    [(Probes::Closed, StatusCode::FORBIDDEN, "DeniedMs"), (Probes::Open, StatusCode::OK, "AllowedMs")];

/// A connection through the caller's sidecar to the service's sidecar, kept open all the while.
struct Probe {
    service: &'static str,
    connection: Connection,
}

struct Seen {
    service: &'static str,
    /// When the new answer came first, or why it did not.
    after: Result<Duration, String>,
}

async fn connect(stage: &Stage) -> Result<Vec<Probe>, String> {
    let mut open = Vec::new();
    for (caller, service) in [(CUSTOMER, WEB), (WEB, ORDERS), (ORDERS, PAYMENTS)] {
        open.push(connect_one(service, stage.cast.outbound(caller, service)).await?);
    }
    Ok(open)
}

async fn connect_one(service: &'static str, outbound: SocketAddr) -> Result<Probe, String> {
    let mut connection = Connection::open(outbound, service).await.map_err(|error| error.to_string())?;
    match ping(&mut connection).await? {
        StatusCode::OK => Ok(Probe { service, connection }),
        status => Err(format!("{service} answered {status} before anything changed")),
    }
}

/// All probes at once; they are handed back with what they saw.
async fn observe(open: &mut Vec<Probe>, want: StatusCode, changed: Instant) -> Vec<Seen> {
    let mut tasks = JoinSet::new();
    for mut probe in open.drain(..) {
        tasks.spawn(async move {
            let after = until(&mut probe.connection, want, changed).await;
            (Seen { service: probe.service, after }, probe)
        });
    }
    let mut seen = Vec::new();
    for (one, probe) in tasks.join_all().await {
        seen.push(one);
        open.push(probe);
    }
    seen
}

/// When the answer was first `want`, provided that it stayed so.
async fn until(connection: &mut Connection, want: StatusCode, changed: Instant) -> Result<Duration, String> {
    let mut ticks = interval(EVERY);
    let mut first = None;
    let mut steady = 0;
    while changed.elapsed() < TIMEOUT {
        ticks.tick().await;
        if ping(connection).await? == want {
            first.get_or_insert_with(|| changed.elapsed());
            steady += 1;
        } else if first.is_some() {
            return Err(format!("{want} did not stay in force"));
        }
        if let Some(first) = first.filter(|_| steady >= STEADY) {
            return Ok(first);
        }
    }
    Err(format!("no {want} within {} ms", TIMEOUT.as_millis()))
}

async fn ping(connection: &mut Connection) -> Result<StatusCode, String> {
    if connection.is_closed() {
        return Err("the connection was closed".to_owned());
    }
    let answer = connection.send(Method::GET, "/ping", &[(CALLER, "probe")]).await;
    answer.map(|answer| answer.status).map_err(|error| error.to_string())
}

fn note(trial: &mut Trial, seen: &Seen, figure: &str) {
    match &seen.after {
        Ok(after) => {
            trial.measure(&format!("{}{figure}", seen.service), millis(*after));
            trial.require(*after < LIMIT, format!("{}: took {} ms", seen.service, after.as_millis()));
        }
        Err(error) => trial.require(false, format!("{}: {error}", seen.service)),
    }
}

/// The promise.
const LIMIT: Duration = Duration::from_secs(1);
/// How long is waited to be able to say how much too late it was.
const TIMEOUT: Duration = Duration::from_secs(4);
const EVERY: Duration = Duration::from_millis(10);
/// Answers in a row that count as in force.
const STEADY: u32 = 10;
