//! Puts a sidecar together and takes it apart: opens listeners, starts one thread per worker, runs the control side on
//! the main thread, and on SIGTERM or SIGINT drains in order. Every task and thread here is waited for, for as long as
//! its own bound says; a part that ends by itself ends the sidecar, since it would serve on blindly.

mod lifeline;
mod reload;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use futures_util::FutureExt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sidegate_codes::Code;
use tokio::{
    runtime::{Builder, LocalOptions},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::timeout,
};
use tokio_util::task::TaskTracker;

use crate::{
    accept::{self, Gate},
    admin::{self, Admin},
    config::{AccessLog as AccessLogTarget, Config, Source},
    control::{self, Client, Means},
    drain::Drain,
    files::InForce,
    inbound, jwt, memory, outbound,
    route::warn_of_faults,
    snapshot::Publisher,
    telemetry::{AccessLog, Direction, Edges, Metrics, access_log::Writer},
    worker::{Shared, Worker},
    workload_api,
    workload_endpoint::{self, Endpoint, Socket, SocketError},
};

use lifeline::Lifeline;
use reload::Reload;

pub(crate) use lifeline::Part;

/// Why a sidecar could not start, or ended without being told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// An address is taken, absent or privileged.
    #[error("cannot listen on {address}: {cause}")]
    Listen { address: SocketAddr, cause: io::Error },
    /// The control plane's bundle cannot be used.
    #[error(transparent)]
    Control(#[from] control::StartError),
    /// The socket of the Workload API is taken, or would not be safe.
    #[error(transparent)]
    WorkloadApi(#[from] SocketError),
    /// The system gives no thread, no event queue or no randomness.
    #[error("cannot start: {0}")]
    Runtime(#[from] io::Error),
    /// A bug: a part is gone that the others count on.
    #[error("{0} ended by a fault of Sidegate itself")]
    Fault(Part),
}

/// Runs until told to stop, then drains. `path`: the file that the configuration was read from, and is followed in.
pub(crate) fn run(config: Config, path: Option<PathBuf>) -> Result<(), RunError> {
    raise_descriptors();
    let sidecar = Sidecar::open(config, path)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(sidecar.serve());
    // What still waits then is a thread of the blocking pool, for a file or a reader that does not answer.
    runtime.shutdown_timeout(RUNTIME_END);
    ended
}

/// A sidecar with its listeners open.
struct Sidecar {
    config: Config,
    path: Option<PathBuf>,
    listeners: Vec<Listener>,
    admin: Option<TcpListener>,
    publisher: Arc<Publisher>,
    metrics: Arc<Metrics>,
    edges: Edges,
    access_log: AccessLog,
    writer: Option<Writer>,
    drain: Drain,
    /// Begins when no worker serves any more.
    traffic_ended: Drain,
}

/// An open port of the data path.
struct Listener {
    takes: Takes,
    /// What its refusals are recorded under.
    port: u16,
    socket: TcpListener,
}

/// What arrives at a listener; ports by their place in the configuration.
#[derive(Clone, Copy, Debug)]
enum Takes {
    /// What peers send to this port.
    Inbound(usize),
    /// What peers send to any of the captured ports.
    CapturedInbound,
    /// What the application sends to this port, or through it.
    Outbound(usize),
}

impl Sidecar {
    fn open(config: Config, path: Option<PathBuf>) -> Result<Self, RunError> {
        let mut listeners = Vec::new();
        if let Some(captured) = config.inbound.iter().find(|inbound| inbound.is_captured) {
            let socket = listen(captured.listen, "inbound, captured")?;
            listeners.push(Listener { takes: Takes::CapturedInbound, port: captured.listen.port(), socket });
        }
        for (index, inbound) in config.inbound.iter().enumerate().filter(|(_, inbound)| !inbound.is_captured)
        {
            let socket = listen(inbound.listen, "inbound")?;
            listeners.push(Listener { takes: Takes::Inbound(index), port: inbound.forward.port(), socket });
        }
        for (index, outbound) in config.outbound.iter().enumerate() {
            let socket = listen(outbound.listen, "outbound")?;
            listeners.push(Listener { takes: Takes::Outbound(index), port: outbound.listen.port(), socket });
        }
        let admin = config.admin.map(|address| listen(address, "admin")).transpose()?;
        let (access_log, writer) = match config.access_log {
            AccessLogTarget::Off => (AccessLog::off(), None),
            AccessLogTarget::Stdout => {
                let (log, writer) = AccessLog::to(io::stdout())?;
                (log, Some(writer))
            }
        };
        warn_of_faults(&config);
        let metrics = Arc::new(Metrics::default());
        Ok(Self {
            listeners,
            admin,
            publisher: Arc::new(Publisher::new(config.clone(), Arc::clone(&metrics))),
            edges: Edges::new(config.workers.get(), config.limits.edge_cells),
            metrics,
            access_log,
            writer,
            drain: Drain::default(),
            traffic_ended: Drain::default(),
            config,
            path,
        })
    }

    async fn serve(mut self) -> Result<(), RunError> {
        let mut stop = Stop::new()?;
        let mut tasks = JoinSet::new();
        let (lifeline, mut lost) = Lifeline::new();
        let client = self.control()?;
        let workload_socket = self.config.workload_endpoint.as_ref().map(Socket::open).transpose()?;
        let workers = self.start_workers(&lifeline)?;
        if let Some(admin) = self.admin.take() {
            let admin_of_task = tokio::net::TcpListener::from_std(admin)?;
            tasks.spawn(admin::run(admin_of_task, self.admin()));
        }
        if let (Some(socket), Some(endpoint)) = (workload_socket, self.workload_endpoint()) {
            tasks.spawn(workload_endpoint::run(socket, endpoint));
        }
        let watching = memory::watch(self.config.limits.memory, Arc::clone(&self.metrics));
        tasks.spawn(lifeline.hold(Part::Memory, watching.map(|never| match never {})));
        let mut control = JoinSet::new();
        control.spawn(lifeline.hold(Part::Control, self.follow(client)));

        let fault = tokio::select! {
            () = stop.asked() => None,
            part = lost.recv() => part,
        };
        match fault {
            None => tracing::info!("draining"),
            Some(part) => {
                let code = Code::ConnectionPanicked;
                tracing::error!(%code, %part, "a part ended by a fault of Sidegate itself: draining to end");
            }
        }
        self.drain.begin();
        tokio::select! {
            biased;
            () = stop.asked() => tracing::warn!("told again to stop: what is in flight is dropped"),
            () = self.drained(workers, control) => {
                tasks.shutdown().await;
                self.finish_access_log().await;
            }
        }
        fault.map_or(Ok(()), |part| Err(RunError::Fault(part)))
    }

    /// The control plane takes this endpoint out while what is in flight finishes, and hears the last of it.
    async fn drained(&self, workers: Vec<JoinHandle<()>>, mut control: JoinSet<()>) {
        let joined =
            tokio::task::spawn_blocking(move || workers.into_iter().all(|worker| worker.join().is_ok()));
        // Once for what comes in, and once more for the application's own calls.
        let longest = self.config.limits.drain_timeout.saturating_mul(2).saturating_add(WORKER_END);
        match timeout(longest, joined).await {
            Ok(Ok(true)) => {}
            Ok(_) => tracing::error!("a worker ended early"),
            Err(_) => tracing::error!("a worker does not end: it is left behind"),
        }
        self.traffic_ended.begin();
        let last_words = async { while control.join_next().await.is_some() {} };
        if timeout(LAST_WORDS, last_words).await.is_err() {
            tracing::debug!("the control plane did not take the last report in time");
        }
        control.shutdown().await;
    }

    /// The writer ends with the last of its senders. Whoever reads the lines may have stopped reading.
    async fn finish_access_log(mut self) {
        let writer = self.writer.take();
        drop(self);
        let Some(writer) = writer else { return };
        let finished = tokio::task::spawn_blocking(move || writer.finish());
        if timeout(WRITER_END, finished).await.is_err() {
            tracing::warn!("nobody reads the access log: its last lines are lost");
        }
    }

    /// The control plane's client, where there is a control plane.
    fn control(&self) -> Result<Option<Client>, RunError> {
        let Source::ControlPlane(control_plane) = &self.config.source else {
            return Ok(None);
        };
        let means = Means {
            inbound: self.reached_at()?,
            publisher: Arc::clone(&self.publisher),
            metrics: Arc::clone(&self.metrics),
            edges: self.edges.clone(),
            drain: self.drain.watch(),
            traffic_ended: self.traffic_ended.watch(),
        };
        Ok(Some(Client::new(&self.config, control_plane, means)?))
    }

    /// Where peers connect, by the place of the port in the configuration: the listener may have left its port to the
    /// system, and a captured port is its own.
    fn reached_at(&self) -> io::Result<Vec<SocketAddr>> {
        let listening = |index: usize| {
            let mut listeners = self.listeners.iter();
            listeners.find(|one| matches!(one.takes, Takes::Inbound(place) if place == index))
        };
        let ports = self.config.inbound.iter().enumerate();
        ports
            .map(|(index, port)| match listening(index) {
                Some(listener) => listener.socket.local_addr(),
                None => Ok((port.listen.ip(), port.forward.port()).into()),
            })
            .collect()
    }

    /// Where a captured connection may not have been going: it would lead to this sidecar again.
    fn own_ports(&self) -> io::Result<Arc<[u16]>> {
        let is_own = |listener: &&Listener| match listener.takes {
            Takes::Inbound(_) | Takes::CapturedInbound => true,
            // A port of one service has a number that another host's service may have too.
            Takes::Outbound(index) => self.config.outbound[index].is_captured(),
        };
        let listeners = self.listeners.iter().filter(is_own).map(|listener| &listener.socket);
        listeners.chain(&self.admin).map(|socket| Ok(socket.local_addr()?.port())).collect()
    }

    fn admin(&self) -> Admin {
        Admin {
            mesh: self.publisher.reader(),
            drain: self.drain.watch(),
            metrics: Arc::clone(&self.metrics),
            edges: self.edges.clone(),
            access_log: self.access_log.clone(),
        }
    }

    fn workload_endpoint(&self) -> Option<Endpoint> {
        let endpoint = self.config.workload_endpoint.as_ref()?;
        let (mesh, metrics) = (self.publisher.reader(), Arc::clone(&self.metrics));
        Some(Endpoint { mesh, users: endpoint.users.clone(), metrics })
    }

    /// Follows the configuration file, and the files or the control plane that it names, until traffic has ended.
    fn follow(&self, client: Option<Client>) -> impl Future<Output = ()> + use<> {
        let reload = Reload {
            config: self.config.clone(),
            path: self.path.clone(),
            publisher: Arc::clone(&self.publisher),
            metrics: Arc::clone(&self.metrics),
            in_force: InForce::default(),
            told: None,
        };
        let traffic_ended = self.traffic_ended.watch();
        let keys = jwt::follow(self.publisher.reader(), Arc::clone(&self.metrics));
        let provider = workload_api::Client::of(&self.config, &self.publisher, &self.metrics);
        let until_the_end = async move {
            match client {
                None => traffic_ended.begun().await,
                Some(client) => Box::pin(client.run()).await,
            }
        };
        async move {
            tokio::select! {
                never = reload.run() => match never {},
                never = keys => match never {},
                never = workload_api::follow(provider) => match never {},
                () = until_the_end => {}
            }
        }
    }

    fn start_workers(&mut self, lifeline: &Lifeline) -> Result<Vec<JoinHandle<()>>, RunError> {
        let inbound_tasks = TaskTracker::new();
        let gate = Arc::new(Gate::new(Arc::new(self.config.limits.clone()), Arc::clone(&self.metrics)));
        let own_ports = self.own_ports()?;
        let listeners = std::mem::take(&mut self.listeners);
        (0..self.config.workers.get())
            .map(|index| {
                let shared = Shared {
                    mesh: self.publisher.reader(),
                    limits: Arc::new(self.config.limits.clone()),
                    metrics: Arc::clone(&self.metrics),
                    edges: self.edges.shard(index),
                    access_log: self.access_log.clone(),
                    gate: Arc::clone(&gate),
                    drain: self.drain.watch(),
                    inbound_tasks: inbound_tasks.clone(),
                    own_ports: Arc::clone(&own_ports),
                };
                // All workers accept from the same queue: whoever is idle takes the next connection.
                let listeners = listeners.iter().map(Listener::share).collect::<io::Result<Vec<_>>>()?;
                let seed = getrandom::u64().map_err(io::Error::other)?;
                let lifeline = lifeline.clone();
                let thread = std::thread::Builder::new().name(format!("worker-{index}"));
                Ok(thread.spawn(move || {
                    let _held = lifeline.end(Part::Worker);
                    // Made where it is used: it never leaves its thread.
                    match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                        Ok(runtime) => {
                            runtime.block_on(work(shared, listeners, seed, lifeline));
                            // A name that is being looked up is not waited for.
                            runtime.shutdown_background();
                        }
                        Err(error) => tracing::error!(%error, "a worker has no runtime"),
                    }
                })?)
            })
            .collect()
    }
}

/// A worker's thread: accepts until draining begins, then waits for what is in flight, up to the deadline.
async fn work(shared: Shared, listeners: Vec<Listener>, seed: u64, lifeline: Lifeline) {
    let worker = Worker::new(shared, seed);
    let mut upkeep = JoinSet::new();
    upkeep.spawn_local(lifeline.hold(Part::Upkeep, Rc::clone(&worker).prune()));
    upkeep.spawn_local(lifeline.hold(Part::Upkeep, Rc::clone(&worker).follow_names()));
    // Its reader first, so that no change comes between what is admitted and what is watched.
    let judging = Rc::clone(&worker.open).judge_again(worker.mesh.clone());
    upkeep.spawn_local(lifeline.hold(Part::Upkeep, judging));
    let mut accepting = JoinSet::new();
    for Listener { takes, port, socket } in listeners {
        let direction = takes.direction();
        let socket = match tokio::net::TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(%error, direction = direction.as_str(), "a worker cannot use its listener");
                drop(lifeline.end(Part::Listener));
                continue;
            }
        };
        let worker = Rc::clone(&worker);
        let serving = accept::run(socket, direction, port, worker, move |accepted, worker| async move {
            match takes {
                Takes::Inbound(index) => {
                    let downstream = accepted.downstream;
                    if let Err(error) = inbound::serve(accepted, index, &worker).await {
                        worker.refused(direction, downstream, port, &error);
                    }
                }
                Takes::CapturedInbound => inbound::serve_captured(accepted, port, &worker).await,
                Takes::Outbound(index) => outbound::serve(accepted, index, &worker).await,
            }
        });
        accepting.spawn_local(lifeline.hold(Part::Listener, serving));
    }
    while accepting.join_next().await.is_some() {}
    worker.inbound_tasks.close();
    worker.tasks.close();
    let in_flight = async { tokio::join!(worker.inbound_tasks.wait(), worker.tasks.wait()) };
    if timeout(worker.limits.drain_timeout, in_flight).await.is_err() {
        let connections = worker.inbound_tasks.len() + worker.tasks.len();
        tracing::warn!(connections, "limits.drainTimeout is over: the rest is dropped");
    }
    upkeep.abort_all();
}

/// SIGTERM from a platform, SIGINT from a person.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl Takes {
    fn direction(self) -> Direction {
        match self {
            Self::Inbound(_) | Self::CapturedInbound => Direction::Inbound,
            Self::Outbound(_) => Direction::Outbound,
        }
    }
}

impl Listener {
    fn share(&self) -> io::Result<Self> {
        Ok(Self { takes: self.takes, port: self.port, socket: self.socket.try_clone()? })
    }
}

/// Two descriptors per connection, and the soft limit is often 1,024: it is raised to what the system lets it be.
fn raise_descriptors() {
    let limits = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits });
    let before = limits.current;
    match raised {
        Ok(()) => tracing::info!(before, limit = limits.maximum, "open files"),
        Err(error) => tracing::warn!(%error, limit = before, "open files: the limit cannot be raised"),
    }
}

fn listen(address: SocketAddr, listener: &str) -> Result<TcpListener, RunError> {
    let open = || {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket = open().map_err(|cause| RunError::Listen { address, cause })?;
    let bound = socket.local_addr().unwrap_or(address);
    tracing::info!(listener, address = %bound, "listening");
    Ok(socket)
}

/// Beyond what draining takes, for a worker to take itself apart.
const WORKER_END: Duration = Duration::from_secs(2);
/// For the last report to the control plane.
const LAST_WORDS: Duration = Duration::from_secs(1);
const WRITER_END: Duration = Duration::from_secs(1);
const RUNTIME_END: Duration = Duration::from_millis(100);
