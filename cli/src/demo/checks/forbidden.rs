//! Every forbidden request is refused before the application, and says by which code, policy and rule: a caller
//! without permission, a path that a Deny rule closes, a method that no rule allows.

use std::time::Duration;

use http::{Method, StatusCode};

use super::{Performers, Stage, Trial};
use crate::{
    demo::{
        cast::{INTRUDER, NAMESPACE, ORDERS, PAYMENTS},
        documents::GUARD,
        evidence::{self, Log, Metrics},
        parts::service::{CALLER, counter_key, work},
        stage::sidecar,
    },
    http1::Connection,
};

/// Every forbidden call, one trial each.
pub(super) async fn try_all(stage: &Stage, performers: &Performers) -> Vec<Trial> {
    let mut trials = vec![intruder(stage, performers).await];
    for call in CALLS {
        trials.push(call.make(stage).await);
    }
    trials
}

/// A request of `orders` that is refused although `orders` may call `payments`.
struct Call {
    name: &'static str,
    method: Method,
    path: &'static str,
    code: &'static str,
    /// The policy and rule that must have decided; `None`: no Allow rule matched, and the log names the nearest.
    decided: Option<(&'static str, &'static str)>,
}

const CALLS: [Call; 2] = [
    Call {
        name: "forbidden-path",
        method: Method::POST,
        path: "/admin",
        code: "SG0203",
        decided: Some(GUARD),
    },
    Call { name: "forbidden-method", method: Method::DELETE, path: "/charge", code: "SG0202", decided: None },
];

async fn intruder(stage: &Stage, performers: &Performers) -> Trial {
    let mut trial = Trial::new("forbidden-caller", EXPECTED);
    let report = performers.intruder.until(ATTEMPTS_TIMEOUT, |report| report.attempts >= ATTEMPTS).await;
    let report = report.unwrap_or_else(|| performers.intruder.latest());
    let refused = report.answers.get("403").copied().unwrap_or_default();
    trial.measure("attempts", report.attempts);
    trial.measure("answered403", refused);
    trial.require(
        report.attempts >= ATTEMPTS && refused == report.attempts,
        format!("the intruder was answered {:?}", report.answers),
    );
    let (method, path) = work(PAYMENTS);
    traces(
        &mut trial,
        stage,
        &Traces { method, path, marker: INTRUDER, source: INTRUDER, code: "SG0202", decided: None },
    )
    .await;
    trial
}

impl Call {
    async fn make(&self, stage: &Stage) -> Trial {
        let mut trial = Trial::new(self.name, EXPECTED);
        let answers = self.send(stage).await;
        if let Some(refused) = trial.attempt("orders could not call", answers) {
            trial.measure("attempts", ATTEMPTS);
            trial.measure("answered403", refused);
            trial.require(
                refused == ATTEMPTS,
                format!("{} requests were not answered 403", ATTEMPTS - refused),
            );
        }
        let (method, path) = (self.method.clone(), self.path);
        let traces_of = Traces {
            method,
            path,
            marker: self.name,
            source: ORDERS,
            code: self.code,
            decided: self.decided,
        };
        traces(&mut trial, stage, &traces_of).await;
        trial
    }

    /// How many were answered 403.
    async fn send(&self, stage: &Stage) -> Result<u64, crate::http1::Error> {
        let mut connection = Connection::open(stage.cast.outbound(ORDERS, PAYMENTS), PAYMENTS).await?;
        let mut refused = 0;
        for _ in 0..ATTEMPTS {
            let answer = connection.send(self.method.clone(), self.path, &[(CALLER, self.name)]).await?;
            refused += u64::from(answer.status == StatusCode::FORBIDDEN);
        }
        Ok(refused)
    }
}

/// What a refusal must leave behind, and where it must not be seen.
struct Traces {
    method: Method,
    path: &'static str,
    marker: &'static str,
    source: &'static str,
    code: &'static str,
    decided: Option<(&'static str, &'static str)>,
}

async fn traces(trial: &mut Trial, stage: &Stage, traces: &Traces) {
    untouched_application(trial, stage, traces).await;
    logged(trial, stage, traces).await;
    counted(trial, stage, traces).await;
}

async fn untouched_application(trial: &mut Trial, stage: &Stage, traces: &Traces) {
    let counters = evidence::counters(stage.cast.served(PAYMENTS).counter).await;
    trial.require(counters.is_some(), "the application's counters cannot be read");
    let key = counter_key(&traces.method, traces.path, traces.marker);
    let seen = counters.unwrap_or_default().get(&key).copied().unwrap_or_default();
    trial.measure("seenByTheApplication", seen);
    trial.require(seen == 0, format!("the application saw {seen} of them"));
}

async fn logged(trial: &mut Trial, stage: &Stage, traces: &Traces) {
    let log = Log::from_start(&stage.folder.logs(), &sidecar(PAYMENTS));
    let line = log
        .find(|line| {
            line.is("code", traces.code)
                && line.is("method", traces.method.as_str())
                && line.is("path", traces.path)
                && line.get("src").is_some_and(|source| source.ends_with(traces.source))
        })
        .await;
    let Some(line) = line else {
        trial.require(false, format!("no log line of payments' sidecar carries {}", traces.code));
        return;
    };
    trial.measure("code", traces.code);
    for name in ["policy", "rule", "nearest"] {
        trial.measure(name, line.get(name));
    }
    match traces.decided {
        Some((policy, rule)) => trial.require(
            line.is("policy", policy) && line.is("rule", rule),
            format!("not decided by {policy}, {rule}"),
        ),
        None => trial.require(line.get("nearest").is_some(), "the log does not name the nearest rule"),
    }
}

async fn counted(trial: &mut Trial, stage: &Stage, traces: &Traces) {
    let metrics = Metrics::of(stage.cast.workload(PAYMENTS).admin).await;
    let source = format!("{NAMESPACE}/{}", traces.source);
    let mut labels = vec![("code", traces.code), ("src", &*source)];
    if let Some((policy, rule)) = traces.decided {
        labels.extend([("policy", policy), ("rule", rule)]);
    }
    let denied = metrics.sum("sidegate_denied_total", &labels);
    trial.measure("deniedMetric", denied);
    trial.require(denied > 0.0, "sidegate_denied_total does not count them");
}

const EXPECTED: &str =
    "answered 403 before the application, with code, policy and rule (or the nearest rule) in log and metric";
const ATTEMPTS: u64 = 5;
const ATTEMPTS_TIMEOUT: Duration = Duration::from_secs(6);
