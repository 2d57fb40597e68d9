//! `sidegate get proxies|policies|edges`: one document of the API as a table, a wide table or JSON.

use time::OffsetDateTime;

use crate::{
    api::{
        self,
        client::{ApiUrl, Client},
    },
    args::Read,
    exit::Exit,
    failure::Failure,
    short, status,
    table::{self, Format, or_dash},
};

/// What can be listed.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum What {
    /// The sidecars: connected or not, what they have in force, their certificates.
    #[command(after_long_help = "Example:\n  sidegate get proxies -o wide")]
    Proxies(Read),
    /// The policies in force: what they select and where they are written.
    #[command(after_long_help = "Example:\n  sidegate get policies -o wide")]
    Policies(Read),
    /// Who talked to whom: TLS state, verdict, deciding policy and rule, rate and latency.
    #[command(
        after_long_help = "Examples:\n  sidegate get edges --window 5m\n  sidegate get edges -o jsonl >> edges.jsonl"
    )]
    Edges(EdgesArgs),
}

/// Arguments of `sidegate get edges`.
#[derive(clap::Args, Debug)]
pub(crate) struct EdgesArgs {
    /// The control plane's API; loopback only for now.
    #[arg(long, value_name = "URL", env = "SIDEGATE_API", default_value = "http://127.0.0.1:15180")]
    api: ApiUrl,
    /// The form of the answer.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
    output: EdgesForm,
    /// How far back to look, at most 1h.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = window)]
    window: std::time::Duration,
}

/// The form of edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EdgesForm {
    /// Columns for people.
    #[default]
    Table,
    /// More columns, full identities.
    Wide,
    /// Exactly one JSON document, `apiVersion: cli.sidegate.dev/v1`.
    Json,
    /// One JSON object per line and edge: to keep, and for `sidegate policy simulate | suggest | unused --edges`.
    Jsonl,
}

/// Reads and prints one listing.
pub(crate) fn run(what: &What) -> Result<Exit, Failure> {
    let now = OffsetDateTime::now_utc();
    match what {
        What::Proxies(read) => {
            let proxies: api::Proxies = fetch(read, "/v1/proxies")?;
            match read.output.output {
                Format::Table => table::print(&proxies_table(&proxies, now)),
                Format::Wide => table::print(&proxies_wide(&proxies, now)),
                Format::Json => table::print_json("Proxies", proxies),
            }
        }
        What::Policies(read) => {
            let policies: api::Policies = fetch(read, "/v1/policies")?;
            match read.output.output {
                Format::Table => table::print(&policies_table(&policies)),
                Format::Wide => table::print(&policies_wide(&policies)),
                Format::Json => table::print_json("Policies", policies),
            }
        }
        What::Edges(args) => {
            let edges: api::Edges =
                fetch_from(&args.api, &format!("/v1/edges?window={}s", args.window.as_secs()))?;
            match args.output {
                EdgesForm::Table => table::print(&edges_table(&edges)),
                EdgesForm::Wide => table::print(&edges_wide(&edges, now)),
                EdgesForm::Json => table::print_json("Edges", edges),
                EdgesForm::Jsonl => table::print(&edges_lines(&edges)),
            }
        }
    }
    .map(|()| Exit::Ok)
}

/// Every column that is known of each sidecar.
pub(crate) fn proxies_wide(proxies: &api::Proxies, now: OffsetDateTime) -> String {
    let header = [
        "IDENTITY",
        "INSTANCE",
        "STATE",
        "RELEASE",
        "VERSION",
        "CERTIFICATE",
        "SERIAL",
        "SINCE",
        "INBOUND",
        "CALLS",
        "ADDRESS",
    ];
    table::columns(
        header,
        proxies.proxies.iter().map(|proxy| {
            [
                proxy.identity.clone(),
                proxy.instance.clone(),
                state(proxy),
                proxy.release.clone(),
                version(proxy),
                certificate(proxy, now),
                or_dash(proxy.certificate.as_ref().map(|certificate| &certificate.serial)),
                short::ago(proxy.since, now),
                list(proxy.inbound.iter().map(|inbound| format!("{}>{}", inbound.address, inbound.port))),
                list(proxy.services.iter().cloned()),
                or_dash(proxy.address.as_ref()),
            ]
        }),
    )
}

/// The edges for a live or a printed table, the busiest first.
pub(crate) fn edges_table(edges: &api::Edges) -> String {
    let header = [
        "SRC",
        "DST",
        "PORT",
        "PROTO",
        "TLS",
        "RPS",
        "P50",
        "P99",
        "VERDICT",
        "CODE",
        "POLICY/RULE",
        "SEEN BY",
    ];
    table::columns(
        header,
        edges.edges.iter().map(|edge| {
            [
                short::identity(edge.source.as_deref()),
                short::identity(edge.destination.as_deref()),
                edge.port.to_string(),
                or_dash(edge.protocol.as_ref()),
                edge.tls.clone(),
                format!("{:.1}", edge.rps),
                short::millis(edge.p50_ms),
                short::millis(edge.p99_ms),
                edge.verdict.clone(),
                or_dash(edge.code.as_ref()),
                decided_by(edge),
                edge.direction.clone(),
            ]
        }),
    )
}

/// `shop/payments-callers/orders-charge`, or a dash when no policy decided.
pub(crate) fn decided_by(edge: &api::Edge) -> String {
    match (&edge.policy, &edge.rule) {
        (Some(policy), Some(rule)) => format!("{policy}/{rule}"),
        (Some(policy), None) => policy.clone(),
        (None, _) => "-".to_owned(),
    }
}

fn fetch<T: serde::de::DeserializeOwned>(read: &Read, path: &str) -> Result<T, Failure> {
    fetch_from(&read.api, path)
}

fn fetch_from<T: serde::de::DeserializeOwned>(api: &ApiUrl, path: &str) -> Result<T, Failure> {
    status::block_on(Client::new(api.clone()).get(path))?
}

/// One edge per line.
fn edges_lines(edges: &api::Edges) -> String {
    let line = |edge: &api::Edge| {
        serde_json::to_string(edge).expect("an edge has string keys and no failing serializers") + "\n"
    };
    edges.edges.iter().map(line).collect()
}

fn proxies_table(proxies: &api::Proxies, now: OffsetDateTime) -> String {
    table::columns(
        ["WORKLOAD", "STATE", "RELEASE", "VERSION", "CERTIFICATE", "SINCE", "INBOUND"],
        proxies.proxies.iter().map(|proxy| {
            [
                short::identity(Some(&proxy.identity)),
                state(proxy),
                proxy.release.clone(),
                version(proxy),
                certificate(proxy, now),
                short::ago(proxy.since, now),
                list(proxy.inbound.iter().map(|inbound| inbound.address.clone())),
            ]
        }),
    )
}

fn policies_table(policies: &api::Policies) -> String {
    table::columns(
        ["POLICY", "ACTION", "MODE", "SELECTS", "SOURCE"],
        policies.policies.iter().map(|policy| {
            [
                policy.name.clone(),
                policy.action.clone(),
                policy.mode.clone(),
                list(policy.selects.iter().cloned()),
                policy.source.clone(),
            ]
        }),
    )
}

fn policies_wide(policies: &api::Policies) -> String {
    table::columns(
        ["POLICY", "ACTION", "MODE", "SELECTS", "RULES", "SOURCE"],
        policies.policies.iter().map(|policy| {
            [
                policy.name.clone(),
                policy.action.clone(),
                policy.mode.clone(),
                list(policy.selects.iter().cloned()),
                list(policy.rules.iter().cloned()),
                policy.source.clone(),
            ]
        }),
    )
}

fn edges_wide(edges: &api::Edges, now: OffsetDateTime) -> String {
    let header = [
        "SOURCE",
        "DESTINATION",
        "PORT",
        "PROTO",
        "ROUTE",
        "TLS",
        "RPS",
        "P50",
        "P99",
        "VERDICT",
        "SHADOW",
        "CODE",
        "POLICY/RULE",
        "COUNT",
        "ERRORS",
        "RECEIVED",
        "SENT",
        "FIRST SEEN",
        "LAST SEEN",
        "SEEN BY",
    ];
    table::columns(
        header,
        edges.edges.iter().map(|edge| {
            [
                or_dash(edge.source.as_ref()),
                or_dash(edge.destination.as_ref()),
                edge.port.to_string(),
                or_dash(edge.protocol.as_ref()),
                or_dash(edge.route.as_ref()),
                edge.tls.clone(),
                format!("{:.1}", edge.rps),
                short::millis(edge.p50_ms),
                short::millis(edge.p99_ms),
                edge.verdict.clone(),
                or_dash(edge.shadow.as_ref()),
                or_dash(edge.code.as_ref()),
                decided_by(edge),
                edge.count.to_string(),
                edge.errors.to_string(),
                edge.bytes_received.to_string(),
                edge.bytes_sent.to_string(),
                short::ago(edge.first_seen, now),
                short::ago(edge.last_seen, now),
                edge.direction.clone(),
            ]
        }),
    )
}

fn state(proxy: &api::Proxy) -> String {
    match (&proxy.nack, proxy.connected) {
        (Some(nack), _) => format!("refused ({})", nack.code),
        (None, true) => "connected".to_owned(),
        (None, false) => "gone".to_owned(),
    }
}

/// What is in force, and what was sent when that is newer: `7` or `6 of 7`.
fn version(proxy: &api::Proxy) -> String {
    if proxy.acked == proxy.version {
        proxy.acked.to_string()
    } else {
        format!("{} of {}", proxy.acked, proxy.version)
    }
}

fn certificate(proxy: &api::Proxy, now: OffsetDateTime) -> String {
    or_dash(proxy.certificate.as_ref().map(|certificate| short::left(certificate.not_after, now)))
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "-".to_owned() } else { items.join(",") }
}

/// A window that the ledger can answer for.
pub(crate) fn window(text: &str) -> Result<std::time::Duration, String> {
    let window = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if window.as_secs() == 0 || window > MAX_WINDOW {
        return Err("the ledger holds one hour: between 1s and 1h".to_owned());
    }
    Ok(window)
}

/// What the control plane keeps in memory.
const MAX_WINDOW: std::time::Duration = std::time::Duration::from_hours(1);

#[cfg(test)]
mod tests;
