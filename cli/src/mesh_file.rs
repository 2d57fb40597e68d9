//! `--mesh FILE`, as every command takes it that works on the control plane's own files; and identities as a person types
//! them in that mesh.

use std::path::PathBuf;

use sidegate_codes::Code;
use sidegate_control_plane::{Problem, config::Config};
use sidegate_identity::SpiffeId;

use crate::{exit::Exit, failure::Failure};

/// The mesh whose files are worked on.
#[derive(clap::Args, Debug)]
pub(crate) struct MeshFile {
    /// The control plane's file, which names its state folder and its other files.
    #[arg(long, value_name = "FILE", default_value = "mesh.yaml")]
    mesh: PathBuf,
}

impl MeshFile {
    pub(crate) fn load(&self) -> Result<Config, Failure> {
        Config::load(&self.mesh)
            .map_err(|problems| refused("the control plane's file cannot be read", &problems))
    }
}

/// What is wrong with a file of the mesh.
pub(crate) fn refused(what: &str, problems: &[Problem]) -> Failure {
    let code = problems.first().map_or(Code::ConfigBadValue, |problem| problem.code);
    let why = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n        ");
    let next = "name the control plane's file with --mesh, and mend what is said above";
    Failure::new(Exit::Usage, what, why, next).coded(code)
}

/// A SPIFFE ID, or `namespace/account` of the mesh's own trust domain.
pub(crate) fn identity(config: &Config, text: &str) -> Result<SpiffeId, Failure> {
    let id = match text.split_once('/') {
        Some((namespace, account)) if !text.contains(':') && !account.contains('/') => {
            SpiffeId::for_workload(&config.trust_domain, namespace, account)
        }
        _ => SpiffeId::parse(text),
    };
    id.map_err(|error| {
        let next = "name it as spiffe://TRUST-DOMAIN/PATH, or as NAMESPACE/ACCOUNT";
        Failure::new(Exit::Usage, "this is no identity", error.to_string(), next).seen(text)
    })
}
