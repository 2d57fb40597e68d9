//! `sidegate compose`: a mesh around the services of a Compose file. The application's file goes in; tokens, policies and an
//! override come out, or a list of what cannot be meshed, and nothing is written then.

mod check;
mod file;
mod folder;
mod guess;
mod init;
mod inject;
mod input;
mod plan;
mod problem;
mod settings;
mod sidecar;
mod starter;
mod write;
mod yaml;

use crate::{exit::Exit, failure::Failure};

/// What to do with a Compose file.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum What {
    /// Make .sidegate/ beside the file: mesh.yaml, a join token for each service, starter policies.
    ///
    /// The policies let in whom the file declares: `depends_on`, `links`, and values of the environment that look like
    /// addresses. What was guessed is printed; the labels `sidegate.dev/ports: "8080/http, 9090"` and
    /// `sidegate.dev/upstreams: "orders, db:5432"` stand in place of guesses, `sidegate.dev/inject: disabled` leaves a
    /// service as it is. A second run adds what is new and changes nothing else.
    #[command(after_long_help = "Examples:
  sidegate compose init
  sidegate compose init --file docker-compose.yml --subnet 10.83.0.0/20")]
    Init(init::Args),

    /// Write compose.sidegate.yaml: the control plane, a sidecar for each service, and their fences.
    ///
    /// Each application stands alone with its sidecar on a network without a way out, where the names of its upstreams are
    /// the sidecar's. Published ports move to the sidecar. A service that cannot be meshed is refused with a code and the way
    /// out, and nothing is written.
    #[command(after_long_help = "Examples:
  sidegate compose inject
  docker compose -f compose.yaml -f compose.sidegate.yaml up

  sidegate compose inject --merge --out -             one complete file, for tools that do not know !override
  sidegate compose inject --file - --out - < compose.yaml")]
    Inject(write::Args),

    /// Find what leads past a sidecar: shared networks, published ports, sidecars that join their application, tokens.
    ///
    /// Judges what `inject` makes of the application's file, and whether that is what was written; or with `--complete` any
    /// complete file. Exit code 1 if anything is found.
    #[command(after_long_help = "Examples:
  sidegate compose check
  docker compose -f compose.yaml -f compose.sidegate.yaml config > all.yaml && sidegate compose check --complete all.yaml -o json")]
    Check(check::Args),
}

/// Runs the command.
pub(crate) fn run(what: &What) -> Result<Exit, Failure> {
    match what {
        What::Init(args) => init::run(args),
        What::Inject(args) => write::run(args),
        What::Check(args) => check::run(args),
    }
}

#[cfg(test)]
mod tests;
