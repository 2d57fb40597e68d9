//! A broken policy file changes nothing: the last good set stays, and the error names file, line, field and code in
//! the control plane's status, its log and its metric.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::{Instant, sleep};

use super::{Stage, Trial, millis};
use crate::{
    api,
    demo::{
        cast::{ORDERS, PAYMENTS},
        evidence::{Log, Metrics},
        parts::service::{CALLER, work},
        stage::CONTROL_PLANE,
    },
    http1::Connection,
};

/// Every way to break a file, one trial each.
pub(super) async fn try_all(stage: &Stage) -> Vec<Trial> {
    let mut trials = Vec::new();
    for case in CASES {
        trials.push(case.run(stage).await);
    }
    trials
}

struct Case {
    name: &'static str,
    text: &'static str,
    code: &'static str,
    line: u32,
    /// What the field's path ends with; `None` where the text is not even YAML.
    field: Option<&'static str>,
}

/// Each would let everybody do everything, if it were believed in part.
const CASES: [Case; 4] = [
    Case {
        name: "broken-policy-bad-yaml",
        text: "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: broken, namespace: shop\n\
               spec:\n  action: Allow\n  rules: [{name: all}]\n",
        code: "SG0210",
        line: 4,
        field: None,
    },
    Case {
        name: "broken-policy-unknown-field",
        text: "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: broken, namespace: shop}\n\
               spec:\n  action: Allow\n  rules:\n  - name: all\n    form:\n    - serviceAccounts: [shop/orders]\n",
        code: "SG0211",
        line: 8,
        field: Some("form"),
    },
    Case {
        name: "broken-policy-bad-cidr",
        text: "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: broken, namespace: shop}\n\
               spec:\n  action: Allow\n  rules:\n  - name: all\n    from:\n    - namespaces: [shop]\n    \
               - ipBlocks: [\"10.0.0.0/33\"]\n",
        code: "SG0212",
        line: 10,
        field: Some("ipBlocks[0]"),
    },
    Case {
        name: "broken-policy-unknown-action",
        text: "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: broken, namespace: shop}\n\
               spec:\n  action: Permit\n  rules: [{name: all}]\n",
        code: "SG0213",
        line: 5,
        field: Some("action"),
    },
];

impl Case {
    async fn run(&self, stage: &Stage) -> Trial {
        let mut trial = Trial::new(
            self.name,
            "the last good set stays in force; file, line, field and code in status, log and metric",
        );
        let before = stage.api.get::<api::Status>("/v1/status").await;
        let Some(before) = trial.attempt("status", before.map_err(|failure| failure.why().to_owned())) else {
            return trial;
        };
        let counted = load_failures(stage).await;
        let log = Log::from_now(&stage.folder.logs(), CONTROL_PLANE);
        let written = Instant::now();
        if trial.attempt("write", stage.folder.write_policy(FILE, self.text)).is_some() {
            self.named_in_status(&mut trial, stage, &before, written).await;
            self.named_in_log(&mut trial, &log).await;
            let counted = load_failures(stage).await - counted;
            trial.measure("loadFailuresMetric", counted);
            trial.require(counted > 0.0, format!("{METRIC} did not grow"));
            nothing_changed(&mut trial, stage).await;
        }
        trial.attempt("remove", stage.folder.remove_policy(FILE));
        healed(&mut trial, stage).await;
        trial
    }

    async fn named_in_status(
        &self,
        trial: &mut Trial,
        stage: &Stage,
        before: &api::Status,
        written: Instant,
    ) {
        let Some(status) = until(stage, |status| status.policies.last_error.is_some()).await else {
            trial.require(false, "status shows no error");
            return;
        };
        trial.measure("shownAfterMs", millis(written.elapsed()));
        trial.require(status.policies.digest == before.policies.digest, "the set in force is another one");
        let errors = status.policies.last_error.unwrap_or_default();
        let Some(error) = errors.iter().find(|error| error.file.ends_with(FILE)) else {
            trial.require(false, "the error does not name the file");
            return;
        };
        trial.measure("file", error.file.clone());
        trial.measure("line", error.line);
        trial.measure("field", error.field.clone());
        trial.measure("code", error.code.clone());
        trial.require(error.code == self.code, format!("the code is not {}", self.code));
        trial.require(error.line == Some(self.line), format!("the line is not {}", self.line));
        if let Some(field) = self.field {
            let named = error.field.as_deref().is_some_and(|named| named.ends_with(field));
            trial.require(named, format!("the field is not …{field}"));
        }
    }

    async fn named_in_log(&self, trial: &mut Trial, log: &Log) {
        let place = format!("{FILE}:{}", self.line);
        let field = self.field.unwrap_or_default();
        let logged = log.find(|line| [self.code, &place, field].iter().all(|text| line.mentions(text))).await;
        trial.measure("logged", logged.is_some());
        trial.require(
            logged.is_some(),
            format!("the control plane's log does not name {place} with {}", self.code),
        );
    }
}

/// What was allowed is still allowed, what was denied is still denied.
async fn nothing_changed(trial: &mut Trial, stage: &Stage) {
    for (label, (method, path), want) in [
        ("allowedStill", work(PAYMENTS), StatusCode::OK),
        ("deniedStill", (Method::DELETE, "/charge"), StatusCode::FORBIDDEN),
    ] {
        let call = async {
            let mut connection = Connection::open(stage.cast.outbound(ORDERS, PAYMENTS), PAYMENTS).await?;
            connection.send(method, path, &[(CALLER, "probe")]).await
        };
        if let Some(answer) = trial.attempt(label, call.await) {
            trial.measure(label, answer.status == want);
            trial.require(answer.status == want, format!("{path} answered {}, not {want}", answer.status));
        }
    }
}

/// Without the file the newest set is in force again.
async fn healed(trial: &mut Trial, stage: &Stage) {
    let healed = until(stage, |status| status.policies.last_error.is_none()).await.is_some();
    trial.require(healed, "the error stays although the file is gone");
}

async fn until(stage: &Stage, wanted: impl Fn(&api::Status) -> bool) -> Option<api::Status> {
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        if let Ok(status) = stage.api.get::<api::Status>("/v1/status").await
            && wanted(&status)
        {
            return Some(status);
        }
        sleep(POLL).await;
    }
    None
}

async fn load_failures(stage: &Stage) -> f64 {
    Metrics::of(stage.cast.api).await.sum(METRIC, &[])
}

const FILE: &str = "broken.yaml";
const METRIC: &str = "sidegate_policy_load_failures_total";
const TIMEOUT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);
