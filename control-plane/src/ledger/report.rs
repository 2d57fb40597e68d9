//! The gRPC service that takes reports. A batch is checked whole before any of it is counted.

use std::sync::Arc;

use sidegate_identity::SpiffeId;
use sidegate_proto::v1::{ReportRequest, ReportResponse, ledger_server};
use tonic::{Request, Response, Status};

use super::{
    Ledger,
    cell::{BadCell, Cell},
};
use crate::{clock, metrics::Metrics, server};

/// The gRPC service.
#[derive(Clone)]
pub(crate) struct LedgerService {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) metrics: Arc<Metrics>,
}

/// A checked batch.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) reporter: SpiffeId,
    pub(crate) instance: String,
    pub(crate) sequence: u64,
    /// At least 1.
    pub(crate) covers_ms: u64,
    pub(crate) cells: Vec<Cell>,
    pub(crate) dropped: u64,
}

/// A batch that cannot be counted. The reporter's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadReport {
    #[error("instance is not 32 lower-case hex digits")]
    Instance,
    #[error("sequence begins with 1")]
    Sequence,
    #[error("covers_ms is not between 1 ms and an hour")]
    Covers,
    #[error("more than {MAX_CELLS} cells")]
    TooManyCells,
    #[error("cells[{position}]: {fault}")]
    Cell { position: usize, fault: BadCell },
}

impl Report {
    pub(crate) fn check(request: ReportRequest, reporter: &SpiffeId, now_ms: u64) -> Result<Self, BadReport> {
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if request.instance.len() != 32 || !request.instance.bytes().all(hex) {
            return Err(BadReport::Instance);
        }
        if request.sequence == 0 {
            return Err(BadReport::Sequence);
        }
        if !(1..=MAX_COVERS_MS).contains(&request.covers_ms) {
            return Err(BadReport::Covers);
        }
        if request.cells.len() > MAX_CELLS {
            return Err(BadReport::TooManyCells);
        }
        let check = |(position, cell)| {
            Cell::check(cell, reporter, now_ms).map_err(|fault| BadReport::Cell { position, fault })
        };
        Ok(Self {
            reporter: reporter.clone(),
            instance: request.instance,
            sequence: request.sequence,
            covers_ms: request.covers_ms.into(),
            cells: request.cells.into_iter().enumerate().map(check).collect::<Result<_, _>>()?,
            dropped: request.dropped,
        })
    }
}

#[tonic::async_trait]
impl ledger_server::Ledger for LedgerService {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let peer = server::verified_peer(&request)?;
        let now_ms = clock::now_ms();
        let report = Report::check(request.into_inner(), peer.id(), now_ms).map_err(|error| {
            self.metrics.report("refused");
            tracing::warn!(identity = %peer.id(), %error, "report refused");
            refusal(error)
        })?;
        let counted = self.ledger.add(report, now_ms);
        self.metrics.report(if counted { "accepted" } else { "repeated" });
        Ok(Response::new(ReportResponse {}))
    }
}

fn refusal(error: BadReport) -> Status {
    match error {
        BadReport::Cell { fault: BadCell::Foreign, .. } => Status::permission_denied(error.to_string()),
        _ => Status::invalid_argument(error.to_string()),
    }
}

const MAX_CELLS: usize = 10_000;
const MAX_COVERS_MS: u32 = 3_600_000;
