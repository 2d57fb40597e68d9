//! What was seen of calls: edges of the running control plane, or lines of a file, which are edges as `sidegate get
//! edges -o jsonl` prints them or lines of a sidecar's access log. Hands on each kind of call once, with how often and
//! since when. Only what the called side's sidecar judged counts; a line that is not understood refuses the file.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use sidegate_codes::Code;
use sidegate_identity::SpiffeId;

use crate::{
    api::{self, client::ApiUrl},
    exit::Exit,
    failure::Failure,
    get::window,
    status,
};

/// Where edges come from.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct From {
    /// JSON lines: edges as `sidegate get edges -o jsonl` prints them, or access log lines of sidecars; `-` is standard
    /// input. Left out: the edges of the running control plane.
    #[arg(long, value_name = "FILE")]
    edges: Option<PathBuf>,
    /// The control plane's API.
    #[arg(long, value_name = "URL", env = "SIDEGATE_API", default_value = "http://127.0.0.1:15180")]
    api: ApiUrl,
    /// How far back to look in the control plane, at most 1h.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = window)]
    window: std::time::Duration,
}

/// A kind of call, as far as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    /// `None`: somebody without TLS.
    pub(crate) source: Option<SpiffeId>,
    pub(crate) destination: SpiffeId,
    pub(crate) port: Option<u16>,
    pub(crate) asked: Asked,
    pub(crate) verdict: Verdict,
    pub(crate) policy: Option<String>,
    pub(crate) rule: Option<String>,
}

/// What was asked, as far as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    /// Bytes that nobody read.
    Opaque,
    /// An HTTP request; the ledger knows at most the pattern that its path matched.
    Request { route: Option<String> },
    /// An HTTP request with its method and path, from an access log.
    Exactly { method: String, path: String },
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Let in, be it because denials are only observed.
    Allowed,
    Denied,
}

/// How much of a kind of call there was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    pub(crate) count: u64,
    /// RFC 3339, as recorded.
    pub(crate) first: Option<String>,
    pub(crate) last: Option<String>,
}

/// All that was seen, each kind of call once.
pub(crate) type Observed = BTreeMap<Call, Evidence>;

/// An edge, or a line of an access log.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    direction: String,
    #[serde(alias = "src")]
    source: Option<String>,
    #[serde(alias = "dst")]
    destination: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
    route: Option<String>,
    method: Option<String>,
    path: Option<String>,
    upstream: Option<String>,
    verdict: String,
    policy: Option<String>,
    rule: Option<String>,
    count: Option<u64>,
    first_seen: Option<String>,
    last_seen: Option<String>,
    time: Option<String>,
}

impl From {
    /// Reads all of it.
    pub(crate) fn read(&self) -> Result<Observed, Failure> {
        match self.edges.as_deref() {
            None => self.of_control_plane(),
            Some(path) if path == Path::new("-") => lines("standard input", std::io::stdin().lock()),
            Some(path) => {
                let name = path.display().to_string();
                let file = File::open(path).map_err(|error| unusable(&name, error.to_string()))?;
                lines(&name, BufReader::new(file))
            }
        }
    }

    fn of_control_plane(&self) -> Result<Observed, Failure> {
        let path = format!("/v1/edges?window={}s", self.window.as_secs());
        let client = api::client::Client::new(self.api.clone());
        let edges: api::Edges = status::block_on(client.get(&path))??;
        let mut observed = Observed::new();
        for edge in &edges.edges {
            // The form that a file has: one reading of both.
            let line = serde_json::to_value(edge).and_then(serde_json::from_value::<Line>);
            let line = line.map_err(|error| unusable("the control plane's answer", error.to_string()))?;
            line.add_to(&mut observed).map_err(|why| unusable("the control plane's answer", why))?;
        }
        Ok(observed)
    }
}

fn lines(name: &str, mut file: impl BufRead) -> Result<Observed, Failure> {
    let mut observed = Observed::new();
    let mut text = String::new();
    for number in 1_usize.. {
        text.clear();
        let read = file.by_ref().take(LONGEST_LINE).read_line(&mut text);
        if read.map_err(|error| unusable(name, error.to_string()))? == 0 {
            break;
        }
        let at = |why: String| unusable(name, format!("line {number}: {why}"));
        if text.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&text).map_err(|error| at(error.to_string()))?;
        line.add_to(&mut observed).map_err(at)?;
        if observed.len() > MOST_KINDS {
            return Err(at(format!("more than {MOST_KINDS} kinds of calls; read fewer services at a time")));
        }
    }
    Ok(observed)
}

impl Line {
    /// Adds what the called side's sidecar judged; all else says nothing about policies.
    fn add_to(self, observed: &mut Observed) -> Result<(), String> {
        let verdict = match self.verdict.as_str() {
            "allowed" | "would_deny" => Verdict::Allowed,
            "denied" => Verdict::Denied,
            "failed" => return Ok(()),
            other => return Err(format!("unknown verdict {other:?}")),
        };
        match self.direction.as_str() {
            "inbound" => {}
            "outbound" => return Ok(()),
            other => return Err(format!("unknown direction {other:?}")),
        }
        let Some(destination) = &self.destination else { return Ok(()) };
        let id = |text: &str| SpiffeId::parse(text).map_err(|error| format!("{text}: {error}"));
        let call = Call {
            source: self.source.as_deref().map(id).transpose()?,
            destination: id(destination)?,
            port: self.port.or_else(|| port_of(self.upstream.as_deref()?)),
            asked: self.asked()?,
            verdict,
            policy: self.policy,
            rule: self.rule,
        };
        let evidence = observed.entry(call).or_default();
        evidence.count = evidence.count.saturating_add(self.count.unwrap_or(1));
        let (first, last) = (self.first_seen.or_else(|| self.time.clone()), self.last_seen.or(self.time));
        // Of one form and one zone, so that the order of texts is that of times.
        evidence.first = evidence.first.take().into_iter().chain(first).min();
        evidence.last = evidence.last.take().into_iter().chain(last).max();
        Ok(())
    }

    fn asked(&self) -> Result<Asked, String> {
        match (self.protocol.as_deref(), &self.method, &self.path) {
            (Some("tcp"), ..) => Ok(Asked::Opaque),
            (_, Some(method), Some(path)) => {
                Ok(Asked::Exactly { method: method.clone(), path: path.clone() })
            }
            (Some("http1" | "http2" | "grpc"), ..) => {
                // An access log names a route in the same place; a pattern begins with a slash.
                let route = self.route.clone().filter(|route| route.starts_with('/'));
                Ok(Asked::Request { route })
            }
            (protocol, ..) => Err(format!("unknown protocol {:?}", protocol.unwrap_or_default())),
        }
    }
}

/// Of `127.0.0.1:8080`: where the request was sent is the port that was judged.
fn port_of(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

impl fmt::Display for Asked {
    /// `POST /charge`, `HTTP /charge/{id}`, `opaque`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opaque => f.write_str("opaque"),
            Self::Request { route } => write!(f, "HTTP {}", route.as_deref().unwrap_or("(any path)")),
            Self::Exactly { method, path } => write!(f, "{method} {path}"),
        }
    }
}

fn unusable(name: &str, why: String) -> Failure {
    let next = "sidegate get edges -o jsonl prints what is understood";
    Failure::new(Exit::Usage, "the edges cannot be used", why, next).coded(Code::EdgesUnusable).seen(name)
}

/// Bytes of one line: several times what a sidecar writes.
const LONGEST_LINE: u64 = 64 << 10;
/// Kinds of calls that are told apart.
const MOST_KINDS: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: &str = r#"{"direction":"inbound","source":"spiffe://shop.test/ns/shop/sa/web","destination":"spiffe://shop.test/ns/shop/sa/pay","port":8080,"protocol":"http1","route":"/charge/{id}","tls":"mutual","verdict":"allowed","policy":"shop/p","rule":"r","count":7,"errors":0,"bytesReceived":1,"bytesSent":1,"firstSeen":"2026-11-01T00:00:00Z","lastSeen":"2026-11-02T00:00:00Z"}"#;
    const LINE: &str = r#"{"time":"2026-11-03T00:00:00Z","direction":"inbound","src":"spiffe://shop.test/ns/shop/sa/web","dst":"spiffe://shop.test/ns/shop/sa/pay","tls":"mutual","protocol":"http2","method":"GET","path":"/charge/1","status":200,"verdict":"allowed","policy":"shop/p","rule":"r","upstream":"127.0.0.1:8080"}"#;

    #[test]
    fn edges_and_access_log_lines_are_read_and_counted_once_per_kind() {
        let other = EDGE.replace("2026-11-02", "2026-12-02");
        let text = format!("{EDGE}\n\n{other}\n{LINE}\n{}\n", EDGE.replace("inbound", "outbound"));
        let observed = lines("a", text.as_bytes()).expect("lines that are understood");
        let kinds: Vec<_> = observed
            .iter()
            .map(|(call, evidence)| {
                (call.asked.to_string(), call.port, evidence.count, evidence.last.clone())
            })
            .collect();
        assert_eq!(
            kinds,
            [
                ("HTTP /charge/{id}".to_owned(), Some(8080), 14, Some("2026-12-02T00:00:00Z".to_owned())),
                ("GET /charge/1".to_owned(), Some(8080), 1, Some("2026-11-03T00:00:00Z".to_owned())),
            ]
        );
    }

    #[test]
    fn a_line_that_is_not_understood_refuses_the_file_with_its_number() {
        for bad in [
            "{",
            &EDGE.replace("allowed", "maybe"),
            &EDGE.replace("inbound", "sideways"),
            &EDGE.replace("http1", "quic"),
            &EDGE.replace("spiffe://shop.test/ns/shop/sa/web", "web"),
        ] {
            let failure = lines("a", format!("{EDGE}\n{bad}\n").as_bytes()).expect_err("a bad line");
            assert!(failure.why().starts_with("line 2: "), "{}", failure.why());
            assert_eq!(failure.code(), Some(Code::EdgesUnusable));
        }
    }
}
