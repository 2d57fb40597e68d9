//! The record of one request or opaque connection: begun when it starts, filled in as it passes the stages, written
//! once when it is dropped. A future that is cancelled, or a connection that breaks, is recorded all the same.

use std::{
    cell::{Cell, OnceCell},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Instant, SystemTime},
};

use http::StatusCode;
use sidegate_codes::Code;
use sidegate_identity::SpiffeId;

use super::{
    AccessLog, Carried, Direction, EdgeShard, Ends, Judgement, TlsState, Verdict,
    access_log::Line,
    edges::{Key, Observation},
};
use crate::{
    accept::Place,
    authorize::{Admission, OpenPlace},
    balance::Picked,
    drain::DrainWatch,
    egress::Leave,
    error::Error,
    http::Flow,
    upstream,
    worker::RequestSlot,
};

/// What all requests of one connection share.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) direction: Direction,
    /// The address of whoever connected to this sidecar.
    pub(crate) downstream: SocketAddr,
    /// What policies mean by a port: the application's inbound, the listener's outbound.
    pub(crate) port: u16,
    pub(crate) ends: Ends,
    pub(crate) tls: TlsState,
    pub(crate) edges: Arc<EdgeShard>,
    pub(crate) access_log: AccessLog,
    /// The connection's place under the limits, kept for as long as anything of it lives.
    pub(crate) _place: Option<Place>,
    /// Whether what ends early ends because of this sidecar's own end.
    pub(crate) drain: DrainWatch,
    /// Whether the next answer is the connection's last.
    pub(crate) is_closing: Cell<bool>,
    /// Why the connection was cut, for what was in flight on it.
    pub(crate) cut: Rc<OnceCell<(Code, String)>>,
    /// Records begun and not written.
    pub(crate) in_flight: Cell<usize>,
    /// Answers of which the downstream has not taken what there is.
    pub(crate) unread: Cell<usize>,
}

/// One request or opaque connection on its way to being recorded.
#[derive(Debug)]
pub(crate) struct Record {
    exchange: Rc<Exchange>,
    started: Instant,
    port: u16,
    carried: Carried,
    tls: TlsState,
    destination: Option<SpiffeId>,
    judgement: Judgement,
    status: Option<StatusCode>,
    flow: Rc<Flow>,
    sent: u64,
    words: Words,
    is_complete: bool,
    /// Counts among the unread of the connection.
    is_unread: bool,
    /// Whether it may still turn out that there is nothing to record.
    is_tentative: bool,
    /// Frees its place among the requests in flight when the record is written.
    slot: Option<RequestSlot>,
    /// Counts as in flight at its endpoint until the record is written.
    picked: Option<Picked>,
    /// How often it was tried; 0 where that goes without saying.
    attempts: u32,
    /// Is judged again until the record is written.
    open: Option<OpenPlace>,
}

/// What only a reader of lines wants; stays empty while nobody reads.
#[derive(Debug, Default)]
struct Words {
    method: Option<String>,
    path: Option<String>,
    request_id: Option<String>,
    nearest: Option<String>,
    detail: Option<String>,
    upstream: Option<String>,
    route: Option<Arc<str>>,
}

impl Exchange {
    /// What is in flight ends for this reason, and not because its downstream left.
    pub(crate) fn cut(&self, error: &Error) {
        // The first reason is the reason.
        let _ = self.cut.set((error.code(), error.to_string()));
    }
}

impl Record {
    /// Begins now. Until it is told more, it is an allowed thing without an answer.
    pub(crate) fn begin(exchange: &Rc<Exchange>, carried: Carried) -> Self {
        exchange.in_flight.set(exchange.in_flight.get().saturating_add(1));
        Self {
            exchange: Rc::clone(exchange),
            started: Instant::now(),
            port: exchange.port,
            carried,
            tls: exchange.tls,
            destination: exchange.ends.destination.clone(),
            judgement: Judgement::ADMITTED,
            status: None,
            flow: Rc::default(),
            sent: 0,
            words: Words::default(),
            is_complete: false,
            is_unread: false,
            is_tentative: false,
            slot: None,
            picked: None,
            attempts: 0,
            open: None,
        }
    }

    /// Of something that may come to nothing: not written unless it becomes certain.
    pub(crate) fn tentative(exchange: &Rc<Exchange>, carried: Carried) -> Self {
        let mut record = Self::begin(exchange, carried);
        record.is_tentative = true;
        record
    }

    /// It has come to something.
    pub(crate) fn certain(&mut self) {
        self.is_tentative = false;
    }

    /// Records how a connection ended, unless its requests have said it all already.
    pub(crate) fn ended(exchange: &Rc<Exchange>, result: Result<(), Error>) {
        match result {
            Ok(()) => {}
            // Clients come and go; whatever they had asked for is recorded with the request.
            Err(Error::Downstream(detail)) => tracing::debug!(%detail, "downstream connection broke"),
            Err(error) => Self::begin(exchange, Carried::Unknown).failed(&error),
        }
    }

    /// Who connected to this sidecar.
    pub(crate) fn downstream(&self) -> SocketAddr {
        self.exchange.downstream
    }

    /// What it is recorded under.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What the request's two bodies share with it.
    pub(crate) fn flow(&self) -> &Rc<Flow> {
        &self.flow
    }

    /// Is judged again until the end.
    pub(crate) fn judged_again_at(&mut self, open: OpenPlace) {
        self.open = Some(open);
    }

    /// Keeps a place among the requests in flight until the end.
    pub(crate) fn hold(&mut self, slot: RequestSlot) {
        self.slot = Some(slot);
    }

    /// Counts as in flight at its endpoint until the end.
    pub(crate) fn counted_at(&mut self, picked: Picked) {
        self.picked = Some(picked);
    }

    /// The request as it came in.
    pub(crate) fn request(&mut self, method: &str, path: &str, request_id: &str) {
        if self.exchange.access_log.is_on() {
            self.words.method = Some(clip(method));
            self.words.path = Some(clip(path));
            self.words.request_id = Some(request_id.to_owned());
        }
    }

    /// Policy admitted it.
    pub(crate) fn admitted(&mut self, admission: &Admission) {
        self.judgement = admission.judgement();
    }

    /// It leaves the mesh, in plaintext as far as this sidecar knows.
    pub(crate) fn leaves(&mut self, leave: &Leave) {
        self.judgement = leave.judgement();
        self.tls = TlsState::Plaintext;
        self.upstream(leave);
    }

    /// It is sent to this endpoint, once more.
    pub(crate) fn tried(&mut self, endpoint: SocketAddr) {
        self.attempts = self.attempts.saturating_add(1);
        self.upstream(&endpoint);
    }

    /// It is sent to the local application once more.
    pub(crate) fn again(&mut self) {
        self.attempts = self.attempts.max(1).saturating_add(1);
    }

    /// Where whoever connected to this sidecar is.
    pub(crate) fn source(&self) -> IpAddr {
        self.exchange.downstream.ip()
    }

    /// This rule of the service's routes says what becomes of it.
    pub(crate) fn routed(&mut self, rule: &Arc<str>) {
        if self.exchange.access_log.is_on() {
            self.words.route = Some(Arc::clone(rule));
        }
    }

    /// There is something to say of it, though it goes on.
    pub(crate) fn told(&mut self, code: Code) {
        self.judgement.code = Some(code);
    }

    /// It goes to this upstream.
    pub(crate) fn upstream(&mut self, upstream: &dyn std::fmt::Display) {
        if self.exchange.access_log.is_on() {
            self.words.upstream = Some(upstream.to_string());
        }
    }

    /// The upstream proved to be this service.
    pub(crate) fn proven(&mut self, destination: &SpiffeId) {
        self.destination = Some(destination.clone());
        self.tls = TlsState::Mutual;
    }

    /// It was refused or failed.
    pub(crate) fn failed(&mut self, error: &Error) {
        self.is_complete = true;
        if let Error::Denied(denial) = error {
            self.judgement = denial.judgement();
            self.words.nearest.clone_from(&denial.nearest);
        } else {
            // Policy's part of the judgement stays: it says who let it come this far.
            self.judgement.verdict = Verdict::Failed;
            self.judgement.code = Some(error.code());
        }
        if self.exchange.access_log.is_on() {
            self.words.detail = Some(clip(&error.to_string()));
        }
    }

    /// The downstream is answered with this status.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Bytes of the answer went downstream.
    pub(crate) fn add_sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes as u64);
    }

    /// It goes to this port of the application, whatever the connection came in for.
    pub(crate) fn at_port(&mut self, port: u16) {
        self.port = port;
    }

    /// An opaque connection has ended.
    pub(crate) fn end(mut self, carried: &upstream::Carried, result: Result<(), Error>) {
        self.flow.add_received(carried.received.get());
        self.sent = carried.sent.get();
        match result {
            Ok(()) => self.complete(),
            Err(error) => self.failed(&error),
        }
    }

    /// Whether the answer waits for the downstream rather than for the upstream.
    pub(crate) fn waits_for_downstream(&mut self, waits: bool) {
        let unread = &self.exchange.unread;
        match (self.is_unread, waits) {
            (false, true) => unread.set(unread.get().saturating_add(1)),
            (true, false) => unread.set(unread.get().saturating_sub(1)),
            _ => {}
        }
        self.is_unread = waits;
    }

    /// Everything is through.
    pub(crate) fn complete(&mut self) {
        self.is_complete = true;
    }

    /// The upstream broke in the middle of its answer.
    pub(crate) fn upstream_broke(&mut self, error: &dyn std::fmt::Display) {
        // It may have done so because the request broke.
        if let Some(picked) = self.picked.as_ref().filter(|_| !self.flow.has_broken()) {
            picked.broke_off();
        }
        self.failed(&Error::Upstream { code: Code::UpstreamFailed, detail: error.to_string() });
    }
}

impl Record {
    /// Why it was dropped before its end.
    fn broken_off(&self) -> Error {
        match self.exchange.cut.get() {
            Some((Code::PeerCertificateEnded, why)) => Error::PeerEnded(why.clone()),
            Some((code, why)) => Error::Expired { code: *code, detail: why.clone() },
            None if self.exchange.drain.has_begun() => Error::Draining,
            None => Error::Downstream("the downstream left before the end".to_owned()),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.is_tentative {
            return;
        }
        if !self.is_complete {
            self.failed(&self.broken_off());
        }
        self.waits_for_downstream(false);
        self.exchange.in_flight.set(self.exchange.in_flight.get().saturating_sub(1));
        let exchange = &self.exchange;
        let duration = self.started.elapsed();
        let key = Key {
            direction: exchange.direction,
            ends: Ends { source: exchange.ends.source.clone(), destination: self.destination.take() },
            port: self.port,
            carried: self.carried,
            tls: self.tls,
            judgement: std::mem::replace(&mut self.judgement, Judgement::ADMITTED),
        };
        exchange.edges.record(
            &key,
            Observation {
                status: self.status.map(|status| status.as_u16()),
                failed: key.judgement.verdict == Verdict::Failed,
                received: self.flow.received(),
                sent: self.sent,
                duration,
            },
        );
        if exchange.access_log.is_on() {
            let words = std::mem::take(&mut self.words);
            exchange.access_log.write(Line {
                time: SystemTime::now(),
                direction: key.direction.as_str(),
                src: key.ends.source.map(|id| id.to_string()),
                dst: key.ends.destination.map(|id| id.to_string()),
                tls: key.tls.as_str(),
                protocol: key.carried.as_str(),
                method: words.method,
                path: words.path,
                status: self.status.map(|status| status.as_u16()),
                verdict: key.judgement.verdict.as_str(),
                code: key.judgement.code.map(Code::id),
                policy: key.judgement.policy,
                rule: key.judgement.rule,
                nearest: words.nearest,
                detail: words.detail,
                bytes_received: self.flow.received(),
                bytes_sent: self.sent,
                duration_ms: duration.as_secs_f64() * 1_000.0,
                request_id: words.request_id,
                peer: exchange.downstream.to_string(),
                upstream: words.upstream,
                attempts: (self.attempts > 0).then_some(self.attempts),
                route: words.route,
            });
        }
    }
}

/// A line holds at most this much of what a peer chose.
fn clip(text: &str) -> String {
    text.chars().take(MOST_CHARS).collect()
}

const MOST_CHARS: usize = 512;
