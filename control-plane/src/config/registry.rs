//! Where the registry is, as `mesh.yaml` says it: in the state folder, or in a PostgreSQL that several control planes share. A
//! server elsewhere is reached over TLS or not at all.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{bounds::LEASE, document::Check, schema};

/// Where certificates are put on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryPlace {
    /// In a file of the state folder.
    StateFolder,
    /// In a database that several control planes share.
    Postgresql(Postgresql),
}

/// A database, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgresql {
    /// Where it listens.
    pub server: DatabaseServer,
    /// The name of the database.
    pub database: String,
    /// Whom it knows this control plane as.
    pub user: String,
    /// The file of the password.
    pub password_file: Option<PathBuf>,
    /// How long a control plane has the registry to itself after its last word.
    pub lease: Duration,
}

/// Where a database listens, and who vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseServer {
    /// A socket in this folder.
    Socket(PathBuf),
    /// On this host, without TLS.
    Loopback(IpAddr, u16),
    /// Anywhere, over TLS: the host's name or address, its port, and the file of the authorities that vouch for it.
    Tls(String, u16, PathBuf),
}

/// Where certificates are put on record.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Registry")]
pub(super) struct RegistryDocument {
    /// A database that several control planes share: one of them issues, the others wait to take over.
    postgresql: PostgresqlDocument,
}

/// A PostgreSQL database, version 13 or later.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Postgresql")]
struct PostgresqlDocument {
    /// `host:port`, or the absolute path of the folder of its socket.
    #[schemars(with = "String")]
    server: Spanned<String>,
    /// The database; a schema named `sidegate` is made in it.
    #[schemars(with = "String")]
    database: Spanned<String>,
    /// Whom the server knows the control plane as.
    #[schemars(with = "String")]
    user: Spanned<String>,
    /// The file, mode 0600, of the password. Absent: none is sent.
    #[serde(default)]
    #[schemars(with = "Option<schema::File>")]
    password_file: Option<PathBuf>,
    /// The authorities, PEM, one of which must vouch for the server under the name in `server`. With it the connection is TLS 1.3;
    /// without it `server` must be a socket or a loopback address.
    #[serde(default)]
    #[schemars(with = "Option<schema::File>")]
    trust_bundle: Option<PathBuf>,
    /// How long a control plane has the registry to itself after its last word; then another takes over.
    #[serde(default)]
    #[schemars(with = "Option<schema::Time>", transform = |schema: &mut Schema| LEASE.describe(schema))]
    lease: Option<Spanned<String>>,
}

impl RegistryDocument {
    pub(super) fn place(self, check: &mut Check, folder: &Path) -> Option<RegistryPlace> {
        const FIELD: &str = "registry.postgresql";
        let PostgresqlDocument { server, database, user, password_file, trust_bundle, lease } =
            self.postgresql;
        let authorities = trust_bundle.map(|path| folder.join(path));
        let server =
            check.value(&server, &format!("{FIELD}.server"), |text| database_server(text, authorities));
        let database = check.value(&database, &format!("{FIELD}.database"), word);
        let user = check.value(&user, &format!("{FIELD}.user"), word);
        let lease = check.duration(lease.as_ref(), &format!("{FIELD}.lease"), LEASE);
        Some(RegistryPlace::Postgresql(Postgresql {
            server: server?,
            database: database?,
            user: user?,
            password_file: password_file.map(|path| folder.join(path)),
            lease: lease?,
        }))
    }
}

impl fmt::Display for RegistryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StateFolder => f.write_str("state folder"),
            Self::Postgresql(database) => database.fmt(f),
        }
    }
}

impl fmt::Display for Postgresql {
    /// As people name it; without anything secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            DatabaseServer::Socket(folder) => write!(f, "postgresql {}", folder.display())?,
            DatabaseServer::Loopback(IpAddr::V6(ip), port) => write!(f, "postgresql [{ip}]:{port}")?,
            DatabaseServer::Loopback(ip, port) => write!(f, "postgresql {ip}:{port}")?,
            DatabaseServer::Tls(host, port, _) => write!(f, "postgresql {host}:{port}")?,
        }
        write!(f, " database {}", self.database)
    }
}

fn database_server(text: &str, authorities: Option<PathBuf>) -> Result<DatabaseServer, String> {
    if text.starts_with('/') {
        return match authorities {
            None => Ok(DatabaseServer::Socket(text.into())),
            Some(_) => Err(format!("{text:?} is a socket, which has no TLS: remove trustBundle")),
        };
    }
    let named = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let Some((host, port)) = named.filter(|(host, port)| !host.is_empty() && *port != 0) else {
        return Err(format!("{text:?} is neither host:port nor the absolute path of a folder"));
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match (host.parse::<IpAddr>(), authorities) {
        (_, Some(authorities)) => Ok(DatabaseServer::Tls(host.to_owned(), port, authorities)),
        (Ok(ip), None) if ip.is_loopback() => Ok(DatabaseServer::Loopback(ip, port)),
        _ => Err(format!("{text:?} is not on this host, so the connection must be TLS: add trustBundle")),
    }
}

fn word(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("{text:?} is not a name"));
    }
    Ok(text.to_owned())
}
