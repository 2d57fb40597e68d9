//! The intruder: a workload with a valid identity that calls `payments`, which no policy allows it to.

use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::interval;

use super::{
    lines,
    service::{CALLER, work},
};
use crate::{
    demo::cast::{INTRUDER, PAYMENTS},
    http1::Connection,
};

/// Arguments of the intruder.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Its sidecar's listener for `payments`.
    #[arg(long)]
    target: SocketAddr,
}

/// What the intruder was answered, whole on each line.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::demo) struct CallerReport {
    pub(in crate::demo) attempts: u64,
    /// How often each answer came: a status, or `no answer`.
    pub(in crate::demo) answers: BTreeMap<String, u64>,
}

/// Calls until the process is ended.
pub(super) async fn run(args: Args) -> io::Result<()> {
    let mut report = CallerReport::default();
    let mut ticks = interval(EVERY);
    loop {
        ticks.tick().await;
        let answer = attempt(args.target).await;
        report.attempts += 1;
        *report.answers.entry(answer).or_default() += 1;
        lines::print(&report)?;
    }
}

async fn attempt(target: SocketAddr) -> String {
    let answer = async {
        let (method, path) = work(PAYMENTS);
        Connection::open(target, PAYMENTS).await?.send(method, path, &[(CALLER, INTRUDER)]).await
    };
    answer.await.map_or_else(|_| "no answer".to_owned(), |answer| answer.status.as_u16().to_string())
}

/// Often enough to see it in the table.
const EVERY: Duration = Duration::from_millis(500);
