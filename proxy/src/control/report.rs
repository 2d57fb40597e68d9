//! Reports edge cells: what has been added since the last report, in numbered batches. A batch that was not
//! acknowledged is sent again under the same number; meanwhile the cells keep counting, so nothing is lost or doubled.

use std::{collections::VecDeque, time::Duration};

use sidegate_identity::tls::Credentials;
use sidegate_proto::v1::{self, ledger_client::LedgerClient};
use tokio::{sync::watch, time::Instant};
use tonic::transport::Channel;

use super::{Client, usable};

/// Reports for ever, at the interval that the mesh asks for.
pub(super) async fn run(client: &Client, mut credentials: watch::Receiver<Option<Credentials>>) {
    let mesh = client.publisher.reader();
    let mut pending = VecDeque::new();
    let mut sequence = 0;
    let mut covered_until = Instant::now();
    let mut open: Option<Channel> = None;
    while let Some(own) = usable(&mut credentials).await {
        tokio::time::sleep(mesh.load().report_interval).await;
        if pending.is_empty() {
            let covers = covered_until.elapsed();
            covered_until = Instant::now();
            collect(client, covers, &mut sequence, &mut pending);
        }
        if credentials.has_changed().unwrap_or(false) {
            // The open connection ends with the certificate it was made under.
            credentials.mark_unchanged();
            open = None;
        }
        while let Some(batch) = pending.front() {
            match send(client, &own, &mut open, batch.clone()).await {
                Ok(()) => {
                    pending.pop_front();
                }
                Err(reason) => {
                    tracing::debug!(%reason, "edges not reported yet");
                    open = None;
                    break;
                }
            }
        }
    }
}

fn collect(client: &Client, covers: Duration, sequence: &mut u64, pending: &mut VecDeque<v1::ReportRequest>) {
    let (cells, mut dropped) = client.edges.take_deltas(&client.config.workload.identity);
    if cells.is_empty() && dropped == 0 {
        return;
    }
    let mut cells = cells.into_iter();
    loop {
        let batch: Vec<v1::EdgeCell> = cells.by_ref().take(MOST_CELLS).collect();
        if batch.is_empty() && dropped == 0 {
            return;
        }
        *sequence += 1;
        pending.push_back(v1::ReportRequest {
            instance: client.instance.clone(),
            sequence: *sequence,
            covers_ms: u32::try_from(covers.as_millis()).unwrap_or(u32::MAX),
            cells: batch,
            dropped: std::mem::take(&mut dropped),
        });
    }
}

async fn send(
    client: &Client,
    own: &Credentials,
    open: &mut Option<Channel>,
    batch: v1::ReportRequest,
) -> Result<(), String> {
    let channel = if let Some(channel) = open {
        channel.clone()
    } else {
        let channel = client
            .connector
            .connect(Some(own))
            .await
            .map_err(|error| error.to_string())?;
        open.insert(channel).clone()
    };
    let mut request = tonic::Request::new(batch);
    request.set_timeout(TIMEOUT);
    let reported = tokio::time::timeout(TIMEOUT, LedgerClient::new(channel).report(request)).await;
    match reported {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

const MOST_CELLS: usize = 2_000;
const TIMEOUT: Duration = Duration::from_secs(5);
