//! Why a connection or a request ended without its answer: one enum for the data path. Each variant knows its code,
//! the HTTP status that the downstream sees, and whether policy or something else refused.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use sidegate_codes::Code;

use crate::{authorize::Denial, detect::client_hello::BadHello};

/// Why a connection or a request ended. The downstream learns the status and a request id, never the detail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A policy decided so.
    #[error("{0}")]
    Denied(Box<Denial>),
    /// The peer spoke something other than TLS to a port that takes only mutual TLS from it. The peer's fault, or a probe.
    #[error("the first byte is {first:#04x}, not a TLS handshake, and no PlaintextException is for it")]
    Plaintext {
        /// The byte that was seen.
        first: u8,
    },
    /// The handshake failed; which side is at fault follows from the code.
    #[error("{detail}")]
    Handshake {
        /// One of the `SG03xx`.
        code: Code,
        /// A word of a closed set, for the metric.
        reason: &'static str,
        /// For the log.
        detail: String,
    },
    /// The handshake did not end in time. The peer's fault, or the network's.
    #[error("no complete handshake in time")]
    HandshakeTimeout,
    /// This sidecar was never issued a certificate, or it has expired.
    #[error("this sidecar has no valid certificate")]
    NoCredentials,
    /// The peer's certificate expired, or its authority was removed, while the connection was open.
    #[error("{0}")]
    PeerEnded(String),
    /// No bytes to detect a protocol from. The downstream's fault.
    #[error("no bytes to detect a protocol from in time")]
    DetectTimeout,
    /// The port is declared as one protocol and the connection carried another. The downstream's fault.
    #[error("the port carries {declared}, the connection {seen}")]
    ProtocolMismatch {
        /// As configured.
        declared: &'static str,
        /// As detected or negotiated.
        seen: &'static str,
    },
    /// The listener takes only what the kernel redirected to it. The downstream's fault, or an attack.
    #[error("{0}")]
    NotCaptured(String),
    /// The peer called a port of this host that the listener does not declare.
    #[error("port {0} is not declared")]
    UndeclaredPort(u16),
    /// The request is ambiguous or over a limit. The downstream's fault.
    #[error("{detail}")]
    BadRequest {
        /// One of the `SG061x`, or `SG0625`.
        code: Code,
        /// Which rule it broke, with the value seen.
        detail: String,
    },
    /// The downstream held its connection for too long, or without making progress.
    #[error("{detail}")]
    Expired {
        /// One of `SG0650` to `SG0654`.
        code: Code,
        /// Which limit it was.
        detail: String,
    },
    /// A connection limit is reached.
    #[error("{limit} reached")]
    TooManyConnections {
        /// The limit's name.
        limit: &'static str,
    },
    /// The request limit is reached.
    #[error("limits.requests reached")]
    TooManyRequests,
    /// This process holds more memory than it may.
    #[error("limits.memory reached")]
    Overloaded,
    /// The service is not known, or the control plane has not told of it yet.
    #[error("service {0} is unknown")]
    UnknownService(String),
    /// No service of the port has this host. The downstream's fault, or the configuration's.
    #[error("no service of this port has the host {0}")]
    UnknownHost(String),
    /// TLS of the application's own whose server name cannot be read. The downstream's fault.
    #[error("{0}")]
    BadHello(BadHello),
    /// Bytes that name no host, on a port of several services. The configuration's fault.
    #[error("the bytes name no host, and not exactly one service of this port is declared tcp")]
    Nameless,
    /// The application called an address that is no service's, and that nothing lets through.
    #[error("{0} belongs to no known service")]
    UnknownDestination(std::net::SocketAddr),
    /// The service has no endpoints.
    #[error("service {0} has no endpoints")]
    NoEndpoints(String),
    /// Every endpoint of the service is ejected for its failures.
    #[error("every endpoint of service {0} is ejected")]
    AllEjected(String),
    /// As much is open or on its way as the service's breakers admit.
    #[error("service {service}: breakers.{} reached", breaker.as_str())]
    BreakerOpen {
        /// The service's name.
        service: String,
        /// Which bound.
        breaker: Breaker,
    },
    /// No connection to the upstream came about in time; nothing was sent.
    #[error("{0}: no connection in time")]
    ConnectTimeout(String),
    /// The request could have been tried again, and the service's budget for that is spent.
    #[error("{0}; the retry budget is spent")]
    RetryBudget(Box<Error>),
    /// The service has routes, and none is for this request. The downstream's fault, or the configuration's.
    #[error("no route of {0} matches")]
    NoRoute(String),
    /// The backend of a rule is not known, or there is none to choose. The configuration's fault.
    #[error("rule {rule}: {detail}")]
    NoBackend {
        /// Which rule.
        rule: Arc<str>,
        /// For the log.
        detail: String,
    },
    /// A rule lets some requests fail on purpose, and this is one of them.
    #[error("rule {rule} lets requests fail on purpose")]
    FaultInjected {
        /// Which rule.
        rule: Arc<str>,
        /// As the rule says.
        status: StatusCode,
    },
    /// As many requests as a rate limit admits have come. The caller's fault, or the limit's.
    #[error("rate limit {detail}")]
    RateLimited {
        /// Which limit it was.
        detail: String,
        /// When there is room for another request.
        wait: Duration,
    },
    /// A rate limit tells no more callers apart.
    #[error("rate limit {detail}")]
    RateCallers {
        /// Which limit it was.
        detail: String,
    },
    /// The upstream could not be reached, was not who it should be, or broke while answering.
    #[error("{detail}")]
    Upstream {
        /// `SG0601`, `SG0602`, `SG0617`, or one of the `SG03xx`.
        code: Code,
        /// For the log.
        detail: String,
    },
    /// The sidecar is shutting down.
    #[error("the sidecar is shutting down")]
    Draining,
    /// The downstream closed, reset or broke the protocol.
    #[error("{0}")]
    Downstream(String),
}

/// A bound on what is open to a service or to one endpoint of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Breaker {
    Requests,
    Pending,
    Connections,
    EndpointRequests,
    EndpointConnections,
}

impl Breaker {
    /// Its field in the configuration, and its name in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Pending => "pending",
            Self::Connections => "connections",
            Self::EndpointRequests => "endpointRequests",
            Self::EndpointConnections => "endpointConnections",
        }
    }

    /// Whether another endpoint may be free.
    pub(crate) const fn is_of_endpoint(self) -> bool {
        matches!(self, Self::EndpointRequests | Self::EndpointConnections)
    }

    const fn code(self) -> Code {
        match self {
            Self::Requests | Self::EndpointRequests => Code::BreakerRequests,
            Self::Pending => Code::BreakerPending,
            Self::Connections | Self::EndpointConnections => Code::BreakerConnections,
        }
    }
}

impl Error {
    /// The stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Denied(denial) => denial.code,
            Self::Plaintext { .. } => Code::PlaintextRefused,
            Self::Handshake { code, .. }
            | Self::BadRequest { code, .. }
            | Self::Upstream { code, .. }
            | Self::Expired { code, .. } => *code,
            Self::HandshakeTimeout => Code::HandshakeTimeout,
            Self::NoCredentials => Code::NoCredentials,
            Self::PeerEnded(_) => Code::PeerCertificateEnded,
            Self::DetectTimeout => Code::DetectTimeout,
            Self::ProtocolMismatch { .. } => Code::ProtocolMismatch,
            Self::NotCaptured(_) => Code::NotCaptured,
            Self::UndeclaredPort(_) => Code::UndeclaredPort,
            Self::TooManyConnections { .. } => Code::TooManyConnections,
            Self::TooManyRequests => Code::TooManyRequests,
            Self::Overloaded => Code::Overloaded,
            Self::UnknownService(_) => Code::UnknownService,
            Self::UnknownHost(_) => Code::UnknownHost,
            Self::BadHello(_) => Code::BadHello,
            Self::Nameless => Code::Nameless,
            Self::UnknownDestination(_) => Code::UnknownDestination,
            Self::NoEndpoints(_) => Code::NoEndpoints,
            Self::AllEjected(_) => Code::AllEjected,
            Self::BreakerOpen { breaker, .. } => breaker.code(),
            Self::ConnectTimeout(_) => Code::ConnectTimeout,
            Self::RetryBudget(_) => Code::RetryBudgetSpent,
            Self::NoRoute(_) => Code::NoRoute,
            Self::NoBackend { .. } => Code::NoBackend,
            Self::FaultInjected { .. } => Code::FaultInjected,
            Self::RateLimited { .. } => Code::RateLimited,
            Self::RateCallers { .. } => Code::RateCallers,
            Self::Draining => Code::Draining,
            Self::Downstream(_) => Code::DownstreamFailed,
        }
    }

    /// What an HTTP downstream is answered.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Denied(denial) => denial.status(),
            Self::UnknownHost(_) | Self::NoRoute(_) => StatusCode::NOT_FOUND,
            Self::BadRequest { code: Code::HeadersTooLarge, .. } => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::BadRequest { code: Code::UnsupportedRequest, .. } => StatusCode::NOT_IMPLEMENTED,
            Self::BadRequest { code: Code::UnknownExpectation, .. } => StatusCode::EXPECTATION_FAILED,
            Self::Expired { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::BadRequest { .. } | Self::Downstream(_) | Self::Plaintext { .. } => StatusCode::BAD_REQUEST,
            Self::TooManyConnections { .. }
            | Self::TooManyRequests
            | Self::Overloaded
            | Self::NoEndpoints(_)
            | Self::AllEjected(_)
            | Self::BreakerOpen { .. }
            | Self::ConnectTimeout(_)
            | Self::NoCredentials
            | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            // The caller learns what the last try ended with.
            Self::RetryBudget(last) => last.status(),
            Self::NoBackend { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Self::FaultInjected { status, .. } => *status,
            Self::RateLimited { .. } | Self::RateCallers { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Upstream { code: Code::UpstreamTimeout | Code::RouteTimeout, .. } => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Upstream { .. }
            | Self::UnknownService(_)
            | Self::BadHello(_)
            | Self::Nameless
            | Self::UnknownDestination(_)
            | Self::Handshake { .. }
            | Self::HandshakeTimeout
            | Self::PeerEnded(_)
            | Self::DetectTimeout
            | Self::NotCaptured(_)
            | Self::UndeclaredPort(_)
            | Self::ProtocolMismatch { .. } => StatusCode::BAD_GATEWAY,
        }
    }

    /// The one word that a refused downstream reads; everything else is in the log under the request id.
    pub(crate) fn public(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::UnknownHost(_) => "unknown host",
            Self::BadRequest { .. } | Self::Expired { .. } | Self::Downstream(_) | Self::Plaintext { .. } => {
                "bad request"
            }
            Self::NoRoute(_) => "not found",
            Self::FaultInjected { .. } => "fault",
            Self::RateLimited { .. } | Self::RateCallers { .. } => "too many requests",
            _ => "unavailable",
        }
    }

    /// When it may be asked again, in seconds: RFC 9110 §10.2.3.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            // Told too early, it would be refused again.
            Self::RateLimited { wait, .. } => {
                Some(wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1))
            }
            Self::RateCallers { .. } => Some(1),
            _ => None,
        }
    }

    /// `limit` is over.
    pub(crate) fn expired(code: Code, limit: &str) -> Self {
        Self::Expired { code, detail: format!("{limit} is over") }
    }

    /// A request that breaks a rule of the `SG061x`.
    pub(crate) fn bad_request(code: Code, detail: impl Into<String>) -> Self {
        Self::BadRequest { code, detail: detail.into() }
    }
}
