//! Load that is about connections: how many new ones, how many bytes over some, what those that are silent cost.

use std::{
    io::Read,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::app::ANSWER;

/// New connections, `at_a_time`, each of which asks for one answer and ends.
pub(crate) async fn connect(to: SocketAddr, time: Duration, at_a_time: usize) -> Result<serde_json::Value> {
    let begun = Instant::now();
    let mut tasks: JoinSet<Result<u64>> = JoinSet::new();
    for _ in 0..at_a_time {
        tasks.spawn(async move {
            let mut made = 0;
            while begun.elapsed() < time {
                let mut stream = dial(to).await?;
                ask(&mut stream, ANSWER as u64).await?;
                made += 1;
            }
            Ok(made)
        });
    }
    let mut made = 0;
    while let Some(ended) = tasks.join_next().await {
        made += ended??;
    }
    Ok(serde_json::json!({"connections": made, "seconds": begun.elapsed().as_secs_f64()}))
}

/// `bytes` from the application over each of `streams` connections at once.
pub(crate) async fn bulk(to: SocketAddr, streams: usize, bytes: u64) -> Result<serde_json::Value> {
    let begun = Instant::now();
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..streams {
        tasks.spawn(async move { ask(&mut dial(to).await?, bytes).await });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(serde_json::json!({"bytes": bytes * streams as u64, "seconds": begun.elapsed().as_secs_f64()}))
}

/// Opens and uses `connections`, says `ready`, and keeps them until standard input ends.
pub(crate) async fn hold(to: SocketAddr, connections: usize, host: Option<&str>) -> Result<()> {
    let mut held = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = dial(to).await?;
        match host {
            Some(host) => ask_http(&mut stream, host).await?,
            None => ask(&mut stream, ANSWER as u64).await?,
        }
        held.push(stream);
    }
    crate::say(&"ready")?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

async fn dial(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn ask(stream: &mut TcpStream, bytes: u64) -> Result<()> {
    stream.write_u64(bytes).await?;
    let mut buffer = vec![0; usize::try_from(bytes)?.min(256 * 1024)];
    let mut left = bytes;
    while left > 0 {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "the connection ended {left} bytes early");
        left = left.saturating_sub(read as u64);
    }
    Ok(())
}

async fn ask_http(stream: &mut TcpStream, host: &str) -> Result<()> {
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !ends_with_body(&answer) {
        ensure!(stream.read_buf(&mut answer).await? > 0, "the connection ended in its first answer");
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    Ok(())
}

/// However it is framed: the body is `ANSWER` times the same letter, which no header ends with.
fn ends_with_body(answer: &[u8]) -> bool {
    answer.split(|byte| *byte == b'x').count() > ANSWER
}
