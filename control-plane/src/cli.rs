//! The entry that the binary and `sidegate control-plane` share: arguments in, exit code out.

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use sidegate_codes::Code;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};
use tracing::Level;

use crate::{app::Running, healthcheck};

/// What a person types after `sidegate-control-plane`.
#[derive(clap::Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// The mesh's configuration (`mesh.yaml`).
    #[arg(long, value_name = "FILE", required = true)]
    pub config: Option<PathBuf>,
    /// Least severe operational log line to write: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: Level,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Command {
    /// Ask a running control plane whether it serves: exit code 0 if it does, 1 if not or if nobody answers.
    ///
    /// For the health check of a container that holds nothing but this program.
    #[command(after_long_help = "Examples:
  sidegate-control-plane healthcheck
  sidegate-control-plane healthcheck --api 127.0.0.1:15180")]
    Healthcheck(healthcheck::Args),
}

/// Runs the control plane until SIGTERM or SIGINT. Exit code 0 after an orderly end, 1 if it cannot start.
pub fn run(args: Args) -> ExitCode {
    log_to_stderr(args.log_level);
    let config = match (args.command, args.config) {
        (Some(Command::Healthcheck(args)), _) => return healthcheck::run(&args),
        (None, Some(config)) => config,
        (None, None) => {
            tracing::error!("--config is missing");
            return ExitCode::from(2);
        }
    };
    keep_memory_private();
    match runtime::Builder::new_multi_thread().enable_all().thread_name("control-plane").build() {
        Ok(runtime) => runtime.block_on(serve(&config)),
        Err(error) => {
            tracing::error!(%error, "no runtime");
            ExitCode::FAILURE
        }
    }
}

/// The root's key is in it: the kernel writes no core file of this process, and lets no other one of its user read or trace it.
fn keep_memory_private() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "a core file of this process would hold the root's key");
    }
}

async fn serve(config: &Path) -> ExitCode {
    // Before the start: a signal that comes during it ends the process in order, not by default.
    let stopped = match stop_signal() {
        Ok(stopped) => stopped,
        Err(error) => {
            tracing::error!(%error, "signals cannot be received");
            return ExitCode::FAILURE;
        }
    };
    tokio::pin!(stopped);
    loop {
        let started = tokio::select! {
            biased;
            () = &mut stopped => return ExitCode::SUCCESS,
            started = Running::start(config) => started,
        };
        let running = match started {
            Ok(running) => running,
            Err(error) => {
                tracing::error!(code = %error.code(), %error, "cannot start");
                return ExitCode::FAILURE;
            }
        };
        let goes_on = tokio::select! {
            biased;
            () = &mut stopped => false,
            () = running.taken_over() => true,
        };
        if goes_on {
            tracing::error!(code = %Code::RegistryTakenOver, "another control plane has taken over; standing by");
        } else {
            tracing::info!("stopping");
        }
        running.stop().await;
        if !goes_on {
            return ExitCode::SUCCESS;
        }
    }
}

fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// A program that links this may have set up its own log; then that one stays.
fn log_to_stderr(level: Level) {
    let log =
        tracing_subscriber::fmt().json().flatten_event(true).with_max_level(level).with_writer(io::stderr);
    drop(log.try_init());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_told_to_dump_nothing() {
        keep_memory_private();
        assert!(matches!(rustix::process::dumpable_behavior(), Ok(DumpableBehavior::NotDumpable)));
    }
}
