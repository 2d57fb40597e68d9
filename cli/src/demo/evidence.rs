//! What the processes leave behind: JSON log lines in files, metrics over HTTP, the services' own counters.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::http1::Connection;

/// The logs of one process, from a moment on.
#[derive(Debug)]
pub(super) struct Log {
    files: [(PathBuf, usize); 2],
}

impl Log {
    /// Everything that `name` writes to stdout and stderr from now on.
    pub(super) fn from_now(logs: &Path, name: &str) -> Self {
        Self { files: ["out", "err"].map(|kind| from_end(logs.join(format!("{name}.{kind}")))) }
    }

    /// Everything that `name` has written since it was first started.
    pub(super) fn from_start(logs: &Path, name: &str) -> Self {
        Self { files: ["out", "err"].map(|kind| (logs.join(format!("{name}.{kind}")), 0)) }
    }

    /// The first line that is as wanted, if it comes in time.
    pub(super) async fn find(&self, wanted: impl Fn(&Line) -> bool) -> Option<Line> {
        let deadline = Instant::now() + EVIDENCE_TIMEOUT;
        loop {
            let found = self.lines().into_iter().find(&wanted);
            if found.is_some() || Instant::now() >= deadline {
                return found;
            }
            sleep(POLL).await;
        }
    }

    /// What was answered with a 5xx status and why, each kind once: `SG0617 the upstream broke`.
    pub(super) fn server_errors(&self) -> BTreeSet<String> {
        let is_error =
            |line: &&Line| line.0.get("status").and_then(Value::as_u64).is_some_and(|status| status >= 500);
        let told =
            |line: &Line| Some(format!("{} {}", line.get("code")?, line.get("detail").unwrap_or_default()));
        self.lines().iter().filter(is_error).filter_map(told).collect()
    }

    fn lines(&self) -> Vec<Line> {
        let read = |(path, from): &(PathBuf, usize)| {
            let text = std::fs::read(path).unwrap_or_default();
            text.get(*from..).map(<[u8]>::to_vec).unwrap_or_default()
        };
        self.files
            .iter()
            .map(read)
            .flat_map(|text| {
                text.split(|byte| *byte == b'\n')
                    .filter_map(|line| serde_json::from_slice(line).ok())
                    .collect::<Vec<_>>()
            })
            .map(Line)
            .collect()
    }
}

/// One JSON line of a log.
#[derive(Clone, Debug)]
pub(super) struct Line(Value);

impl Line {
    /// A field of the line, whether it stands at the top or under `fields`.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).or_else(|| self.0.get("fields")?.get(name))?.as_str()
    }

    /// Whether a field has this value.
    pub(super) fn is(&self, name: &str, value: &str) -> bool {
        self.get(name) == Some(value)
    }

    /// Whether the text stands anywhere in the line.
    pub(super) fn mentions(&self, text: &str) -> bool {
        self.0.to_string().contains(text)
    }
}

/// The metrics of one process at one moment.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    text: String,
}

impl Metrics {
    /// Reads them; nothing when the process does not answer.
    pub(super) async fn of(address: SocketAddr) -> Self {
        let text = get(address, "/metrics").await.unwrap_or_default();
        Self { text: String::from_utf8_lossy(&text).into_owned() }
    }

    /// The sum of all samples of `name` that carry every one of the labels.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.text
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with(['{', ' ']))
            .filter(|rest| labels.iter().all(|(label, value)| rest.contains(&format!("{label}=\"{value}\""))))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            // Not `sum`: that of nothing is -0.0.
            .fold(0.0, |sum, sample| sum + sample)
    }
}

/// What reached a service, by `METHOD PATH CALLER`.
pub(super) async fn counters(address: SocketAddr) -> Option<BTreeMap<String, u64>> {
    serde_json::from_slice(&get(address, "/").await?).ok()
}

async fn get(address: SocketAddr, path: &str) -> Option<bytes::Bytes> {
    let mut connection = Connection::open(address, "localhost").await.ok()?;
    let answer = connection.send(Method::GET, path, &[]).await.ok()?;
    answer.status.is_success().then_some(answer.body)
}

fn from_end(path: PathBuf) -> (PathBuf, usize) {
    let length = std::fs::metadata(&path).map_or(0, |file| file.len());
    (path, usize::try_from(length).unwrap_or(usize::MAX))
}

/// Logs and counters follow the answer within moments.
const EVIDENCE_TIMEOUT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(25);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_name_and_labels() {
        let metrics = Metrics {
            text: "# TYPE a_total counter\na_total{code=\"SG0202\",src=\"x\"} 3\na_total{src=\"x\",code=\"SG0203\"} 4\n\
                   a_total_more{code=\"SG0202\"} 100\nb 7\n"
                .to_owned(),
        };
        assert!((metrics.sum("a_total", &[]) - 7.0).abs() < 1e-9);
        assert!((metrics.sum("a_total", &[("code", "SG0202")]) - 3.0).abs() < 1e-9);
        assert!((metrics.sum("a_total", &[("code", "SG0202"), ("src", "y")])).abs() < 1e-9);
        assert!((metrics.sum("b", &[]) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn fields_are_found_at_the_top_and_below() {
        let line = Line(serde_json::json!({"code": "SG0202", "fields": {"message": "refused"}}));
        assert!(line.is("code", "SG0202"));
        assert!(line.is("message", "refused"));
        assert!(!line.is("policy", "SG0202"));
        assert!(line.mentions("refused"));
    }
}
