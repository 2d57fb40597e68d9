//! `sidegate certs`: the certificates of the mesh and its root. What was issued is read from the registry's files.

mod intermediate;
mod records;
mod rotate;

use crate::{exit::Exit, failure::Failure};

/// What can be done with certificates.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum What {
    /// List who was issued a certificate, the newest first; or who was refused one.
    #[command(after_long_help = "Examples:
  sidegate certs list --id shop/payments --at 2026-11-22T10:00:00Z    who could have been payments then
  sidegate certs list --refused -o json")]
    List(records::ListArgs),
    /// Show one certificate: whose, by which proof, to which address, how long.
    #[command(after_long_help = "Example:\n  sidegate certs show 01019abc --mesh mesh.yaml -o json")]
    Show(records::ShowArgs),
    /// Check that the registry is whole: every record, the chain of their hashes, every signed checkpoint.
    #[command(after_long_help = "Example:\n  sidegate certs verify --mesh mesh.yaml")]
    Verify(records::VerifyArgs),
    /// Move the registry from the state folder into the database that `registry` of mesh.yaml names.
    ///
    /// Every record and every signed checkpoint is moved as it is and checked there, so the chain goes on. Stop the control plane
    /// first. What was interrupted is taken up again; the file is kept as registry.db.imported.
    #[command(after_long_help = "Example:\n  sidegate certs import --mesh mesh.yaml")]
    Import(records::ImportArgs),
    /// Replace the mesh's root by a new one, without a failed handshake.
    #[command(subcommand)]
    Rotate(rotate::What),
    /// Sign under a root whose key is kept elsewhere.
    #[command(subcommand)]
    Intermediate(intermediate::What),
    /// Replace a root whose key may be known to others, now: certificates are renewed at once, and whoever is away is waited
    /// for no longer than half a minute per phase.
    #[command(after_long_help = "Example:
  sidegate certs taint --reason 'backup of the state folder stolen, INC-9' --mesh mesh.yaml")]
    Taint(rotate::TaintArgs),
}

/// Runs one of them.
pub(crate) fn run(what: &What) -> Result<Exit, Failure> {
    match what {
        What::List(args) => records::list(args),
        What::Show(args) => records::show(args),
        What::Verify(args) => records::verify(args),
        What::Import(args) => records::import(args),
        What::Intermediate(what) => intermediate::run(what),
        What::Rotate(what) => rotate::run(what),
        What::Taint(args) => rotate::taint(args),
    }
}
