//! What a person types to start a sidecar: arguments in, an exit code out.

use std::{path::PathBuf, process::ExitCode};

/// Arguments of `sidegate-proxy` and `sidegate proxy`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sidecar's configuration file (YAML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Runs a sidecar until it is told to stop.
pub fn run(_args: Args) -> ExitCode {
    ExitCode::SUCCESS
}
