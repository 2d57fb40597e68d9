//! Sends copies of requests to other services and drops what they answer. A copy is a request of its own: recorded, judged
//! by the policy of whoever gets it, and bounded apart from the traffic that it was made of, which it never holds up.

use std::{rc::Rc, sync::Arc};

use http::Version;
use http_body_util::BodyExt;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::task::TaskTracker;

use crate::{
    config::{Mirror, RouteRule},
    contain::contained,
    error::Error,
    http::{Checked, RequestBody},
    snapshot::Snapshot,
    telemetry::{Carried, Direction, Ends, Record, TlsState, metrics::CopyLabels},
    upstream::{self, Leased, peer::Reach},
    worker::{Link, Worker},
};

/// The copies that a worker has under way.
#[derive(Debug)]
pub(crate) struct Copies {
    places: Arc<Semaphore>,
    /// Nobody waits for them: they end with the worker.
    tasks: TaskTracker,
}

impl Default for Copies {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MOST_COPIES)), tasks: TaskTracker::new() }
    }
}

/// Sends the copies that `rule` wants of `request`, in the form in which its backend gets it.
pub(crate) fn mirror(
    rule: &RouteRule,
    request: &Checked<RequestBody>,
    version: Version,
    record: &Record,
    snapshot: &Arc<Snapshot>,
    worker: &Rc<Worker>,
) {
    for mirror in rule.mirrors.iter().filter(|mirror| worker.chance.is_in(mirror.share)) {
        let labels =
            |result| CopyLabels { service: mirror.service.clone(), rule: Arc::clone(&rule.name), result };
        let Some(copy) = request.copy() else {
            worker.metrics.copies.add(labels("body"));
            continue;
        };
        let Ok(place) = Arc::clone(&worker.copies.places).try_acquire_owned() else {
            worker.metrics.copies.add(labels("busy"));
            continue;
        };
        let record = record_of(&copy, version, record, &rule.name, worker);
        let (mirror, snapshot, shared) = (mirror.clone(), Arc::clone(snapshot), Rc::clone(worker));
        let (sent, failed) = (labels("sent"), labels("failed"));
        let sending = async move {
            let is_sent = send(copy, version, &mirror, record, &snapshot, &shared).await.is_ok();
            shared.metrics.copies.add(if is_sent { sent } else { failed });
            drop(place);
        };
        worker.copies.tasks.spawn_local(contained(sending, Arc::clone(&worker.metrics)));
    }
}

/// The copy's own line and edge cell. It holds no place among the connections: those are for what is answered.
fn record_of(
    copy: &Checked<RequestBody>,
    version: Version,
    of: &Record,
    rule: &Arc<str>,
    worker: &Worker,
) -> Record {
    let ends = Ends { source: worker.mesh.load().own_id(), destination: None };
    let link = Link { ends, tls: TlsState::Failed, place: None };
    let exchange = Rc::new(worker.exchange(Direction::Outbound, of.downstream(), of.port(), link));
    let carried = if version == Version::HTTP_2 { Carried::Http2 } else { Carried::Http1 };
    let mut record = Record::begin(&exchange, carried);
    record.request(copy.method(), copy.path(), copy.request_id());
    record.routed(rule);
    record
}

async fn send(
    copy: Checked<RequestBody>,
    version: Version,
    mirror: &Mirror,
    mut record: Record,
    snapshot: &Snapshot,
    worker: &Rc<Worker>,
) -> Result<(), ()> {
    let ends = Instant::now() + worker.limits.response_timeout;
    let sending = async {
        let name = &mirror.service;
        let service = snapshot.services.get(name).ok_or_else(|| Error::UnknownService(name.to_string()))?;
        let reach = Reach {
            name: name.as_str(),
            service,
            balancer: &worker.balancer,
            pool: &worker.pool,
            per_try: None,
            retries: None,
            only: None,
        };
        upstream::peer::send(copy, version, reach, &mut record).await
    };
    match sending.await {
        Err(error) => {
            record.failed(&error);
            Err(())
        }
        Ok(answer) => {
            record.answered(answer.response.status());
            // A short answer is read to its end, so that the connection can serve again.
            let _ = timeout_at(ends, drain(answer.response.into_body())).await;
            record.complete();
            Ok(())
        }
    }
}

async fn drain(mut answer: Leased) {
    let mut left = MOST_BYTES;
    while let Some(Ok(frame)) = answer.frame().await {
        let bytes = frame.data_ref().map_or(0, bytes::Bytes::len);
        let Some(rest) = left.checked_sub(bytes) else { return };
        left = rest;
    }
}

/// Under way per worker; what is over it is not copied.
const MOST_COPIES: usize = 64;
/// Of an answer that nobody waits for.
const MOST_BYTES: usize = 64 * 1024;
