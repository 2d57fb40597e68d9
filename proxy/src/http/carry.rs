//! What is HTTP no longer. Takes the two ends of a request that has become a tunnel, carries their bytes, and records how
//! that ended.

use std::{rc::Rc, time::Duration};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sidegate_codes::Code;

use super::Handler;
use crate::{error::Error, telemetry::Record, upstream, worker::Worker};

/// Carries what a CONNECT opened until both sides have ended it. Its answer is on its way; what the client sends is
/// read from now on.
pub(super) async fn connected(
    downstream: OnUpgrade,
    link: upstream::peer::Link,
    worker: Rc<Worker>,
    record: Record,
) {
    let carried = upstream::Carried::default();
    let result = match tokio::time::timeout(UPGRADE_TIMEOUT, downstream).await {
        Ok(Ok(downstream)) => link.carry_upgraded(TokioIo::new(downstream), &worker.pool, &carried).await,
        Ok(Err(error)) => Err(Error::Downstream(error.to_string())),
        Err(_) => Err(Error::Downstream("no upgrade in time".to_owned())),
    };
    record.end(&carried, result);
}

/// Carries what a request has become until both sides have ended it, or until policy, the end of its peer or silence
/// cuts it.
pub(super) async fn upgraded<H: Handler>(
    downstream: OnUpgrade,
    upstream: upstream::Opened,
    handler: Rc<H>,
    idle: Duration,
    record: Record,
) {
    let carried = upstream::Carried::default();
    let flow = Rc::clone(record.flow());
    let carry = async {
        let downstream = async { downstream.await.map_err(|error| error.to_string()) };
        let both = async { tokio::try_join!(downstream, upstream.stream()) };
        let (downstream, upstream) = tokio::time::timeout(UPGRADE_TIMEOUT, both)
            .await
            .map_err(|_| Error::Downstream("no upgrade in time".to_owned()))?
            .map_err(Error::Downstream)?;
        upstream::carry_upgraded(TokioIo::new(downstream), upstream, &carried)
            .await
            .map_err(|error| Error::Upstream { code: Code::UpstreamFailed, detail: error.to_string() })
    };
    let result = tokio::select! {
        // First, so that a cut is told as a cut.
        biased;
        denied = flow.until_cut() => Err(denied),
        ended = handler.until_ended() => Err(ended),
        idle = carried.until_idle(idle) => Err(idle),
        result = carry => result,
    };
    record.end(&carried, result);
}

/// From the answer 101 to the moment both connections are handed over.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(5);
