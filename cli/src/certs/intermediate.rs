//! `sidegate certs intermediate request|install`: a root whose key is elsewhere signs the intermediate that the control plane
//! signs with. Works on the state folder as its user; a running control plane is asked to take the new one.

use std::{fs, path::PathBuf};

use sidegate_control_plane::intermediate::{self, IntermediateError, Placed};

use super::rotate::AskArgs;
use crate::{
    args::Output,
    exit::Exit,
    failure::Failure,
    mesh_file::MeshFile,
    table::{self, Format},
};

/// What can be done with an intermediate.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum What {
    /// Make a request for an intermediate, for the owner of the root to sign. Its key stays in the state folder.
    ///
    /// Asked again before the certificate is installed, it is the request of the same key.
    #[command(after_long_help = "Example:
  sidegate certs intermediate request --out intermediate.csr --mesh mesh.yaml
  # where the root's key is:
  openssl x509 -req -in intermediate.csr -CA root.pem -CAkey root.key -days 30 -copy_extensions copy -out intermediate.pem")]
    Request(MakeArgs),
    /// Sign with an intermediate from now on.
    ///
    /// In a mesh that has not begun yet it is the first signer. Under the root that is trusted already it takes over at once;
    /// under another root a rotation begins, which waits for every sidecar as any rotation does.
    #[command(after_long_help = "Examples:
  sidegate certs intermediate install --certificate intermediate.pem --root root.pem --reason 'monthly' --mesh mesh.yaml
  sidegate certs intermediate install --certificate i2.pem --root root2.pem --taint --reason 'host broken into, INC-9'")]
    Install(InstallArgs),
}

/// Arguments of `sidegate certs intermediate request`.
#[derive(clap::Args, Debug)]
pub(crate) struct MakeArgs {
    #[command(flatten)]
    file: MeshFile,
    /// Where the request goes, as PEM; `-` is the standard output.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Arguments of `sidegate certs intermediate install`.
#[derive(clap::Args, Debug)]
pub(crate) struct InstallArgs {
    /// The signed certificate, as PEM; after it the one that it was issued by, if that is not the root.
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// The root's certificate, as PEM.
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// The key that signs now may be known to others: its root is replaced in a hurry. The new root must be another.
    #[arg(long)]
    taint: bool,
    #[command(flatten)]
    ask: AskArgs,
}

/// Runs one of them.
pub(super) fn run(what: &What) -> Result<Exit, Failure> {
    match what {
        What::Request(args) => request(args),
        What::Install(args) => install(args),
    }
}

fn request(args: &MakeArgs) -> Result<Exit, Failure> {
    let config = args.file.load()?;
    let pem = intermediate::request(&config).map_err(|error| refused(&error))?;
    if args.out.as_os_str() == "-" {
        table::print(&pem)?;
        return Ok(Exit::Ok);
    }
    fs::write(&args.out, pem).map_err(|error| {
        let seen = args.out.display().to_string();
        Failure::new(Exit::Usage, "the request cannot be written", error.to_string(), "name another file")
            .seen(&seen)
    })?;
    table::print(&format!(
        "{} holds the request; have it signed by the root, then: sidegate certs intermediate install\n",
        args.out.display()
    ))?;
    Ok(Exit::Ok)
}

fn install(args: &InstallArgs) -> Result<Exit, Failure> {
    let config = args.ask.file.load()?;
    let (certificate, root) = (read(&args.certificate)?, read(&args.root)?);
    let placed = intermediate::place(&config, &certificate, &root, args.taint, &args.ask.reason);
    match placed.map_err(|error| refused(&error))? {
        Placed::First => {
            began(args.ask.output)?;
            Ok(Exit::Ok)
        }
        Placed::Ask(request) => {
            let exit = args.ask.ask(&request)?;
            intermediate::taken(&config).map_err(|error| refused(&error.into()))?;
            Ok(exit)
        }
    }
}

fn began(output: Output) -> Result<(), Failure> {
    match output.output {
        Format::Json => table::print_json("Intermediate", serde_json::json!({"installed": true})),
        _ => table::print("installed; the control plane begins with it at its next start\n"),
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| {
        let seen = path.display().to_string();
        let next = "name a file with certificates in PEM";
        Failure::new(Exit::Usage, "the file cannot be read", error.to_string(), next).seen(&seen)
    })
}

fn refused(error: &IntermediateError) -> Failure {
    let next = match error {
        IntermediateError::Unusable(_) => {
            "have the request signed as a CA with keyCertSign and path length 0, by a root that may"
        }
        IntermediateError::NoRequest(_) => "sidegate certs intermediate request",
        IntermediateError::State(_) => {
            "run it on the control plane's host, as the user who owns the state folder"
        }
    };
    Failure::new(Exit::Findings, "the intermediate is not in use", error.to_string(), next)
        .coded(error.code())
}
