//! Reports edge cells: what has been added since the last report, in numbered batches. A batch that was not
//! acknowledged is sent again under the same number; meanwhile the cells keep counting, so nothing is lost or doubled.
//! A batch that the control plane refuses for what is in it would be refused again: it is dropped, counted and said.

use std::{collections::VecDeque, sync::atomic::Ordering, time::Duration};

use prost::Message;
use sidegate_identity::tls::Credentials;
use sidegate_proto::v1::{self, ledger_client::LedgerClient};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::{Status, transport::Channel};

use super::{Client, is_alive};

/// Reports at the interval that the mesh asks for until traffic has ended, and then once more.
pub(super) async fn run(client: &Client, credentials: watch::Receiver<Option<Credentials>>) {
    let mesh = client.publisher.reader();
    let mut reporter = Reporter {
        client,
        credentials,
        connection: None,
        pending: VecDeque::new(),
        sequence: 0,
        covered_until: Instant::now(),
    };
    let regularly = async {
        loop {
            let interval = mesh.load().report_interval;
            sleep(interval).await;
            reporter.report().await;
        }
    };
    // What was on its way is still pending and is sent again under its number.
    tokio::select! {
        () = client.traffic_ended.begun() => {}
        () = regularly => {}
    }
    reporter.collect();
    reporter.send_pending().await;
}

struct Reporter<'a> {
    client: &'a Client,
    credentials: watch::Receiver<Option<Credentials>>,
    /// With the credentials that it was opened under: it ends when they do.
    connection: Option<(Credentials, Channel)>,
    /// Not acknowledged yet, the oldest first.
    pending: VecDeque<v1::ReportRequest>,
    sequence: u64,
    covered_until: Instant,
}

/// Why a batch was not counted.
#[derive(Debug, thiserror::Error)]
enum SendError {
    /// It will be refused as often as it is sent.
    #[error("{0}")]
    Refused(String),
    /// A matter of time.
    #[error("{0}")]
    Later(String),
}

impl Reporter<'_> {
    /// Until all that is pending was acknowledged the cells keep counting, and the next report covers more.
    async fn report(&mut self) {
        if self.pending.is_empty() {
            self.collect();
        }
        self.send_pending().await;
    }

    fn collect(&mut self) {
        let covers = self.covered_until.elapsed();
        let (cells, mut dropped) = self.client.edges.take_deltas(&self.client.config.workload.identity);
        self.covered_until = Instant::now();
        let mut batches = batches(cells);
        if batches.is_empty() && dropped > 0 {
            batches.push(Vec::new());
        }
        for cells in batches {
            self.sequence += 1;
            self.pending.push_back(v1::ReportRequest {
                instance: self.client.instance.clone(),
                sequence: self.sequence,
                covers_ms: covers_ms(covers),
                cells,
                dropped: std::mem::take(&mut dropped),
            });
        }
    }

    async fn send_pending(&mut self) {
        while let Some(batch) = self.pending.front().cloned() {
            match self.send(batch).await {
                Ok(()) => {}
                Err(SendError::Refused(reason)) => self.give_up(&reason),
                Err(SendError::Later(reason)) => {
                    tracing::debug!(%reason, "edges not reported yet");
                    self.connection = None;
                    return;
                }
            }
            self.pending.pop_front();
        }
    }

    async fn send(&mut self, batch: v1::ReportRequest) -> Result<(), SendError> {
        let channel = self.channel().await?;
        let mut request = tonic::Request::new(batch);
        request.set_timeout(TIMEOUT);
        match timeout(TIMEOUT, LedgerClient::new(channel).report(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) if is_final(&status) => Err(SendError::Refused(status.message().to_owned())),
            Ok(Err(status)) => Err(SendError::Later(status.message().to_owned())),
            Err(_) => Err(SendError::Later("no answer in time".to_owned())),
        }
    }

    /// The open connection, unless a newer certificate has come since.
    async fn channel(&mut self) -> Result<Channel, SendError> {
        let own = self.credentials.borrow().clone().filter(is_alive);
        let own = own.ok_or_else(|| SendError::Later("no certificate".to_owned()))?;
        if let Some((under, channel)) = &self.connection
            && under.svid().serial() == own.svid().serial()
        {
            return Ok(channel.clone());
        }
        let connected = self.client.connect(&own).await;
        let channel = connected.map_err(|error| SendError::Later(error.to_string()))?;
        self.connection = Some((own, channel.clone()));
        Ok(channel)
    }

    fn give_up(&self, reason: &str) {
        let batch = self.pending.front();
        let observations = batch.map_or(0, |batch| {
            let counts = batch.cells.iter().map(|cell| cell.count);
            counts.fold(batch.dropped, u64::saturating_add)
        });
        self.client.metrics.ledger_dropped.fetch_add(observations, Ordering::Relaxed);
        tracing::warn!(%reason, observations, "the control plane refused a report: dropped");
    }
}

/// Parts that the control plane takes: bounded in cells and in bytes.
fn batches(cells: Vec<v1::EdgeCell>) -> Vec<Vec<v1::EdgeCell>> {
    let mut batches: Vec<Vec<v1::EdgeCell>> = Vec::new();
    let mut bytes = 0;
    for cell in cells {
        let size = cell.encoded_len();
        match batches.last_mut() {
            Some(batch) if batch.len() < MOST_CELLS && bytes + size <= MOST_BYTES => {
                bytes += size;
                batch.push(cell);
            }
            _ => {
                bytes = size;
                batches.push(vec![cell]);
            }
        }
    }
    batches
}

/// What a report may cover; a gap beyond that, after a long outage, makes the shown rate too high for one interval.
fn covers_ms(covers: Duration) -> u32 {
    let longest = u32::try_from(LONGEST_COVER.as_millis()).unwrap_or(u32::MAX);
    u32::try_from(covers.as_millis()).unwrap_or(u32::MAX).clamp(1, longest)
}

/// Whether the refusal is of what the batch says, so that the same batch would be refused again.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        tonic::Code::InvalidArgument | tonic::Code::PermissionDenied | tonic::Code::OutOfRange
    )
}

const MOST_CELLS: usize = 2_000;
/// Half of what the control plane reads as one message.
const MOST_BYTES: usize = 2 << 20;
const LONGEST_COVER: Duration = Duration::from_hours(1);
const TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_covers_what_the_control_plane_accepts() {
        for (covers, said) in [
            (Duration::ZERO, 1),
            (Duration::from_secs(5), 5_000),
            (Duration::from_hours(30), 3_600_000),
            (Duration::MAX, 3_600_000),
        ] {
            assert_eq!(covers_ms(covers), said);
        }
    }

    #[test]
    fn a_batch_is_bounded_in_cells_and_in_bytes_and_none_is_empty() {
        let cell = |text: usize| v1::EdgeCell { route: "a".repeat(text), ..v1::EdgeCell::default() };
        assert!(batches(Vec::new()).is_empty());
        let many = batches(vec![cell(0); MOST_CELLS + 1]);
        assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [MOST_CELLS, 1]);
        let large = batches(vec![cell(MOST_BYTES / 2); 3]);
        assert!(large.iter().all(|batch| batch.len() == 1));
    }

    #[test]
    fn only_a_refusal_of_the_content_is_final() {
        for (code, expected) in [
            (tonic::Code::InvalidArgument, true),
            (tonic::Code::PermissionDenied, true),
            (tonic::Code::Unavailable, false),
            (tonic::Code::Unauthenticated, false),
            (tonic::Code::Unknown, false),
        ] {
            assert_eq!(is_final(&Status::new(code, "")), expected, "{code:?}");
        }
    }
}
