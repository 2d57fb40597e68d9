//! A connection to the database for callers that wait: made when it is needed, bounded in time, dropped when it may have
//! broken.

use std::{error::Error as _, fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use tokio::{
    runtime::{self, Runtime},
    time::timeout,
};
use tokio_postgres::{Client, NoTls, config::SslMode};
use zeroize::Zeroizing;

use super::{super::store::StoreError, tls::Tls};
use crate::config::{DatabaseServer, Postgresql};

/// A database, with a connection to it or without one at the moment.
pub(super) struct Link {
    database: Postgresql,
    client: Option<Client>,
    /// Drives the connection while a caller waits; dropped last.
    runtime: Runtime,
}

impl Link {
    /// Connects. Must not be called on a runtime's own thread.
    pub(super) fn open(database: &Postgresql) -> Result<Self, StoreError> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| StoreError::Postgres(error.to_string()))?;
        let mut link = Self { database: database.clone(), client: None, runtime };
        link.connect()?;
        Ok(link)
    }

    /// Does `work` on a connection, a new one if there is none. After a failure that may be the connection's the next work gets
    /// another one.
    pub(super) fn change<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.connect()?;
        let Some(client) = &mut self.client else { return Err(away()) };
        let done = self.runtime.block_on(bounded(work(client)));
        if matches!(done, Err(StoreError::Postgres(_))) {
            self.client = None;
        }
        done
    }

    /// Does `work` on the connection, if there is one.
    pub(super) fn look<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let client = self.client.as_ref().ok_or_else(away)?;
        self.runtime.block_on(bounded(work(client)))
    }

    pub(super) fn database(&self) -> &Postgresql {
        &self.database
    }

    fn connect(&mut self) -> Result<(), StoreError> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = None;
            self.client = Some(self.runtime.block_on(bounded(connect(&self.database)))?);
        }
        Ok(())
    }
}

async fn bounded<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = |_| StoreError::Postgres(format!("no answer within {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, work).await.map_err(late)?
}

async fn connect(database: &Postgresql) -> Result<Client, StoreError> {
    let mut config = tokio_postgres::Config::new();
    config.dbname(&database.database).user(&database.user).application_name("sidegate-control-plane");
    if let Some(path) = &database.password_file {
        config.password(password(path)?.as_str());
    }
    let client = match &database.server {
        DatabaseServer::Socket(folder) => plain(config.host_path(folder)).await?,
        DatabaseServer::Loopback(ip, port) => plain(config.host(ip.to_string()).port(*port)).await?,
        DatabaseServer::Tls(host, port, authorities) => {
            let tls = Tls::trusting(authorities).map_err(StoreError::Postgres)?;
            config.host(host).port(*port).ssl_mode(SslMode::Require);
            let (client, connection) = config.connect(tls).await?;
            tokio::spawn(connection);
            client
        }
    };
    client.batch_execute(SESSION).await?;
    Ok(client)
}

async fn plain(config: &mut tokio_postgres::Config) -> Result<Client, StoreError> {
    let (client, connection) = config.ssl_mode(SslMode::Disable).connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The first line of the file, which nobody else may be able to read.
fn password(path: &Path) -> Result<Zeroizing<String>, StoreError> {
    let refuse = |why: String| StoreError::Postgres(format!("{}: {why}", path.display()));
    let found = fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
    let mode = found.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(refuse(format!("has mode {mode:04o}, which lets others in; it must be 0600")));
    }
    if found.len() > MAX_PASSWORD_BYTES {
        return Err(refuse(format!("is larger than {MAX_PASSWORD_BYTES} bytes")));
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?);
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

impl From<tokio_postgres::Error> for StoreError {
    /// With its causes: what the server said, or the network.
    fn from(error: tokio_postgres::Error) -> Self {
        let mut message = match error.as_db_error() {
            Some(said) => format!("{} ({})", said.message(), said.code().code()),
            None => error.to_string(),
        };
        let mut cause = if error.as_db_error().is_some() { None } else { error.source() };
        while let Some(error) = cause {
            let said = error.to_string();
            if !message.contains(&said) {
                message = format!("{message}: {said}");
            }
            cause = error.source();
        }
        Self::Postgres(message)
    }
}

fn away() -> StoreError {
    StoreError::Postgres("there is no connection".to_owned())
}

/// For a connection, and for a piece of work on it.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_PASSWORD_BYTES: u64 = 4096;
/// On disk means on disk, whatever the server's own default. A control plane that vanished in a transaction does not hold up the
/// next one.
const SESSION: &str = "
SET synchronous_commit = on;
SET statement_timeout = '5s';
SET idle_in_transaction_session_timeout = '5s';
SET search_path = pg_catalog;
";
