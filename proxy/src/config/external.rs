//! Who decides beside policy: where it is asked, how it proves itself, what it is shown and what it may change. Refuses
//! plaintext to anything but loopback, and header fields that are not for anybody to change.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http::HeaderName;
use rustls::pki_types::ServerName;
use schemars::JsonSchema;
use serde::Deserialize;
use sidegate_identity::SpiffeId;

use super::{Inbound, file::Faults, schema};
use crate::http::is_changeable;

/// Who decides beside policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAuthorization {
    /// Where it is, and how it proves itself.
    pub server: DecisionServer,
    /// The application's ports that it decides about. `None`: all.
    pub ports: Option<Vec<u16>>,
    /// From the question to the whole answer.
    pub timeout: Duration,
    /// Fields of the request that it is shown.
    pub send_headers: Vec<HeaderName>,
    /// Fields that it may set, and that come from nobody else.
    pub set_headers: Vec<HeaderName>,
    /// Fields that it may take off.
    pub remove_headers: Vec<HeaderName>,
    /// How long an answer may be.
    pub answer_bytes: usize,
    /// When it is not asked for a while.
    pub breaker: DecisionBreaker,
}

/// Where decisions are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecisionServer {
    /// On this host, in plaintext.
    Loopback(SocketAddr),
    /// On this host.
    Unix(PathBuf),
    /// Anywhere: it proves one of these identities, and sees that of this workload.
    Mesh {
        /// `host:port`.
        address: String,
        /// Never empty.
        identities: Vec<SpiffeId>,
    },
    /// Anywhere: it proves a name.
    Tls {
        /// `host:port`.
        address: String,
        /// PEM: the authorities that vouch for it.
        trust_bundle: PathBuf,
        /// What its certificate must be for.
        name: ServerName<'static>,
    },
}

/// When no decision is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionBreaker {
    /// After so many failures in a row.
    pub failures: u32,
    /// For so long; then one question tries.
    pub open_for: Duration,
}

/// Who decides beside policy, by the protocol of Envoy's external authorization (`envoy.service.auth.v3`, gRPC). It is asked when
/// policy has permitted, and can only narrow: without its OK in time, whatever the reason, the request is refused.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ExternalAuthorizationFile {
    /// Where it is: `host:port`, or `unix:` and the path of a socket. Plaintext goes to a loopback address or a socket alone;
    /// elsewhere `identities` or `tls` says how it proves itself.
    #[schemars(with = "schema::DecisionAddress")]
    address: String,
    /// Mutual TLS of the mesh: the server must prove one of these, and sees who asks.
    #[serde(default)]
    #[schemars(with = "Vec<schema::Id>")]
    identities: Vec<String>,
    /// TLS 1.3 to a server outside of the mesh.
    tls: Option<DecisionTlsFile>,
    /// The application's ports that it decides about. Absent: all.
    ports: Option<Vec<u16>>,
    /// From the question to the whole answer, at most a minute.
    #[schemars(with = "Option<schema::Time>", extend("default" = "500ms"))]
    timeout: Option<String>,
    /// Header fields of the request that it is shown. The body never is.
    #[serde(default)]
    send_headers: Vec<String>,
    /// Header fields that it may set on the way to the application. Whatever the caller sent under these names is removed.
    #[serde(default)]
    set_headers: Vec<String>,
    /// Header fields that it may take off of the request.
    #[serde(default)]
    remove_headers: Vec<String>,
    /// How long its answer may be, from 1,024 to 1,048,576.
    #[schemars(range(min = LEAST_ANSWER, max = MOST_ANSWER), extend("default" = ANSWER_BYTES))]
    answer_bytes: Option<usize>,
    /// When it is not asked for a while: requests are then refused at once.
    #[serde(default)]
    breaker: DecisionBreakerFile,
}

/// TLS 1.3 to a server outside of the mesh.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DecisionTlsFile {
    /// PEM: the authorities that vouch for it, read at each connection.
    #[schemars(with = "schema::File")]
    trust_bundle: PathBuf,
    /// What its certificate must be for. Absent: the host of `address`.
    server_name: Option<String>,
}

/// When whoever decides is not asked for a while. Each worker counts for itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DecisionBreakerFile {
    /// After so many questions in a row without an answer.
    #[schemars(range(min = 1), extend("default" = FAILURES))]
    failures: Option<u32>,
    /// For so long; then one question tries.
    #[schemars(with = "Option<schema::Time>", extend("default" = "5s"))]
    open_for: Option<String>,
}

impl ExternalAuthorization {
    /// Whether it decides about the application's `port`.
    pub(crate) fn decides_about(&self, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(&port))
    }
}

impl ExternalAuthorizationFile {
    pub(super) fn resolve(
        self,
        inbound: &[Inbound],
        faults: &mut Faults<'_>,
    ) -> Option<ExternalAuthorization> {
        let server = server(&self.address, self.identities, self.tls, faults);
        if let Some(ports) = &self.ports {
            check_ports(ports, inbound, faults);
        }
        let timeout = time("timeout", self.timeout, TIMEOUT, faults);
        let open_for = time("breaker.openFor", self.breaker.open_for, OPEN_FOR, faults);
        let failures = self.breaker.failures.unwrap_or(FAILURES);
        if failures == 0 {
            faults.push(&at("breaker.failures"), "0 would ask nobody ever");
        }
        let answer_bytes = self.answer_bytes.unwrap_or(ANSWER_BYTES);
        if !(LEAST_ANSWER..=MOST_ANSWER).contains(&answer_bytes) {
            faults.push(
                &at("answerBytes"),
                format!("{answer_bytes} is not between {LEAST_ANSWER} and {MOST_ANSWER}"),
            );
        }
        let send_headers = fields("sendHeaders", self.send_headers, faults);
        let set_headers = changeable("setHeaders", self.set_headers, faults);
        let remove_headers = changeable("removeHeaders", self.remove_headers, faults);
        Some(ExternalAuthorization {
            server: server?,
            ports: self.ports,
            timeout: timeout?,
            send_headers,
            set_headers,
            remove_headers,
            answer_bytes,
            breaker: DecisionBreaker { failures, open_for: open_for? },
        })
    }
}

fn server(
    address: &str,
    identities: Vec<String>,
    tls: Option<DecisionTlsFile>,
    faults: &mut Faults<'_>,
) -> Option<DecisionServer> {
    let is_proven = !identities.is_empty() || tls.is_some();
    if let Some(path) = address.strip_prefix("unix:") {
        if is_proven || path.is_empty() {
            faults.push(&at("address"), "a socket is `unix:` and its path, without `identities` and `tls`");
            return None;
        }
        return Some(DecisionServer::Unix(faults.file(Path::new(path))));
    }
    let Some(host) = host_of(address) else {
        faults.push(&at("address"), format!("{address:?} is neither host:port nor unix:path"));
        return None;
    };
    match (identities, tls) {
        (identities, None) if !identities.is_empty() => {
            let identities = faults.each(&at("identities"), identities, |text, field, faults| {
                faults.take(field, SpiffeId::parse(&text))
            });
            Some(DecisionServer::Mesh { address: address.to_owned(), identities })
        }
        (identities, Some(tls)) if identities.is_empty() => {
            let name = tls.server_name.unwrap_or_else(|| host.to_owned());
            let name = ServerName::try_from(name.clone())
                .map_err(|_| format!("{name:?} is neither a name nor an address"));
            Some(DecisionServer::Tls {
                address: address.to_owned(),
                trust_bundle: faults.file(&tls.trust_bundle),
                name: faults.take(&at("tls.serverName"), name)?,
            })
        }
        (_, None) => match address.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Some(DecisionServer::Loopback(address)),
            _ => {
                let message = format!(
                    "{address} is no loopback address: name `identities` or `tls`, since whoever is on the way could decide"
                );
                faults.push(&at("address"), message);
                None
            }
        },
        (_, Some(_)) => {
            faults.push(&at("tls"), "either `identities` or `tls`, and not both");
            None
        }
    }
}

/// The host of `host:port`, an IPv6 address without its brackets.
fn host_of(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
    (is_port && !host.is_empty()).then_some(host)
}

/// A port that nobody calls would be a decision that nobody asks for.
fn check_ports(ports: &[u16], inbound: &[Inbound], faults: &mut Faults<'_>) {
    if ports.is_empty() {
        faults.push(&at("ports"), "is empty; leave it out if all ports are meant");
    }
    for port in ports {
        if !inbound.iter().any(|inbound| inbound.forward.port() == *port) {
            faults.push(&at("ports"), format!("{port} is no port that `inbound` forwards to"));
        }
    }
}

fn time(field: &str, text: Option<String>, default: Duration, faults: &mut Faults<'_>) -> Option<Duration> {
    let Some(text) = text else { return Some(default) };
    let time = faults.take(&at(field), super::duration(&text))?;
    let is_allowed = !time.is_zero() && time <= LONGEST;
    if !is_allowed {
        faults.push(&at(field), format!("{text:?} is not between 1ns and 1m"));
    }
    is_allowed.then_some(time)
}

fn fields(field: &str, names: Vec<String>, faults: &mut Faults<'_>) -> Vec<HeaderName> {
    faults.each(&at(field), names, |name, field, faults| faults.parse::<HeaderName>(field, &name))
}

fn changeable(field: &str, names: Vec<String>, faults: &mut Faults<'_>) -> Vec<HeaderName> {
    let names = fields(field, names, faults);
    for name in &names {
        if !is_changeable(name.as_str()) {
            let message = format!(
                "{name} frames or addresses the message, or speaks of the caller: it is nobody's to change"
            );
            faults.push(&at(field), message);
        }
    }
    names
}

fn at(field: &str) -> String {
    format!("externalAuthorization.{field}")
}

const TIMEOUT: Duration = Duration::from_millis(500);
const OPEN_FOR: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_mins(1);
const FAILURES: u32 = 5;
const ANSWER_BYTES: usize = 65_536;
const LEAST_ANSWER: usize = 1_024;
const MOST_ANSWER: usize = 1_048_576;

#[cfg(test)]
mod tests;
