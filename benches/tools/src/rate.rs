//! An open loop: requests are due at fixed moments, whether or not earlier ones have been answered, and each is timed from
//! the moment it was due. A closed loop would wait with the proxy and so hide its slow moments.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// Latencies of the requests that were due, without those of the first second.
pub(crate) async fn run(
    to: SocketAddr,
    host: &str,
    rate: u32,
    seconds: u32,
    connections: usize,
) -> Result<serde_json::Value> {
    ensure!(rate > 0 && connections > 0, "a rate and connections are needed");
    // Below the resolution of the timer, which is a millisecond, requests would be due in bursts.
    ensure!(
        rate <= 1000 * u32::try_from(connections)?,
        "one connection takes at most 1,000 requests per second"
    );
    let between = Duration::from_secs(1) * u32::try_from(connections)? / rate;
    let begin = Instant::now() + Duration::from_millis(100);
    let warm = begin + Duration::from_secs(1);
    let end = warm + Duration::from_secs(seconds.into());
    let mut tasks: JoinSet<Result<Vec<Duration>>> = JoinSet::new();
    for nth in 0..connections {
        let offset = between * u32::try_from(nth)? / u32::try_from(connections)?;
        let host = host.to_owned();
        tasks.spawn(async move {
            let mut caller = Caller::connect(to, host).await?;
            let mut due = begin + offset;
            let mut latencies = Vec::new();
            while due < end {
                sleep_until(due).await;
                caller.call().await?;
                if due >= warm {
                    latencies.push(due.elapsed());
                }
                due += between;
            }
            Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        latencies.extend(ended??);
    }
    latencies.sort_unstable();
    let at = |share: usize| latencies[(latencies.len() - 1) * share / 1000].as_secs_f64() * 1e6;
    Ok(serde_json::json!({
        "requests": latencies.len(), "p50": at(500), "p99": at(990), "p999": at(999),
    }))
}

struct Caller {
    connection: http1::SendRequest<Empty<Bytes>>,
    host: String,
}

impl Caller {
    async fn connect(to: SocketAddr, host: String) -> Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (connection, io) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(io);
        Ok(Self { connection, host })
    }

    async fn call(&mut self) -> Result<()> {
        self.connection.ready().await?;
        let request = Request::get("/").header("host", &self.host).body(Empty::new())?;
        let response = self.connection.send_request(request).await?;
        ensure!(response.status() == 200, "answered {}", response.status());
        response.into_body().collect().await?;
        Ok(())
    }
}
