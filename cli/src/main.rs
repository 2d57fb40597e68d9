//! `sidegate`, the operator's program: reads what a person typed, runs one command and ends with its exit code.
//! Answers go to stdout, everything else to stderr.
#![forbid(unsafe_code)]

mod api;
mod args;
mod certs;
mod check;
mod compose;
mod demo;
mod exit;
mod explain;
mod explain_call;
mod failure;
mod get;
mod http1;
mod join_token;
mod mesh_file;
mod policy;
mod quarantine;
mod reference;
mod sarif;
mod short;
mod status;
mod table;
mod terminal;
mod token;
mod version;
mod yaml;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Cli, Command},
    exit::Exit,
    failure::Failure,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            failure.exit().into()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let Some(command) = cli.command else {
        return status::run(&cli.read).map(Into::into);
    };
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Status(read) => status::run(&read).map(Into::into),
        Command::Check(args) => check::run(&args).map(Into::into),
        Command::Get { what } => get::run(&what).map(Into::into),
        Command::Certs { what } => certs::run(&what).map(Into::into),
        Command::Token { what } => token::run(&what).map(Into::into),
        Command::Proxy(args) => Ok(sidegate_proxy::cli::run(args)),
        Command::ControlPlane(args) => Ok(sidegate_control_plane::cli::run(args)),
        Command::Explain(args) => explain_call::run(&args).map(Into::into),
        Command::Policy { what } => policy::run(&what).map(Into::into),
        Command::Quarantine { what } => quarantine::run(&what).map(Into::into),
        Command::ExplainCode(args) => explain::run(&args).map(Into::into),
        Command::Compose { what } => compose::run(&what).map(Into::into),
        Command::Completion { shell } => reference::completion(shell).map(Into::into),
        Command::Version(args) => version::run(args).map(Into::into),
        Command::Reference { page, output } => reference::run(page, output).map(Into::into),
        Command::DemoPart(part) => Ok(demo::parts::run(part)),
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}
