//! The entry that the binary and `sidegate control-plane` share: arguments in, exit code out.

use std::{path::PathBuf, process::ExitCode};

/// What a person types after `sidegate-control-plane`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The mesh's configuration (`mesh.yaml`).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Least severe operational log line to write: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: tracing::Level,
}

/// Runs the control plane until SIGTERM or SIGINT; exit code 0 after an orderly end.
pub fn run(args: Args) -> ExitCode {
    drop(args);
    ExitCode::FAILURE
}
