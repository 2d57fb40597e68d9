//! `sidegate version`: which release this is.

use serde_json::json;

use crate::{
    args::Output,
    exit::Exit,
    failure::Failure,
    table::{self, Format},
};

/// Prints the release.
pub(crate) fn run(args: Output) -> Result<Exit, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match args.output {
        Format::Json => table::print_json("Version", json!({"version": version}))?,
        Format::Table | Format::Wide => table::print(&format!("sidegate {version}\n"))?,
    }
    Ok(Exit::Ok)
}
