//! Whoever decides beside policy, by Envoy's protocol: takes what policy has permitted, asks, and hands on what the answer
//! changes in the request, or an [`Objection`]. No answer, a late, broken or oversized one, and one that asks for what it may
//! not have, are objections.

mod answer;
mod breaker;
mod connection;
mod question;

use std::{cell::RefCell, fmt, rc::Rc, sync::Arc};

use http::StatusCode;
use sidegate_codes::Code;
use sidegate_proto::external_authorization::{CheckRequest, CheckResponse};
use tokio::time::{Instant, timeout};
use tonic::Request;

pub(crate) use answer::{Changes, take_off};
pub(crate) use question::Question;

use crate::{
    config::ExternalAuthorization,
    snapshot::{PeerTls, Snapshot},
    telemetry::Metrics,
};
use breaker::Breaker;
use connection::Connection;

/// Who decides, and how to reach it.
#[derive(Debug)]
pub(crate) struct External {
    pub(crate) config: Arc<ExternalAuthorization>,
    /// To a server of the mesh; `None` while this sidecar has no certificate, and for other servers.
    pub(crate) tls: Option<PeerTls>,
}

/// One worker's end of it.
#[derive(Debug, Default)]
pub(crate) struct Client {
    session: RefCell<Option<Rc<Session>>>,
}

/// What a worker knows of a server, for as long as it is reached in the same way.
#[derive(Debug)]
struct Session {
    external: Arc<External>,
    breaker: Breaker,
    /// Held while one is made, which the deadline of whoever makes it bounds.
    connection: tokio::sync::Mutex<Option<Connection>>,
}

/// Why something is not admitted though policy would.
#[derive(Debug)]
pub(crate) struct Objection {
    pub(crate) outcome: Outcome,
    /// For the log.
    pub(crate) detail: String,
    /// What the downstream is answered instead of 403, if the server says so.
    pub(crate) status: Option<StatusCode>,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Allowed,
    Denied,
    /// The answer is not one that this sidecar follows.
    BadAnswer,
    /// The request cannot be shown as the protocol has it.
    BadQuestion,
    Timeout,
    Failed,
    /// The server did not answer of late, and was not asked.
    BreakerOpen,
}

impl External {
    /// Whether both ask the same server the same things.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.config == other.config
    }

    fn is_reached_as(&self, other: &Self) -> bool {
        self.is_same(other) && self.tls == other.tls
    }
}

impl Client {
    /// Asks; what is counted is the outcome of this one question.
    pub(crate) async fn ask(
        &self,
        external: &Arc<External>,
        question: Result<Question, Objection>,
        snapshot: &Snapshot,
        metrics: &Metrics,
    ) -> Result<Changes, Objection> {
        let decided = match question {
            Ok(question) => self.session(external).ask(question, snapshot).await,
            Err(objection) => Err(objection),
        };
        let outcome = decided.as_ref().map_or_else(|objection| objection.outcome, |_| Outcome::Allowed);
        metrics.external_decisions.add(outcome.as_str());
        decided
    }

    fn session(&self, external: &Arc<External>) -> Rc<Session> {
        let mut session = self.session.borrow_mut();
        match &*session {
            Some(session) if session.external.is_reached_as(external) => Rc::clone(session),
            _ => Rc::clone(session.insert(Rc::new(Session {
                external: Arc::clone(external),
                breaker: Breaker::new(external.config.breaker.clone()),
                connection: tokio::sync::Mutex::default(),
            }))),
        }
    }
}

impl Session {
    async fn ask(&self, question: Question, snapshot: &Snapshot) -> Result<Changes, Objection> {
        let config = &self.external.config;
        let attempt = self.breaker.attempt(Instant::now()).ok_or_else(|| Objection {
            outcome: Outcome::BreakerOpen,
            detail: format!(
                "{} questions in a row had no answer; it is not asked for now",
                config.breaker.failures
            ),
            status: None,
        })?;
        let (is_http, request) = question.into_parts();
        let answered = timeout(config.timeout, self.check(request, snapshot)).await.unwrap_or_else(|_| {
            // It may be the connection that is silent. Whoever else waits on it keeps it.
            if let Ok(mut place) = self.connection.try_lock() {
                place.take();
            }
            Err(Objection::new(Outcome::Timeout, "timeout is over"))
        });
        attempt.ended(answered.is_ok(), Instant::now());
        Changes::of(answered?, config, is_http)
    }

    async fn check(&self, question: CheckRequest, snapshot: &Snapshot) -> Result<CheckResponse, Objection> {
        let failed = |detail: String| Objection::new(Outcome::Failed, detail);
        let config = &self.external.config;
        let mut place = self.connection.lock().await;
        let connection = match place.take().filter(Connection::is_usable) {
            Some(connection) => connection,
            None => Connection::open(&self.external, snapshot).await.map_err(failed)?,
        };
        let mut client = connection.client(config.answer_bytes);
        *place = Some(connection);
        drop(place);
        match client.check(Request::new(question)).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => {
                // It may be the connection's fault, and another one costs little.
                self.connection.lock().await.take();
                Err(failed(format!("{}: {}", status.code(), shortened(status.message()))))
            }
        }
    }
}

impl Objection {
    pub(crate) fn new(outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { outcome, detail: detail.into(), status: None }
    }

    /// The server that decides now has not been asked about this.
    pub(crate) fn unasked() -> Self {
        Self::new(Outcome::Failed, "it was changed and has not decided about this")
    }

    pub(crate) fn code(&self) -> Code {
        match self.outcome {
            Outcome::Allowed | Outcome::Denied => Code::ExternalDenied,
            Outcome::BadAnswer | Outcome::BadQuestion => Code::ExternalUnusable,
            Outcome::Timeout | Outcome::Failed | Outcome::BreakerOpen => Code::ExternalUnavailable,
        }
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "externalAuthorization: {}", self.detail)
    }
}

impl Outcome {
    /// Its name in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::BadAnswer => "bad_answer",
            Self::BadQuestion => "bad_question",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
            Self::BreakerOpen => "breaker_open",
        }
    }
}

/// What another program says, as far as a line of the log has room for it.
fn shortened(text: &str) -> String {
    text.chars().take(MOST_WORDS).collect()
}

const MOST_WORDS: usize = 200;
