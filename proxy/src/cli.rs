//! What a person types to start a sidecar: arguments in, an exit code out.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustix::{
    process::{DumpableBehavior, set_dumpable_behavior},
    thread::disable_transparent_huge_pages,
};
use sidegate_codes::Code;

use crate::{
    app::{self, RunError},
    capture, check,
    config::Config,
    healthcheck,
    telemetry::log,
};

/// Arguments of `sidegate-proxy` and `sidegate proxy`.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// The sidecar's configuration file (YAML); docs/reference/config.md lists every field.
    #[arg(long, value_name = "FILE", required_unless_present = "config_text")]
    pub config: Option<PathBuf>,

    /// The configuration itself instead of a file, for containers whose description holds it. Read once: a change of it is a
    /// new process.
    #[arg(
        long,
        value_name = "YAML",
        env = "SIDEGATE_CONFIG",
        conflicts_with = "config",
        hide_env_values = true
    )]
    pub config_text: Option<String>,

    /// Verbosity of the log on standard error: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,

    /// Check the configuration, and with it the certificate, key, bundle and policies that it names as files, as a start would
    /// take them; then exit.
    ///
    /// Exit code 0: all of it is good; 1: a file beside the configuration cannot be used, or the certificate is in the last
    /// quarter of its life; 2: the configuration is wrong.
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

    /// Ask a running sidecar whether it is ready: exit code 0 if it is, 1 if not or if nobody answers.
    ///
    /// For the health check of a container that holds nothing but this program.
    #[command(after_long_help = "Examples:
  sidegate-proxy healthcheck
  sidegate-proxy healthcheck --admin 127.0.0.1:15120")]
    Healthcheck(healthcheck::Args),
}

/// Runs a sidecar until SIGTERM or SIGINT, drains it, and says how that went. 0: in order; 1: it could not start, or ended by a
/// fault of its own; 2: the arguments or the configuration are wrong.
pub fn run(args: Args) -> ExitCode {
    match args.command {
        Some(Command::Capture(args)) => return capture::command::run(&args),
        Some(Command::Healthcheck(args)) => return healthcheck::run(&args),
        None => {}
    }
    take_small_pages();
    if let Err(message) = log::install(&args.log_level) {
        tell(&format!("sidegate-proxy: {message}"));
        return ExitCode::from(2);
    }
    keep_memory_private();
    let config = match (&args.config, &args.config_text) {
        (Some(path), _) => Config::load(path),
        (None, Some(text)) => Config::parse(Path::new(ENVIRONMENT), text),
        (None, None) => {
            tell("sidegate-proxy: --config is missing");
            return ExitCode::from(2);
        }
    };
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            tell(&format!("sidegate-proxy: {error}\n  see: sidegate explain-code {}", error.code()));
            return ExitCode::from(2);
        }
    };
    if args.check {
        return check::run(&config);
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

/// Keys are in it: the kernel writes no core file of this process, and lets no other one of its user read or trace it.
fn keep_memory_private() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "a core file of this process would hold its keys");
    }
}

/// A sidecar holds many small things, and one beside each container holds them for little traffic: of pages of two megabytes most
/// would be empty. Before anything is allocated for good.
fn take_small_pages() {
    if let Err(error) = disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "the kernel may use huge pages");
    }
}

fn code(error: &RunError) -> Code {
    match error {
        RunError::Listen { .. } => Code::ListenFailed,
        RunError::WorkloadApi(_) => Code::WorkloadApiUnserved,
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

/// What messages call a configuration that is no file; relative paths in it are from the working directory.
const ENVIRONMENT: &str = "SIDEGATE_CONFIG";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: Args,
    }

    fn is_understood(arguments: &[&str]) -> bool {
        Typed::try_parse_from(["sidegate-proxy"].iter().chain(arguments)).is_ok()
    }

    #[test]
    fn the_configuration_comes_from_exactly_one_place() {
        assert!(is_understood(&["--config", "sidecar.yaml"]));
        assert!(is_understood(&["--config-text", "trustDomain: shop.test"]));
        assert!(!is_understood(&[]));
        assert!(!is_understood(&["--config", "sidecar.yaml", "--config-text", "trustDomain: shop.test"]));
    }

    #[test]
    fn the_kernel_is_told_to_dump_nothing() {
        keep_memory_private();
        assert!(matches!(rustix::process::dumpable_behavior(), Ok(DumpableBehavior::NotDumpable)));
    }

    #[test]
    fn the_kernel_is_told_to_take_small_pages() {
        take_small_pages();
        assert!(matches!(rustix::thread::transparent_huge_pages_are_disabled(), Ok(true)));
    }

    #[test]
    fn a_health_check_needs_no_configuration() {
        assert!(is_understood(&["healthcheck"]));
        assert!(!is_understood(&["healthcheck", "--admin", "nowhere"]));
    }

    #[test]
    fn a_text_that_is_no_configuration_is_refused_by_name() {
        let typed = Typed::try_parse_from(["sidegate-proxy", "--config-text", "policies: here"]).ok();
        let text = typed.and_then(|typed| typed.args.config_text).unwrap_or_default();
        let error =
            Config::parse(Path::new(ENVIRONMENT), &text).map(|_| ()).map_err(|error| error.to_string());
        assert!(error.is_err_and(|error| error.starts_with("SIDEGATE_CONFIG")));
    }
}
