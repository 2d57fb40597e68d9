//! The entry that the binary and `sidegate control-plane` share: arguments in, exit code out.

use std::{future::Future, io, path::PathBuf, process::ExitCode};

use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};
use tracing::Level;

use crate::app::Running;

/// What a person types after `sidegate-control-plane`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The mesh's configuration (`mesh.yaml`).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Least severe operational log line to write: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: Level,
}

/// Runs the control plane until SIGTERM or SIGINT. Exit code 0 after an orderly end, 1 if it cannot start.
pub fn run(args: Args) -> ExitCode {
    log_to_stderr(args.log_level);
    match runtime::Builder::new_multi_thread().enable_all().thread_name("control-plane").build() {
        Ok(runtime) => runtime.block_on(serve(args)),
        Err(error) => {
            tracing::error!(%error, "no runtime");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: Args) -> ExitCode {
    // Before the start: a signal that comes during it ends the process in order, not by default.
    let stopped = match stop_signal() {
        Ok(stopped) => stopped,
        Err(error) => {
            tracing::error!(%error, "signals cannot be received");
            return ExitCode::FAILURE;
        }
    };
    let running = match Running::start(&args.config).await {
        Ok(running) => running,
        Err(error) => {
            tracing::error!(code = %error.code(), %error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    stopped.await;
    tracing::info!("stopping");
    running.stop().await;
    ExitCode::SUCCESS
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
