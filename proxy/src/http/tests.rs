//! The table "How a refusal is told" of `docs/data-path.md` and the code say the same of every error there is.

use std::{collections::BTreeSet, sync::Arc};

use http::StatusCode;

use super::{refusal::grpc_status, *};
use crate::{authorize::Denial, error::Breaker, families};

/// Samples of each variant, such that every answer that it can get is among them. A variant without a line does not compile.
macro_rules! samples {
    ($($variant:ident: $($sample:expr),+;)+) => {
        fn name(error: &Error) -> &'static str {
            match error {
                $(Error::$variant { .. } => stringify!($variant),)+
            }
        }

        fn samples() -> Vec<Error> {
            vec![$($($sample),+),+]
        }
    };
}

samples! {
    Denied:
        denied(Code::NoRuleMatched),
        denied(Code::CutByPolicy),
        denied(Code::OpaqueOnHttpPort),
        denied(Code::TokenRefused),
        denied(Code::TokenKeysUnknown);
    Plaintext: Error::Plaintext { first: b'G' };
    Handshake: Error::Handshake { code: Code::HandshakeFailed, reason: "reason", detail: String::new() };
    HandshakeTimeout: Error::HandshakeTimeout;
    NoCredentials: Error::NoCredentials;
    PeerEnded: Error::PeerEnded(String::new());
    DetectTimeout: Error::DetectTimeout;
    ProtocolMismatch: Error::ProtocolMismatch { declared: "http", seen: "tcp" };
    NotCaptured: Error::NotCaptured(String::new());
    UndeclaredPort: Error::UndeclaredPort(1);
    UnknownDestination: Error::UnknownDestination(([192, 0, 2, 1], 1).into());
    Expired:
        expired(Code::HeadTimeout),
        expired(Code::BodyTooSlow),
        expired(Code::WriteStalled),
        expired(Code::IdleTimeout),
        expired(Code::TooOld);
    Overloaded: Error::Overloaded;
    BadRequest:
        Error::bad_request(Code::BadPath, ""),
        Error::bad_request(Code::BadAuthority, ""),
        Error::bad_request(Code::BadFraming, ""),
        Error::bad_request(Code::BadHeader, ""),
        Error::bad_request(Code::HeadersTooLarge, ""),
        Error::bad_request(Code::UnsupportedRequest, ""),
        Error::bad_request(Code::UnknownExpectation, ""),
        Error::bad_request(Code::Http2Flood, ""),
        Error::bad_request(Code::StreamRefused, "");
    TooManyConnections: Error::TooManyConnections { limit: "limits.connections" };
    TooManyRequests: Error::TooManyRequests;
    UnknownService: Error::UnknownService(String::new());
    UnknownHost: Error::UnknownHost(String::new());
    Nameless: Error::Nameless;
    BadHello: Error::BadHello(crate::detect::client_hello::BadHello::NotTls);
    NoEndpoints: Error::NoEndpoints(String::new());
    AllEjected: Error::AllEjected(String::new());
    BreakerOpen:
        breaker(Breaker::Requests),
        breaker(Breaker::Pending),
        breaker(Breaker::Connections),
        breaker(Breaker::EndpointRequests),
        breaker(Breaker::EndpointConnections);
    ConnectTimeout: Error::ConnectTimeout(String::new());
    RetryBudget: Error::RetryBudget(Box::new(upstream(Code::UpstreamFailed)));
    NoRoute: Error::NoRoute(String::new());
    NoBackend: Error::NoBackend { rule: Arc::from("r"), detail: String::new() };
    FaultInjected: Error::FaultInjected { rule: Arc::from("r"), status: StatusCode::SERVICE_UNAVAILABLE };
    RateLimited: Error::RateLimited { detail: String::new(), wait: Duration::ZERO };
    RateCallers: Error::RateCallers { detail: String::new() };
    Upstream:
        upstream(Code::UpstreamUnreachable),
        upstream(Code::UpstreamFailed),
        upstream(Code::UpstreamTimeout),
        upstream(Code::RouteTimeout),
        upstream(Code::NameNotResolved),
        upstream(Code::UnexpectedServerIdentity);
    Draining: Error::Draining;
    Downstream: Error::Downstream(String::new());
}

fn denied(code: Code) -> Error {
    let (policy, rule) = (Some(Arc::from("shop/p")), Some(Arc::from("r")));
    Error::Denied(Box::new(Denial { code, policy, rule, shadow: None, nearest: None, status: None }))
}

fn expired(code: Code) -> Error {
    Error::Expired { code, detail: String::new() }
}

fn breaker(breaker: Breaker) -> Error {
    Error::BreakerOpen { service: String::new(), breaker }
}

fn upstream(code: Code) -> Error {
    Error::Upstream { code, detail: String::new() }
}

/// The cells of the table's rows.
fn rows() -> Vec<Vec<String>> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/data-path.md")).unwrap();
    let table = page.split("| cause (`error.rs`) |").nth(1).unwrap().split("\n\n").next().unwrap();
    let rows = table
        .lines()
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    rows.collect()
}

/// Whether a cell such as `` `SG0201`–`SG0206`, `SG0208` `` names the code.
fn names(cell: &str, code: Code) -> bool {
    cell.split(|char: char| !(char.is_ascii_alphanumeric() || char == '–' || char == '`')).any(|word| {
        let ends: Vec<&str> = word.split('–').map(|end| end.trim_matches('`')).collect();
        match ends[..] {
            [from, to] => (from..=to).contains(&code.id()),
            [one] => one == code.id(),
            _ => false,
        }
    })
}

#[test]
fn every_error_is_in_the_table_with_its_status_and_code() {
    let rows = rows();
    for error in samples() {
        let (name, code) = (name(&error), error.code());
        let status = format!("{} {}", error.status().as_u16(), error.public());
        let grpc = grpc_status(error.status()).to_string();
        let is_told = |row: &&Vec<String>| {
            // What ends a connection is answered by nobody.
            let is_answered = row[1].split(", closed").next() == Some(&status) && row[2] == grpc;
            let is_closed = matches!(row[1].as_str(), "closed" | "closed, RST_STREAM" | "TLS alert" | "")
                && row[2].is_empty();
            let is_answered = is_answered || row[1].starts_with("as the ");
            row[0].contains(&format!("`{name}`")) && names(&row[3], code) && (is_answered || is_closed)
        };
        assert!(
            rows.iter().any(|row| is_told(&row)),
            "docs/data-path.md has no row for {name}: {status}, gRPC {grpc}, {code}"
        );
    }
}

#[test]
fn the_table_knows_no_error_and_no_metric_that_is_none() {
    let known: BTreeSet<&str> = samples().iter().map(name).collect();
    for row in rows() {
        for cause in row[0].split('`').skip(1).step_by(2) {
            assert!(known.contains(cause), "{cause} is no variant of Error");
        }
        for word in row[3].split('`').filter(|word| word.starts_with("SG")) {
            assert!(word.parse::<Code>().is_ok(), "{word} is no code");
        }
        // As `Record::failed` has it.
        let verdict = if row[0].contains("`Denied`") { "`denied`" } else { "`failed`" };
        assert_eq!(row[4], verdict, "{}", row[0]);
        for metric in row[5].split('`').filter(|word| word.starts_with("sidegate_")) {
            let name = metric.split('{').next();
            assert!(families::ALL.iter().any(|family| Some(family.name) == name), "{metric} is no metric");
        }
    }
}

/// Each request in flight holds this much, and it is moved once: doubled arguments of an `async fn` would be seen here.
#[test]
fn a_request_in_flight_takes_less_than_twelve_kilobytes() {
    fn never<T>() -> T {
        unreachable!("only its type is of interest")
    }
    fn size<F: Future>(_: impl FnOnce() -> F) -> usize {
        size_of::<F>()
    }
    let inbound =
        size(|| answer::<crate::inbound::Connection>(never(), never(), never(), never(), never(), never()));
    let outbound =
        size(|| answer::<crate::outbound::Connection>(never(), never(), never(), never(), never(), never()));
    assert!(inbound < 12 * 1024 && outbound < 12 * 1024, "{inbound} inbound, {outbound} outbound");
}
