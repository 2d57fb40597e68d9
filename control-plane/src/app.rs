//! The composition root: from a `mesh.yaml` to a running control plane, and from a stop to its end. Every task belongs
//! to it.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use sidegate_codes::Code;
use sidegate_proto::v1::{
    discovery_server::DiscoveryServer, identity_server::IdentityServer, ledger_server::LedgerServer,
};
use tokio::{net::TcpListener, sync::mpsc, time::interval};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Server;

use crate::{
    api::{self, Shown},
    ca::{self, Authority},
    clock,
    config::{Config, RegistryPlace},
    discovery::DiscoveryService,
    federation::{follow, serve::BundleEndpoint},
    issuance::IdentityService,
    ledger::{Ledger, report::LedgerService},
    mesh::Publisher,
    metrics::Metrics,
    problem::Problem,
    proxies::Proxies,
    quarantine::QuarantineFile,
    registry::Place,
    rotation::driver::Driver,
    server::{
        Acceptor, Connection, Listeners,
        credentials::{OwnCredentials, OwnCredentialsError},
        local::{LocalSocket, LocalSocketError},
    },
    standby,
    state::{StateError, StateFolder},
    tokens::{Tokens, TokensError},
};

/// A control plane that serves. Dropping it leaves its tasks running; end it with [`Running::stop`].
#[derive(Debug)]
pub struct Running {
    grpc: SocketAddr,
    api: SocketAddr,
    root_certificate: PathBuf,
    taken_over: CancellationToken,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The control plane cannot start. The operator's to mend; each message names the file or address.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `mesh.yaml` cannot be used; all that is wrong with it.
    #[error("{}", lines(.0))]
    Config(Vec<Problem>),
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The join tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source} ({})", Code::ListenFailed)]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The unix socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] LocalSocketError),
    /// The control plane cannot certify itself.
    #[error("no certificate for the control plane itself: {reason} ({})", Code::StateUnusable)]
    Credentials {
        /// Why.
        reason: String,
    },
}

impl Running {
    /// Starts from a `mesh.yaml`; with a registry that several control planes share, when it is this one's turn. Must be called
    /// within a runtime.
    pub async fn start(config_path: &Path) -> Result<Self, StartError> {
        let config = Config::load(config_path).map_err(StartError::Config)?;
        // Without it, whoever is in quarantine would be issued a certificate.
        let quarantine = QuarantineFile::load(&config).map_err(StartError::Config)?;
        let authority = Arc::new(open_authority(&config).await?);
        let tokens = Arc::new(Tokens::open(&config)?);
        let grpc = listen(config.grpc).await?;
        let api = listen(config.api).await?;
        let bundle = match config.bundle {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let local = config.socket.as_deref().map(LocalSocket::open).transpose()?;
        if let Some(path) = &config.socket {
            tracing::info!(listener = "socket", path = %path.display(), "listening");
        }
        if let (Some(listener), Some(configured)) = (&bundle, config.bundle) {
            tracing::info!(listener = "bundle", address = %address(listener, configured)?, "listening");
        }
        let addresses = (address(&grpc, config.grpc)?, address(&api, config.api)?);
        let running = Self {
            grpc: addresses.0,
            api: addresses.1,
            root_certificate: config.state.join(ca::PUBLIC_FILE),
            taken_over: authority.taken_over(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        running.spawn(
            (config_path, config, quarantine),
            (authority, tokens),
            (Listeners { network: grpc, local }, api, bundle),
        )?;
        tracing::info!(listener = "grpc", address = %running.grpc, "listening");
        tracing::info!(listener = "api", address = %running.api, "listening");
        Ok(running)
    }

    /// Where sidecars connect.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where the operator's API listens.
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// The root's certificate, for the sidecars' bootstrap.
    pub fn root_certificate(&self) -> &Path {
        &self.root_certificate
    }

    /// Returns when another control plane has taken the registry over: this one issues nothing more, and is to be stopped.
    pub async fn taken_over(&self) {
        self.taken_over.cancelled().await;
    }

    /// Ends every stream and task; returns when all have ended, or when the deadline has passed.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "not everything ended in time");
        }
    }

    fn spawn(
        &self,
        (config_path, config, quarantine): (&Path, Config, QuarantineFile),
        (authority, tokens): (Arc<Authority>, Arc<Tokens>),
        (listeners, api, bundle): (Listeners, TcpListener, Option<TcpListener>),
    ) -> Result<(), StartError> {
        let metrics = Arc::new(Metrics::default());
        let (publisher, mesh) =
            Publisher::start(config_path.to_owned(), config, &quarantine, authority.trust(), metrics.clone());
        let (credentials, tls) = OwnCredentials::start(authority.clone(), mesh.clone())
            .map_err(|error: OwnCredentialsError| StartError::Credentials { reason: error.to_string() })?;
        let proxies = Proxies::new();
        let ledger = Arc::new(Ledger::default());
        let (connections, incoming) = mpsc::channel(ACCEPT_QUEUE);
        let served_bundle = bundle.map(|listener| BundleEndpoint {
            listener,
            tls: tls.clone(),
            mesh: mesh.clone(),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        });
        let following = follow::run(mesh.clone(), metrics.clone(), self.stop.clone());
        let acceptor = Acceptor {
            listeners,
            tls,
            trust: authority.trust(),
            metrics: metrics.clone(),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        };
        let services = Services {
            identity: IdentityService::new(authority.clone(), tokens, mesh.clone(), metrics.clone()),
            discovery: DiscoveryService {
                authority: authority.clone(),
                views: publisher.views(),
                proxies: proxies.clone(),
                metrics: metrics.clone(),
                tasks: self.tasks.clone(),
                stop: self.stop.clone(),
                settled_at: tokio::time::Instant::now() + SETTLE,
            },
            ledger: LedgerService { ledger: ledger.clone(), metrics: metrics.clone() },
        };
        let rotation = Driver::new(authority.clone(), proxies.clone(), mesh.clone());
        let shown = Shown {
            mesh,
            authority,
            proxies: proxies.clone(),
            ledger,
            metrics,
            started_at_ms: clock::now_ms(),
        };
        self.tasks.spawn(publisher.run(self.stop.clone()));
        self.tasks.spawn(credentials.run(self.stop.clone()));
        self.tasks.spawn(rotation.run(self.stop.clone()));
        self.tasks.spawn(acceptor.run(connections));
        self.tasks.spawn(following);
        if let Some(endpoint) = served_bundle {
            self.tasks.spawn(endpoint.run());
        }
        self.tasks.spawn(services.serve(incoming, self.stop.clone()));
        self.tasks.spawn(sweep(proxies, self.stop.clone()));
        self.tasks.spawn(api::serve(api, shown, self.stop.clone()));
        Ok(())
    }
}

impl StartError {
    /// The code that explains it; of several, the first.
    pub fn code(&self) -> Code {
        match self {
            Self::Config(problems) => problems.first().map_or(Code::ConfigBadValue, |problem| problem.code),
            Self::State(error) => error.code(),
            Self::Tokens(error) => error.code().unwrap_or(Code::StateUnusable),
            Self::Listen { .. } => Code::ListenFailed,
            Self::Socket(_) => Code::LocalSocketUnusable,
            Self::Credentials { .. } => Code::StateUnusable,
        }
    }
}

/// The three gRPC services.
struct Services {
    identity: IdentityService,
    discovery: DiscoveryService,
    ledger: LedgerService,
}

impl Services {
    async fn serve(self, incoming: mpsc::Receiver<io::Result<Connection>>, stop: CancellationToken) {
        let served = Server::builder()
            // Until the answer begins; a stream may then go on for long.
            .timeout(CALL_TIMEOUT)
            // A sidecar has one stream and a few calls; more is not one of ours.
            .max_concurrent_streams(32)
            .http2_max_header_list_size(16 << 10)
            // A host that vanished without a word is noticed and its endpoint's grace begins.
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            // A request is under 1 KiB. One that is far larger is still told why and recorded, beyond that it is cut off.
            .add_service(IdentityServer::new(self.identity).max_decoding_message_size(256 << 10))
            .add_service(DiscoveryServer::new(self.discovery).max_decoding_message_size(4 << 20))
            .add_service(LedgerServer::new(self.ledger).max_decoding_message_size(4 << 20))
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "gRPC ended");
        }
    }
}

async fn open_authority(config: &Config) -> Result<Authority, StartError> {
    match &config.registry {
        RegistryPlace::Postgresql(database) => standby::until_its_turn(config, database).await,
        RegistryPlace::StateFolder => Ok(Authority::open(
            StateFolder::open(&config.state)?,
            &config.trust_domain,
            config.root_life,
            (Place::Folder, config.retention),
            config.trust_bundle.clone(),
        )?),
    }
}

async fn sweep(proxies: Arc<Proxies>, stop: CancellationToken) {
    let mut ticks = interval(SWEEP);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => proxies.sweep(Instant::now()),
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

fn address(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Listen { address, source })
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Handshakes that are done and wait for gRPC to take them.
const ACCEPT_QUEUE: usize = 64;
/// How long sidecars have to find back to a restarted control plane before a service without any counts as empty.
const SETTLE: Duration = Duration::from_secs(15);
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
const SWEEP: Duration = Duration::from_secs(1);
const STOP_DEADLINE: Duration = Duration::from_secs(5);
