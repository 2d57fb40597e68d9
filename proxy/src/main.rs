//! `sidegate-proxy`: the sidecar alone, without the operator's tools.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;

/// Ask what it is told to be: a sidecar that terminates and originates mutual TLS and authorizes every request.
#[derive(Debug, Parser)]
#[command(name = "sidegate-proxy", version, about = "The Sidegate sidecar")]
struct Cli {
    #[command(flatten)]
    args: sidegate_proxy::cli::Args,
}

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    sidegate_proxy::cli::run(Cli::parse().args)
}
