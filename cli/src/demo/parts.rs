//! The processes that the demo starts from its own executable. Each first binds its life to the demo's, so that
//! nothing is left behind even when the demo is killed.

pub(super) mod caller;
pub(super) mod lines;
pub(super) mod load;
pub(super) mod service;
pub(super) mod stranger;

use std::{io, process::ExitCode};

/// Arguments of one process of the demo.
#[derive(clap::Args, Debug)]
pub(crate) struct PartArgs {
    /// The process that started this one; this one ends with it.
    #[arg(long, value_name = "PID")]
    parent: u32,
    #[command(subcommand)]
    part: Part,
}

#[derive(clap::Subcommand, Debug)]
enum Part {
    /// A sidecar.
    RunProxy(sidegate_proxy::cli::Args),
    /// The control plane.
    RunControlPlane(sidegate_control_plane::cli::Args),
    /// One of the three services.
    Service(service::Args),
    /// The customers.
    Load(load::Args),
    /// A workload of the mesh that calls what it may not.
    Intruder(caller::Args),
    /// A client with a certificate of a foreign CA that names the identity of another.
    Foreign(stranger::Args),
    /// A TLS client without a certificate.
    Anonymous(stranger::Args),
}

/// Runs one part until it is ended.
pub(crate) fn run(args: PartArgs) -> ExitCode {
    let outcome = bind_to(args.parent).and_then(|()| match args.part {
        Part::RunProxy(args) => Ok(sidegate_proxy::cli::run(args)),
        Part::RunControlPlane(args) => Ok(sidegate_control_plane::cli::run(args)),
        Part::Service(args) => on_runtime(service::run(args)),
        Part::Load(args) => on_runtime(load::run(args)),
        Part::Intruder(args) => on_runtime(caller::run(args)),
        Part::Foreign(args) => on_runtime(stranger::run(args, stranger::Kind::ForeignAuthority)),
        Part::Anonymous(args) => on_runtime(stranger::run(args, stranger::Kind::NoCertificate)),
    });
    outcome.unwrap_or_else(|error| {
        // Into the part's log file; without one there is nobody to tell.
        let _ = io::Write::write_all(&mut io::stderr(), format!("{error}\n").as_bytes());
        ExitCode::FAILURE
    })
}

/// The kernel ends this process when its parent ends, however that happens.
fn bind_to(parent: u32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // The parent may have ended before the signal was set; then it is never sent.
    if std::os::unix::process::parent_id() == parent {
        Ok(())
    } else {
        Err(io::Error::other("the demo that started this process is gone"))
    }
}

fn on_runtime(part: impl Future<Output = io::Result<()>>) -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(part).map(|()| ExitCode::SUCCESS)
}
