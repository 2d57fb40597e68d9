//! What `benches/run` starts beside the proxies: the application at the end of the path, what asks it, and the floor, a
//! forwarder that does nothing but forward. Each prints one line of JSON, or `ready` once it listens. Nothing of it is
//! part of the product.

mod app;
mod connections;
mod floor;
mod rate;
mod tls;

use std::{io::Write, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

#[derive(Debug, Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// An application: HTTP/1.1 and h2c with 1 KiB answers, a gRPC echo, and a TCP port that sends what it is asked for
    App {
        #[arg(long)]
        http: SocketAddr,
        #[arg(long)]
        tcp: SocketAddr,
    },
    /// One half of a pair that forwards over mutual TLS, and nothing else
    Floor(Floor),
    /// Requests at a fixed rate, each timed from the moment it was due
    Rate {
        #[arg(long)]
        to: SocketAddr,
        /// What goes into `Host`
        #[arg(long)]
        host: String,
        /// Requests per second
        #[arg(long)]
        rate: u32,
        #[arg(long)]
        seconds: u32,
        /// Among how many connections they are spread
        #[arg(long, default_value_t = 16)]
        connections: usize,
    },
    /// New connections, each for one answer of 1 KiB, so many at a time
    Connect {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        seconds: u64,
        #[arg(long, default_value_t = 8)]
        at_a_time: usize,
    },
    /// So many bytes over each of so many connections at once
    Bulk {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        streams: usize,
        #[arg(long)]
        bytes: u64,
    },
    /// Connections that have been used once and then stay open in silence until standard input ends
    Hold {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        connections: usize,
        /// HTTP/1.1 with this `Host`; else the TCP port's protocol
        #[arg(long)]
        host: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Floor {
    #[arg(long)]
    side: Side,
    #[arg(long)]
    link: Link,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    certificate: PathBuf,
    #[arg(long)]
    key: PathBuf,
    #[arg(long)]
    roots: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Side {
    Outbound,
    Inbound,
}

/// What is spoken between the two halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Link {
    Http1,
    Http2,
    Tcp,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::App { http, tcp } => app::run(http, tcp).await,
        Command::Floor(half) => floor::run(half).await,
        Command::Rate { to, host, rate, seconds, connections } => {
            say(&rate::run(to, &host, rate, seconds, connections).await?)
        }
        Command::Connect { to, seconds, at_a_time } => {
            say(&connections::connect(to, Duration::from_secs(seconds), at_a_time).await?)
        }
        Command::Bulk { to, streams, bytes } => say(&connections::bulk(to, streams, bytes).await?),
        Command::Hold { to, connections, host } => connections::hold(to, connections, host.as_deref()).await,
    }
}

/// One line that whoever started this reads.
fn say(line: &impl std::fmt::Display) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
