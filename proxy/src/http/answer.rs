//! One request, from its head as it was read to the answer that the downstream gets: handed to the direction's handler,
//! recorded, and refused where it has two readings or no place.

use std::{rc::Rc, sync::Arc};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_TYPE, EXPECT, UPGRADE},
};
use http_body::Body as _;
use sidegate_codes::Code;

use super::{
    Handler,
    body::{Received, RequestBody, ResponseBody},
    carry::{Upgrade, connected, upgraded},
    guard::{self, Wire},
    headers::{REQUEST_ID, remove_hop_by_hop},
    lingering::Tunnel,
    refusal::refuse,
    request, tunnel,
    upgrade::Became,
};
use crate::{
    contain::contained,
    error::Error,
    telemetry::{Carried, Exchange, Record},
    upstream::{self, Answer, Leased},
    worker::Worker,
};

/// How a request was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    pub(super) carried: Carried,
    pub(super) wire: &'a Wire,
    pub(super) lingering: &'a Tunnel,
    /// Whoever parsed it and the guard read the same message.
    pub(super) agrees: bool,
}

/// One request, start to end.
pub(super) async fn answer<H: Handler + 'static>(
    request: Request<Received>,
    upgrade: Upgrade,
    reading: Reading<'_>,
    exchange: &Rc<Exchange>,
    handler: &Rc<H>,
    worker: &Rc<Worker>,
) -> Response<ResponseBody> {
    let Reading { carried, wire, lingering, agrees } = reading;
    let mut record = Record::begin(exchange, carried);
    let id = request_id(request.headers(), worker);
    // A 200 would open the tunnel that a CONNECT asks for.
    let is_grpc = request.method() != Method::CONNECT && is_grpc(request.headers());
    let asked = Asked::by(&request);
    let target = request.uri().authority().filter(|_| asked.is_tunnel);
    let shown = target.map_or(request.uri().path(), http::uri::Authority::as_str);
    record.request(request.method().as_str(), shown, id.to_str().unwrap_or_default());
    // A stream of messages has no pace.
    let is_stream = is_grpc && carried == Carried::Http2;
    if !is_stream && !request.body().is_end_stream() {
        record.flow().keeps_pace(&worker.limits);
    }
    let mut request = request.map(|body| RequestBody::new(body, Rc::clone(record.flow())));
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let result = match worker.request_slot(exchange.direction) {
        _ if !agrees => Err(Error::bad_request(Code::BadFraming, "a message with two readings")),
        Err(error) => Err(error),
        Ok(slot) => {
            record.hold(slot);
            if asked.is_tunnel {
                handler.connect(request, &mut record).await.map(Passed::Connected)
            } else {
                handler.forward(request, &mut record).await.and_then(passed_on)
            }
        }
    };
    // The upstream failed because the body was given up, or could not be read.
    let result = result.map_err(|error| {
        let of_body = || wire.untold_of_body().map(guard::Refusal::error);
        record.flow().why_cut().or_else(of_body).unwrap_or(error)
    });
    let is_opened = matches!(result, Ok(Passed::Upgraded(_) | Passed::Connected(_)));
    if asked.may_become_tunnel {
        wire.decide(is_opened);
    }
    let closes = carried == Carried::Http1 && asked.closes(&result, reading, exchange, &record);
    let mut response = match result {
        Err(error) => refuse(&error, is_grpc, &id, record),
        Ok(Passed::Connected(link)) => {
            record.answered(StatusCode::OK);
            lingering.begin();
            let tunnel = connected(upgrade, link, Rc::clone(worker), record);
            run(tunnel, exchange, worker);
            let mut response = Response::new(ResponseBody::text(String::new()));
            response.headers_mut().insert(REQUEST_ID, id);
            response
        }
        Ok(Passed::Upgraded(mut response)) => {
            record.answered(response.status());
            lingering.begin();
            let upstream = upstream::Opened::by(&mut response);
            let idle = worker.limits.opaque_idle_timeout;
            let tunnel = upgraded(upgrade, upstream, Rc::clone(handler), idle, record);
            run(tunnel, exchange, worker);
            response.map(|_| ResponseBody::text(String::new()))
        }
        Ok(Passed::Answer(response)) => {
            record.answered(response.status());
            response.map(|body| {
                if body.is_end_stream() {
                    record.complete();
                }
                ResponseBody::upstream(body, record)
            })
        }
    };
    if closes {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What a request asks for, as far as the end of its connection depends on it.
#[derive(Clone, Copy, Debug)]
struct Asked {
    is_tunnel: bool,
    may_become_tunnel: bool,
    may_hold_its_body: bool,
}

impl Asked {
    fn by<B>(request: &Request<B>) -> Self {
        let is_tunnel = tunnel::is_asked_for(request);
        let fields = request.headers();
        let may_become_tunnel = is_tunnel || fields.contains_key(UPGRADE);
        Self { is_tunnel, may_become_tunnel, may_hold_its_body: fields.contains_key(EXPECT) }
    }

    /// Whether an HTTP/1 connection ends with the answer.
    fn closes(
        self,
        result: &Result<Passed, Error>,
        reading: Reading<'_>,
        exchange: &Exchange,
        record: &Record,
    ) -> bool {
        let is_opened = matches!(result, Ok(Passed::Upgraded(_) | Passed::Connected(_)));
        let is_last = exchange.is_closing.get() && !is_opened;
        // The rest of a body that trickles is not waited for either (RFC 9110 §15.5.9).
        let trickles = matches!(result, Err(Error::Expired { .. }));
        // A client that waits for a 100 may send the body after all, or its next request: nobody can tell.
        let is_held = self.may_hold_its_body && !record.flow().is_asked_for();
        // What an eager client has sent into a tunnel must not be read as its next request, and what follows a message with
        // two readings would be misread too.
        let is_eager = self.may_become_tunnel && !is_opened && (self.is_tunnel || reading.wire.is_early());
        !reading.agrees || is_last || trickles || is_held || is_eager
    }
}

/// Runs a tunnel beside the connection that it came on.
fn run(tunnel: impl Future<Output = ()> + 'static, exchange: &Exchange, worker: &Worker) {
    let tunnel = contained(tunnel, Arc::clone(&worker.metrics));
    worker.tasks_of(exchange.direction).spawn_local(tunnel);
}

/// What is passed on of an upstream's answer.
enum Passed {
    Answer(Response<Leased>),
    /// The peer that a CONNECT asked for has proven itself.
    Connected(upstream::peer::Link),
    /// Both sides agreed on another protocol.
    Upgraded(Response<Leased>),
}

/// The upstream's answer without what belongs to its own hop.
fn passed_on(answer: Answer) -> Result<Passed, Error> {
    let broke = |detail: String| Error::Upstream { code: Code::UpstreamFailed, detail };
    let Answer { mut response, opening, .. } = answer;
    // Here the last coding decides; whoever reads the answer after us may see it otherwise.
    request::refuse_ambiguous_framing(response.headers())
        .map_err(|error| broke(format!("the upstream's answer has {error}")))?;
    let became = Became::of(&response).map_err(broke)?;
    remove_hop_by_hop(response.headers_mut()).map_err(broke)?;
    // An HTTP/1.0 application must not end the link's connection with each answer.
    *response.version_mut() = Version::HTTP_11;
    match (opening, became) {
        (Some(opening), became) => {
            let is_open = opening.is_opened_by(&mut response, became).map_err(broke)?;
            Ok(if is_open { Passed::Upgraded(response) } else { Passed::Answer(response) })
        }
        (None, None) => Ok(Passed::Answer(response)),
        (None, Some(_)) => {
            Err(broke("the upstream switched to a protocol that was not asked for".to_owned()))
        }
    }
}

fn is_grpc(fields: &HeaderMap) -> bool {
    fields.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The caller's id if it is harmless in a log line, or a new one.
fn request_id(fields: &HeaderMap, worker: &Worker) -> HeaderValue {
    let mut ids = fields.get_all(REQUEST_ID).iter();
    match (ids.next(), ids.next()) {
        (Some(id), None) if is_harmless(id.as_bytes()) => id.clone(),
        _ => worker.new_request_id(),
    }
}

fn is_harmless(id: &[u8]) -> bool {
    (1..=LONGEST_ID).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
}

const LONGEST_ID: usize = 128;
