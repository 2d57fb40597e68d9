//! The customers: paced requests over keep-alive connections into the customer's sidecar. Every answer that is not
//! 200 is a failure and is reported with its time; nothing is sent twice.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, BufRead},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, interval_at, timeout},
};

use super::{
    lines,
    service::{CALLER, work},
};
use crate::{
    demo::cast::{CUSTOMER, WEB},
    http1::Connection,
};

/// Arguments of the load.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The customer's sidecar's listener for `web`.
    #[arg(long)]
    target: SocketAddr,
    /// Requests per second, over all connections.
    #[arg(long)]
    rate: u32,
    /// Keep-alive connections.
    #[arg(long)]
    connections: u32,
}

/// The state of the load, whole on each line.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::demo) struct LoadReport {
    /// Requests answered 200.
    pub(in crate::demo) ok: u64,
    /// Requests that ended in any other way.
    pub(in crate::demo) failed: u64,
    pub(in crate::demo) in_flight: u64,
    pub(in crate::demo) paused: bool,
    /// Connections opened since the start; more than `--connections` when the sidecar closed some.
    pub(in crate::demo) opened: u64,
    pub(in crate::demo) p50_ms: f64,
    pub(in crate::demo) p99_ms: f64,
    /// The first failures.
    pub(in crate::demo) failures: Vec<LoadFailure>,
}

impl LoadReport {
    /// What the kept failures were, each kind once.
    pub(in crate::demo) fn kinds_of_failure(&self) -> String {
        let kinds: BTreeSet<&str> = self.failures.iter().map(|failure| failure.what.as_str()).collect();
        Vec::from_iter(kinds).join(", ")
    }
}

/// One request that was not answered 200.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::demo) struct LoadFailure {
    /// Milliseconds since the Unix epoch.
    pub(in crate::demo) at_ms: u64,
    pub(in crate::demo) what: String,
}

/// Sends until the process is ended or the demo closes stdin.
pub(super) async fn run(args: Args) -> io::Result<()> {
    let tally = Arc::new(Tally::default());
    let (pause, paused) = watch::channel(false);
    std::thread::Builder::new().name("commands".to_owned()).spawn(move || obey(&pause))?;
    let period = Duration::from_secs(1) * args.connections / args.rate.max(1);
    let mut customers = JoinSet::new();
    for number in 0..args.connections {
        let begin = Instant::now() + period * number / args.connections;
        customers.spawn(buy(args.target, begin, period, Arc::clone(&tally), paused.clone()));
    }
    report(&tally, paused).await
}

/// What all connections have seen. Locked for a few additions only.
#[derive(Default)]
struct Tally {
    report: Mutex<LoadReport>,
    /// The newest latencies.
    latencies: Mutex<VecDeque<Duration>>,
}

impl Tally {
    fn update(&self, change: impl FnOnce(&mut LoadReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn record(&self, latency: Duration, outcome: Result<(), String>) {
        self.update(|report| {
            report.in_flight -= 1;
            match outcome {
                Ok(()) => report.ok += 1,
                Err(what) => report.fail(what),
            }
        });
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.push_back(latency);
        if latencies.len() > LATENCIES {
            latencies.pop_front();
        }
    }

    fn snapshot(&self) -> LoadReport {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<Duration> = latencies.iter().copied().collect();
        sorted.sort_unstable();
        report.p50_ms = quantile(&sorted, 50);
        report.p99_ms = quantile(&sorted, 99);
        report
    }
}

impl LoadReport {
    fn fail(&mut self, what: String) {
        self.failed += 1;
        if self.failures.len() < FAILURES {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let at_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
            self.failures.push(LoadFailure { at_ms, what });
        }
    }
}

/// One customer: one connection, one request at a time.
async fn buy(
    target: SocketAddr,
    begin: Instant,
    period: Duration,
    tally: Arc<Tally>,
    paused: watch::Receiver<bool>,
) {
    let mut ticks = interval_at(begin, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    loop {
        ticks.tick().await;
        if *paused.borrow() {
            continue;
        }
        tally.update(|report| report.in_flight += 1);
        let started = Instant::now();
        let outcome = request(target, &mut connection, &tally).await;
        tally.record(started.elapsed(), outcome);
    }
}

/// One request; the connection is kept for the next one when this one was answered.
async fn request(target: SocketAddr, kept: &mut Option<Connection>, tally: &Tally) -> Result<(), String> {
    let exchange = async {
        let mut connection = match kept.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => open(target, tally).await?,
        };
        let (method, path) = work(WEB);
        let answer =
            connection.send(method, path, &[(CALLER, CUSTOMER)]).await.map_err(|error| error.to_string())?;
        *kept = Some(connection);
        match answer.status {
            StatusCode::OK => Ok(()),
            status => Err(format!("{status}: {}", String::from_utf8_lossy(&answer.body).trim())),
        }
    };
    timeout(ANSWER_TIMEOUT, exchange).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn open(target: SocketAddr, tally: &Tally) -> Result<Connection, String> {
    tally.update(|report| report.opened += 1);
    Connection::open(target, WEB).await.map_err(|error| format!("connect: {error}"))
}

/// Prints the state several times a second.
async fn report(tally: &Tally, paused: watch::Receiver<bool>) -> io::Result<()> {
    let mut ticks = interval(REPORT_EVERY);
    loop {
        ticks.tick().await;
        let mut report = tally.snapshot();
        report.paused = *paused.borrow();
        lines::print(&report)?;
    }
}

/// Reads `pause` and `resume`; the end of stdin is the end of the demo.
fn obey(pause: &watch::Sender<bool>) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        match line.as_str() {
            "pause" => _ = pause.send_replace(true),
            "resume" => _ = pause.send_replace(false),
            _ => {}
        }
    }
    std::process::exit(0);
}

fn quantile(sorted: &[Duration], percent: usize) -> f64 {
    let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(place).map_or(0.0, |latency| latency.as_secs_f64() * 1_000.0)
}

/// Longer than the sidecars' own limits, so that their answer comes first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Failures kept in full; all are counted.
const FAILURES: usize = 20;
/// Latencies that quantiles are taken of: some seconds of load.
const LATENCIES: usize = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_nothing_and_of_something() {
        assert!(quantile(&[], 99).abs() < f64::EPSILON);
        let sorted: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert!((quantile(&sorted, 50) - 51.0).abs() < 1e-9);
        assert!((quantile(&sorted, 99) - 100.0).abs() < 1e-9);
    }

    #[test]
    fn failures_are_all_counted_and_the_first_kept() {
        let mut report = LoadReport::default();
        for number in 0..30 {
            report.fail(format!("failure {number}"));
        }
        assert_eq!((report.failed, report.failures.len()), (30, FAILURES));
        assert_eq!(report.failures[0].what, "failure 0");
    }
}
