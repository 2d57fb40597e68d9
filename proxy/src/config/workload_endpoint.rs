//! Where the application is given its own SVID: the section `workloadApi` of the file, and the step from it to typed
//! values. Refuses a path that no socket can have and a list that admits nobody.

use std::{collections::BTreeSet, path::PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Files, Identity, Source, file::Faults, schema};

/// The socket on which the application is given its own SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadEndpoint {
    /// The socket's file.
    pub socket: PathBuf,
    /// Who is answered there.
    pub users: Users,
}

/// Whose processes are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Users {
    /// The sidecar's own user's.
    Own,
    /// These users', and nobody else's: the sidecar's own only if it is among them.
    These(BTreeSet<u32>),
}

/// The SPIFFE Workload API (X.509-SVID profile) on a unix socket, for an application that wants an SVID of its own.
/// Whoever is answered there has the workload's private key, and can be the workload anywhere.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkloadEndpointFile {
    /// The socket. Its folder is made if it is missing, and must be writable for the sidecar's user or root alone.
    #[schemars(with = "schema::File")]
    listen: PathBuf,
    /// The user IDs whose processes are answered, as the sidecar sees them. Absent: the sidecar's own user alone.
    users: Option<Vec<u32>>,
}

impl WorkloadEndpointFile {
    pub(super) fn resolve(
        self,
        source: Option<&Source>,
        faults: &mut Faults<'_>,
    ) -> Option<WorkloadEndpoint> {
        let socket = faults.file(&self.listen);
        let length = socket.as_os_str().len();
        if length > LONGEST_PATH {
            let message = format!(
                "{} has {length} bytes; a socket's path has at most {LONGEST_PATH}",
                socket.display()
            );
            faults.push("workloadApi.listen", message);
        }
        if source.is_some_and(|source| is_provider(source, &socket)) {
            faults.push("workloadApi.listen", "is the socket that the identity comes from");
        }
        let users = match self.users {
            None => Users::Own,
            Some(users) if users.is_empty() => {
                faults.push(
                    "workloadApi.users",
                    "is empty, so that nobody is answered; leave it out for the own user",
                );
                return None;
            }
            Some(users) => Users::These(users.into_iter().collect()),
        };
        Some(WorkloadEndpoint { socket, users })
    }
}

fn is_provider(source: &Source, socket: &PathBuf) -> bool {
    match source {
        Source::Files(Files { identity: Identity::WorkloadApi(provider), .. }) => provider.socket == *socket,
        Source::Files(_) | Source::ControlPlane(_) => false,
    }
}

/// What `sun_path` of unix(7) holds, less the NUL at its end.
const LONGEST_PATH: usize = 107;
