//! How to reach the control plane, and how both sides know each other. Refuses what is neither a host with its port nor a socket.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{file::Faults, schema};

/// How to reach the control plane and to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlane {
    /// Where it listens for sidecars.
    pub address: ControlPlaneAddress,
    /// PEM file with the roots that vouch for the control plane at the first contact.
    pub trust_bundle: PathBuf,
    /// File with the join token. `None`: without an identity that can be renewed, only the kernel can prove whose process this is.
    pub join_token: Option<PathBuf>,
}

/// Where a control plane listens for sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlPlaneAddress {
    /// `host:port`.
    Network(String),
    /// A unix socket of this host.
    Socket(PathBuf),
}

/// How to reach the control plane and to know it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ControlPlaneFile {
    /// Its gRPC listener, `host:port`; or `unix:` and its socket on the same host (`listen.socket` in `mesh.yaml`), at which the kernel
    /// says whose process this sidecar is.
    #[schemars(with = "schema::ControlPlaneAddress")]
    address: String,
    /// PEM: the roots that vouch for the control plane at the first contact.
    #[schemars(with = "schema::File")]
    trust_bundle: PathBuf,
    /// The file that holds the join token. Absent: a cached identity can be renewed, and at a socket the sidecar's user proves
    /// whose it is.
    #[schemars(with = "Option<schema::File>")]
    join_token: Option<PathBuf>,
}

impl ControlPlaneFile {
    pub(super) fn resolve(self, faults: &mut Faults<'_>) -> Option<ControlPlane> {
        let address = parse(&self.address, faults);
        let address = faults.take("controlPlane.address", address)?;
        Some(ControlPlane {
            address,
            trust_bundle: faults.file(&self.trust_bundle),
            join_token: self.join_token.map(|path| faults.file(&path)),
        })
    }
}

fn parse(text: &str, faults: &Faults<'_>) -> Result<ControlPlaneAddress, String> {
    if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return Ok(ControlPlaneAddress::Socket(faults.file(Path::new(path))));
    }
    let has_port = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0));
    if has_port {
        Ok(ControlPlaneAddress::Network(text.to_owned()))
    } else {
        Err(format!("{text:?} is neither host:port nor unix:path"))
    }
}

impl fmt::Display for ControlPlaneAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => f.write_str(address),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
