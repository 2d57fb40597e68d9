//! Who cannot prove an identity is refused, and so is a server that is not who was called: no certificate, a
//! foreign CA, plaintext on the mTLS port, an endpoint of another service.

use std::{net::SocketAddr, time::Duration};

use http::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Performers, Stage, Trial};
use crate::{
    demo::{
        cast::{CUSTOMER, ORDERS, PAYMENTS, VAULT},
        evidence::{self, Log, Metrics},
        feeds::Feed,
        parts::{
            service::CALLER,
            stranger::{STRANGER, StrangerReport},
        },
        stage::sidecar,
    },
    http1::Connection,
};

/// Every stranger, one trial each.
pub(super) async fn try_all(stage: &Stage, performers: &Performers) -> Vec<Trial> {
    vec![
        stranger(stage, "no-certificate", &performers.anonymous, "SG0301").await,
        stranger(stage, "foreign-authority", &performers.foreign, "SG0302").await,
        plaintext(stage).await,
        wrong_server(stage).await,
    ]
}

async fn stranger(stage: &Stage, name: &str, feed: &Feed<StrangerReport>, code: &str) -> Trial {
    let mut trial =
        Trial::new(name, "every handshake refused, no byte answered, the code in the log, and counted");
    let report = feed.until(ATTEMPTS_TIMEOUT, |report| report.attempts >= ATTEMPTS).await;
    let report = report.unwrap_or_else(|| feed.latest());
    trial.measure("attempts", report.attempts);
    trial.measure("refused", report.refused);
    trial.measure("seenByTheClient", report.latest.clone());
    trial.require(
        report.attempts >= ATTEMPTS && report.refused == report.attempts,
        format!("{} of {} attempts were not refused", report.attempts - report.refused, report.attempts),
    );
    untouched(&mut trial, stage, PAYMENTS, STRANGER).await;
    coded(&mut trial, stage, PAYMENTS, code, (HANDSHAKES, &[("direction", "inbound"), ("code", code)])).await;
    trial
}

async fn plaintext(stage: &Stage) -> Trial {
    let mut trial =
        Trial::new("plaintext", "closed without a byte of an HTTP answer, the code in the log, and counted");
    let inbound = stage.cast.served(PAYMENTS).inbound;
    let mut answered = 0;
    for _ in 0..ATTEMPTS {
        answered += u64::from(plaintext_is_answered(inbound).await);
    }
    trial.measure("attempts", ATTEMPTS);
    trial.measure("refused", ATTEMPTS - answered);
    trial.require(answered == 0, format!("{answered} plaintext requests were answered or left hanging"));
    untouched(&mut trial, stage, PAYMENTS, STRANGER).await;
    coded(
        &mut trial,
        stage,
        PAYMENTS,
        "SG0101",
        (CONNECTIONS, &[("direction", "inbound"), ("tls", "plaintext")]),
    )
    .await;
    trial
}

/// Whether the sidecar answers, or does not close. A TLS alert is no answer.
async fn plaintext_is_answered(inbound: SocketAddr) -> bool {
    let exchange = async {
        let mut stream = TcpStream::connect(inbound).await?;
        let request = format!(
            "POST /charge HTTP/1.1\r\nhost: payments\r\n{CALLER}: {STRANGER}\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // A reset instead of an end is as good a refusal.
        let _ = stream.take(64).read_to_end(&mut answer).await;
        Ok::<_, std::io::Error>(answer.starts_with(b"HTTP/"))
    };
    match timeout(ANSWER_TIMEOUT, exchange).await {
        Ok(Ok(answered)) => answered,
        // Closed before the request was written.
        Ok(Err(_)) => false,
        Err(_) => true,
    }
}

/// `vault`'s endpoint is the sidecar of `orders`: a valid identity of the mesh, and not the one that was called.
async fn wrong_server(stage: &Stage) -> Trial {
    let mut trial = Trial::new(
        "wrong-server-identity",
        "the caller's sidecar refuses the server and answers 502; nothing is sent to it; the code in the log, and counted",
    );
    if let Some(refused) = trial.attempt("the customer could not call vault", call_vault(stage).await) {
        trial.measure("attempts", ATTEMPTS);
        trial.measure("answered502", refused);
        trial.require(refused == ATTEMPTS, format!("{} calls were not answered 502", ATTEMPTS - refused));
    }
    untouched(&mut trial, stage, ORDERS, VAULT).await;
    coded(
        &mut trial,
        stage,
        CUSTOMER,
        "SG0305",
        (REQUESTS, &[("direction", "outbound"), ("code_class", "5xx"), ("verdict", "failed")]),
    )
    .await;
    trial
}

/// How many calls were answered 502.
async fn call_vault(stage: &Stage) -> Result<u64, crate::http1::Error> {
    let mut refused = 0;
    for _ in 0..ATTEMPTS {
        let mut connection = Connection::open(stage.cast.outbound(CUSTOMER, VAULT), VAULT).await?;
        let answer = connection.send(Method::GET, "/secret", &[(CALLER, VAULT)]).await?;
        refused += u64::from(answer.status == StatusCode::BAD_GATEWAY);
    }
    Ok(refused)
}

/// The application never saw a request with this mark.
async fn untouched(trial: &mut Trial, stage: &Stage, service: &str, marker: &str) {
    let counters = evidence::counters(stage.cast.served(service).counter).await;
    trial.require(counters.is_some(), "the application's counters cannot be read");
    let seen: u64 = counters
        .unwrap_or_default()
        .iter()
        .filter(|(key, _)| key.ends_with(&format!(" {marker}")))
        .map(|(_, count)| count)
        .sum();
    trial.measure("seenByTheApplication", seen);
    trial.require(seen == 0, format!("the application of {service} saw {seen} requests"));
}

/// The sidecar that refused says so under `code` in its log, and counts it in a metric with these labels.
async fn coded(trial: &mut Trial, stage: &Stage, refuser: &str, code: &str, counter: Counter<'_>) {
    let log = Log::from_start(&stage.folder.logs(), &sidecar(refuser));
    let logged = log.find(|line| line.is("code", code)).await.is_some();
    trial.measure("code", code);
    trial.measure("logged", logged);
    trial.require(logged, format!("{code} is not in the log of {refuser}'s sidecar"));
    let (name, labels) = counter;
    let count = Metrics::of(stage.cast.workload(refuser).admin).await.sum(name, labels);
    trial.measure("metric", count);
    trial.require(
        count >= LEAST_COUNTED,
        format!("{name} of {refuser}'s sidecar does not count each of them"),
    );
}

/// A metric's name and the labels that its samples must carry.
type Counter<'a> = (&'static str, &'a [(&'static str, &'a str)]);

const HANDSHAKES: &str = "sidegate_tls_handshake_failures_total";
const CONNECTIONS: &str = "sidegate_connections_total";
const REQUESTS: &str = "sidegate_requests_total";
const ATTEMPTS: u64 = 3;
/// Each attempt leaves one count.
const LEAST_COUNTED: f64 = 3.0;
const ATTEMPTS_TIMEOUT: Duration = Duration::from_secs(6);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
