//! The lean binary: only the control plane.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use sidegate_control_plane::cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sidegate's control plane: CA, policies, distribution, ledger, API.
#[derive(Parser)]
#[command(version)]
struct Program {
    #[command(flatten)]
    args: cli::Args,
}

fn main() -> ExitCode {
    cli::run(Program::parse().args)
}
