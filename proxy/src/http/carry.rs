//! What is HTTP no longer. Takes the two ends of a request that has become a tunnel, carries their bytes, and records how
//! that ended.

use std::{rc::Rc, time::Duration};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sidegate_codes::Code;

use super::{Handler, http1};
use crate::{
    error::Error,
    telemetry::Record,
    upstream::{self, Duplex},
    worker::Worker,
};

/// The downstream's end of a tunnel that an answer may open.
pub(super) enum Upgrade {
    /// The request asks for none.
    None,
    Http1(http1::Tunnel),
    Http2(OnUpgrade),
}

impl Upgrade {
    /// Its bytes, once the answer has gone out.
    async fn stream(self) -> Result<Box<dyn Duplex>, String> {
        match self {
            Self::None => Err("no upgrade was asked for".to_owned()),
            Self::Http1(stream) => {
                stream.await.map_err(|_| "the connection ended before its upgrade".to_owned())
            }
            Self::Http2(stream) => match stream.await {
                Ok(stream) => Ok(Box::new(TokioIo::new(stream))),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

/// Carries what a CONNECT opened until both sides have ended it. Its answer is on its way; what the client sends is
/// read from now on.
pub(super) async fn connected(
    downstream: Upgrade,
    link: upstream::peer::Link,
    worker: Rc<Worker>,
    record: Record,
) {
    let carried = upstream::Carried::default();
    let result = match tokio::time::timeout(UPGRADE_TIMEOUT, downstream.stream()).await {
        Ok(Ok(downstream)) => link.carry_upgraded(downstream, &worker.pool, &carried).await,
        Ok(Err(error)) => Err(Error::Downstream(error)),
        Err(_) => Err(Error::Downstream("no upgrade in time".to_owned())),
    };
    record.end(&carried, result);
}

/// Carries what a request has become until both sides have ended it, or until policy, the end of its peer or silence
/// cuts it.
pub(super) async fn upgraded<H: Handler>(
    downstream: Upgrade,
    upstream: upstream::Opened,
    handler: Rc<H>,
    idle: Duration,
    record: Record,
) {
    let carried = upstream::Carried::default();
    let flow = Rc::clone(record.flow());
    let carry = async {
        let both = async { tokio::try_join!(downstream.stream(), upstream.stream()) };
        let (downstream, upstream) = tokio::time::timeout(UPGRADE_TIMEOUT, both)
            .await
            .map_err(|_| Error::Downstream("no upgrade in time".to_owned()))?
            .map_err(Error::Downstream)?;
        upstream::carry_upgraded(downstream, upstream, &carried)
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
