//! `sidegate demo --check`: every promise of the demo tried for real, each with its measured figures. One after
//! another under a load that runs all the while, so that what one breaks shows in the load's failures.

mod broken;
mod certificates;
mod changes;
mod forbidden;
mod outages;
mod permitted;
mod strangers;
mod telemetry;

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{
    say,
    stage::{Performers, Stage},
};
use crate::{
    exit::Exit,
    failure::Failure,
    table::{self, Format},
    terminal::{Charset, Paint, paint},
};

/// Runs every check; exit code 1 when one fails.
pub(super) async fn run(stage: &mut Stage, load: Duration, format: Format) -> Result<Exit, Failure> {
    let mut performers = stage.perform()?;
    let end_of_load = Instant::now() + load;
    let serials = certificates::Serials::watch(stage.api.clone());
    let mut trials = Vec::new();
    let mut done = |trial: Trial| {
        show(&trial, format);
        trials.push(trial);
    };

    for trial in forbidden::try_all(stage, &performers).await {
        done(trial);
    }
    for trial in strangers::try_all(stage, &performers).await {
        done(trial);
    }
    done(changes::policy_on_open_connections(stage).await);
    for trial in broken::try_all(stage).await {
        done(trial);
    }
    done(telemetry::agrees(stage, &performers).await);
    done(outages::control_plane(stage, &performers).await);
    done(certificates::rotation(stage, &performers, serials, end_of_load).await);
    done(outages::sidecar_without_control_plane(stage, &mut performers).await);
    done(permitted::all(stage, &mut performers).await);

    report(&trials, format)
}

/// One promise on trial: what was measured, and what of it is not as promised.
#[derive(Debug)]
struct Trial {
    name: String,
    expected: &'static str,
    measured: Map<String, Value>,
    faults: Vec<String>,
}

impl Trial {
    fn new(name: impl Into<String>, expected: &'static str) -> Self {
        Self { name: name.into(), expected, measured: Map::new(), faults: Vec::new() }
    }

    /// Notes a figure.
    fn measure(&mut self, name: &str, figure: impl Into<Value>) {
        self.measured.insert(name.to_owned(), figure.into());
    }

    /// Notes a fault unless the promise is kept.
    fn require(&mut self, kept: bool, fault: impl Into<String>) {
        if !kept {
            self.faults.push(fault.into());
        }
    }

    /// Notes a fault for what could not even be tried, and hands on what could.
    fn attempt<T, E: std::fmt::Display>(&mut self, what: &str, outcome: Result<T, E>) -> Option<T> {
        outcome.map_err(|error| self.faults.push(format!("{what}: {error}"))).ok()
    }

    fn ok(&self) -> bool {
        self.faults.is_empty()
    }
}

#[derive(Serialize)]
struct Outcome<'a> {
    name: &'a str,
    ok: bool,
    measured: &'a Map<String, Value>,
    expected: &'a str,
    detail: Option<String>,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    checks: Vec<Outcome<'a>>,
}

impl<'a> From<&'a Trial> for Outcome<'a> {
    fn from(trial: &'a Trial) -> Self {
        let detail = (!trial.ok()).then(|| trial.faults.join("; "));
        Self {
            name: &trial.name,
            ok: trial.ok(),
            measured: &trial.measured,
            expected: trial.expected,
            detail,
        }
    }
}

/// As it comes: for people the whole of it is the answer; beside JSON it is progress.
fn show(trial: &Trial, format: Format) {
    let charset = Charset::from_env();
    match format {
        Format::Json => say(&line(trial, charset)),
        // A reader that went away does not end the checks; their exit code still counts.
        Format::Table | Format::Wide => _ = table::print(&text(trial, charset)),
    }
}

fn report(trials: &[Trial], format: Format) -> Result<Exit, Failure> {
    let kept = trials.iter().filter(|trial| trial.ok()).count();
    let ok = kept == trials.len();
    match format {
        Format::Json => {
            let checks = trials.iter().map(Outcome::from).collect();
            table::print_json("DemoCheck", Report { ok, checks })?;
        }
        Format::Table | Format::Wide => table::print(&format!("{kept} of {} promises kept\n", trials.len()))?,
    }
    Ok(if ok { Exit::Ok } else { Exit::Findings })
}

fn text(trial: &Trial, charset: Charset) -> String {
    let figures: Vec<String> =
        trial.measured.iter().map(|(name, figure)| format!("{name}={figure}")).collect();
    format!(
        "{}\n     expected  {}\n     measured  {}\n",
        line(trial, charset),
        trial.expected,
        figures.join(" ")
    )
}

fn line(trial: &Trial, charset: Charset) -> String {
    let level = if trial.ok() { Paint::Good } else { Paint::Bad };
    let mut line = format!("{} {}", paint(level, charset.mark(level)), trial.name);
    for fault in &trial.faults {
        let _ = write!(line, "\n     {fault}");
    }
    line
}

/// Whole milliseconds, for figures.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_without_faults_is_kept_and_one_with_faults_names_them() {
        let mut trial = Trial::new("permitted", "all 200");
        trial.measure("ok", 7);
        trial.require(true, "never shown");
        let outcome = serde_json::to_value(Outcome::from(&trial)).expect("JSON");
        assert_eq!(
            outcome,
            serde_json::json!({"name": "permitted", "ok": true, "measured": {"ok": 7}, "expected": "all 200", "detail": null})
        );
        trial.require(false, "one was 503");
        assert!(trial.attempt("read", Err::<(), _>("no file")).is_none());
        let outcome = serde_json::to_value(Outcome::from(&trial)).expect("JSON");
        assert_eq!(outcome["ok"], false);
        assert_eq!(outcome["detail"], "one was 503; read: no file");
    }

    #[test]
    fn a_broken_promise_is_shown_with_its_fault_and_figures() {
        let mut trial = Trial::new("permitted", "all 200");
        trial.measure("failed", 1);
        trial.require(false, "one was 503");
        let text = anstream::adapter::strip_str(&text(&trial, Charset::Ascii)).to_string();
        assert_eq!(text, "XX permitted\n     one was 503\n     expected  all 200\n     measured  failed=1\n");
    }
}
