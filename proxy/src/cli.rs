//! What a person types to start a sidecar: arguments in, an exit code out.

use std::{path::PathBuf, process::ExitCode};

use sidegate_codes::Code;

use crate::{
    app::{self, RunError},
    config::Config,
    telemetry::log,
};

/// Arguments of `sidegate-proxy` and `sidegate proxy`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The sidecar's configuration file (YAML); docs/reference/config.md lists every field.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,

    /// Verbosity of the log on standard error: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,

    /// Check the configuration and exit.
    #[arg(long)]
    pub check: bool,
}

/// Runs a sidecar until SIGTERM or SIGINT, drains it, and says how that went. 0: in order; 1: it could not start, or ended by a
/// fault of its own; 2: the arguments or the configuration are wrong.
pub fn run(args: Args) -> ExitCode {
    if let Err(message) = log::install(&args.log_level) {
        tell(&format!("sidegate-proxy: {message}"));
        return ExitCode::from(2);
    }
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(error) => {
            tell(&format!("sidegate-proxy: {error}\n  see: sidegate explain-code {}", error.code()));
            return ExitCode::from(2);
        }
    };
    if args.check {
        return ExitCode::SUCCESS;
    }
    match app::run(config, args.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = code(&error);
            tell(&format!("sidegate-proxy: {error}\n  see: sidegate explain-code {code}"));
            ExitCode::FAILURE
        }
    }
}

fn code(error: &RunError) -> Code {
    match error {
        RunError::Listen { .. } => Code::ListenFailed,
        RunError::Control(_) => Code::BadCredentials,
        RunError::Runtime(_) => Code::ConfigBadValue,
        RunError::Fault(_) => Code::ConnectionPanicked,
    }
}

/// For a person at a terminal; everything later goes to the log.
#[expect(clippy::print_stderr, reason = "the program's last words before it has anything to serve")]
fn tell(message: &str) {
    eprintln!("{message}");
}
