//! What a person types to start a sidecar: arguments in, an exit code out.

use std::{path::PathBuf, process::ExitCode};

use sidegate_codes::Code;

use crate::{
    app::{self, RunError},
    capture,
    config::Config,
    telemetry::log,
};

/// Arguments of `sidegate-proxy` and `sidegate proxy`.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// The sidecar's configuration file (YAML); docs/reference/config.md lists every field.
    #[arg(long, value_name = "FILE", required = true)]
    pub config: Option<PathBuf>,

    /// Verbosity of the log on standard error: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,

    /// Check the configuration and exit.
    #[arg(long)]
    pub check: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Lead the workload's traffic through the sidecar, by rules of the kernel.
    ///
    /// Needs the capability `CAP_NET_ADMIN` in the network namespace of the workload; the sidecar itself needs no privilege.
    #[command(after_long_help = "Examples:
  sidegate-proxy capture apply --config sidecar.yaml --dry-run
  sidegate-proxy capture apply --config sidecar.yaml
  sidegate-proxy capture verify --config sidecar.yaml -o json
  sidegate-proxy capture clear")]
    Capture(capture::Args),
}

/// Runs a sidecar until SIGTERM or SIGINT, drains it, and says how that went. 0: in order; 1: it could not start, or ended by a
/// fault of its own; 2: the arguments or the configuration are wrong.
pub fn run(args: Args) -> ExitCode {
    let path = match (args.command, args.config) {
        (Some(Command::Capture(args)), _) => return capture::command::run(&args),
        (None, Some(path)) => path,
        (None, None) => {
            tell("sidegate-proxy: --config is missing");
            return ExitCode::from(2);
        }
    };
    if let Err(message) = log::install(&args.log_level) {
        tell(&format!("sidegate-proxy: {message}"));
        return ExitCode::from(2);
    }
    let config = match Config::load(&path) {
        Ok(config) => config,
        Err(error) => {
            tell(&format!("sidegate-proxy: {error}\n  see: sidegate explain-code {}", error.code()));
            return ExitCode::from(2);
        }
    };
    if args.check {
        return ExitCode::SUCCESS;
    }
    match app::run(config, path) {
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
