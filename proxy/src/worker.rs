//! One worker: what its thread's connections share, and nothing that another worker touches on the data path but
//! the snapshot and the connection gate.

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::HeaderValue;
use tokio_util::task::TaskTracker;

use crate::{
    accept::{Gate, Place},
    authorize::Open,
    balance::Balancer,
    config::Limits,
    drain::DrainWatch,
    error::Error,
    external,
    http::LocalExecutor,
    jwt, memory,
    route::{Chance, Copies},
    snapshot::Reader,
    telemetry::{
        AccessLog, Carried, Direction, EdgeShard, Ends, Exchange, Metrics, Record, TlsState, Verdict,
        metrics::{ConnectionLabels, HandshakeLabels},
    },
    upstream::{Dialer, Names, Pool},
};

/// What is handed to a worker's thread when it starts.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) mesh: Reader,
    pub(crate) limits: Arc<Limits>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) edges: Arc<EdgeShard>,
    pub(crate) access_log: AccessLog,
    pub(crate) gate: Arc<Gate>,
    pub(crate) drain: DrainWatch,
    /// Owns the inbound connections of all workers: they may need any worker's outbound path to the end.
    pub(crate) inbound_tasks: TaskTracker,
    /// The ports of the sidecar itself, to which nothing is forwarded.
    pub(crate) own_ports: Arc<[u16]>,
}

/// The state of one worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) mesh: Reader,
    pub(crate) limits: Arc<Limits>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) edges: Arc<EdgeShard>,
    pub(crate) access_log: AccessLog,
    pub(crate) gate: Arc<Gate>,
    pub(crate) drain: DrainWatch,
    /// Owns what serves connections.
    pub(crate) tasks: TaskTracker,
    /// Owns the inbound ones of them, of all workers.
    pub(crate) inbound_tasks: TaskTracker,
    /// The ports of the sidecar itself, to which nothing is forwarded.
    pub(crate) own_ports: Arc<[u16]>,
    pub(crate) pool: Rc<Pool>,
    /// The names of those who are outside of the mesh. Apart from the application's: a flood of the ones does not keep
    /// the others from being looked up.
    pub(crate) outside: Names,
    pub(crate) balancer: Balancer,
    pub(crate) chance: Chance,
    pub(crate) copies: Copies,
    /// Tokens that were verified.
    pub(crate) tokens: jwt::Cache,
    /// Whoever decides beside policy.
    pub(crate) external: external::Client,
    /// What was admitted and is judged again.
    pub(crate) open: Rc<Open>,
    /// Bounds handshakes in flight.
    pub(crate) handshakes: Rc<tokio::sync::Semaphore>,
    /// By direction, so that callers cannot take the places of the calls that their answers need.
    inbound_requests: Rc<Cell<usize>>,
    outbound_requests: Rc<Cell<usize>>,
    id_prefix: u64,
    next_id: Cell<u64>,
}

/// What a connection has proven, and the place it holds.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) ends: Ends,
    pub(crate) tls: TlsState,
    pub(crate) place: Option<Place>,
}

/// A place among the requests in flight.
#[derive(Debug)]
pub(crate) struct RequestSlot(Rc<Cell<usize>>);

impl Worker {
    /// `seed` is random: request ids begin with it.
    pub(crate) fn new(shared: Shared, seed: u64) -> Rc<Self> {
        let Shared { mesh, limits, metrics, edges, access_log, gate, drain, inbound_tasks, own_ports } =
            shared;
        let dialer = Dialer {
            limits: Arc::clone(&limits),
            mesh: mesh.clone(),
            metrics: Arc::clone(&metrics),
            names: Rc::new(Names::of_system()),
        };
        // Connections to upstreams end with the requests that use them; only downstream ones are waited for.
        let pool = Rc::new(Pool::new(dialer, TaskTracker::new()));
        let balancer = Balancer::new(seed, Arc::clone(&metrics));
        Rc::new(Self {
            handshakes: Rc::new(tokio::sync::Semaphore::new(limits.handshakes)),
            mesh,
            limits,
            metrics,
            edges,
            access_log,
            gate,
            drain,
            tasks: TaskTracker::new(),
            inbound_tasks,
            own_ports,
            pool,
            outside: Names::of_system(),
            balancer,
            chance: Chance::new(seed),
            copies: Copies::default(),
            tokens: jwt::Cache::default(),
            external: external::Client::default(),
            open: Rc::default(),
            inbound_requests: Rc::default(),
            outbound_requests: Rc::default(),
            id_prefix: seed,
            next_id: Cell::new(0),
        })
    }

    /// A place among the requests in flight, or a refusal.
    pub(crate) fn request_slot(&self, direction: Direction) -> Result<RequestSlot, Error> {
        if self.metrics.is_overloaded() {
            return Err(Error::Overloaded);
        }
        let requests = match direction {
            Direction::Inbound => &self.inbound_requests,
            Direction::Outbound => &self.outbound_requests,
        };
        let count = requests.get();
        if count >= self.limits.requests {
            return Err(Error::TooManyRequests);
        }
        requests.set(count.saturating_add(1));
        Ok(RequestSlot(Rc::clone(requests)))
    }

    /// Runs what hyper spawns.
    pub(crate) fn executor(&self) -> LocalExecutor {
        LocalExecutor { tasks: self.tasks.clone(), metrics: Arc::clone(&self.metrics) }
    }

    /// Unique in the mesh for all that matters; no system call.
    pub(crate) fn new_request_id(&self) -> HeaderValue {
        let number = self.next_id.get();
        self.next_id.set(number.wrapping_add(1));
        HeaderValue::try_from(format!("{:016x}-{number:x}", self.id_prefix))
            .unwrap_or_else(|_| HeaderValue::from_static("unknown"))
    }

    /// Ends when `direction` takes nothing new any more: inbound as soon as draining begins, outbound when the inbound
    /// requests, which may still call upstreams, have ended or had their time.
    pub(crate) async fn stopped(&self, direction: Direction) {
        self.drain.begun().await;
        if direction == Direction::Outbound {
            self.inbound_tasks.close();
            // Out of time is a reason to stop like any other.
            let _ = tokio::time::timeout(self.limits.drain_timeout, self.inbound_tasks.wait()).await;
        }
    }

    /// `most`, and up to a tenth more, so that what began together does not end together.
    pub(crate) fn spread(&self, most: Duration) -> Duration {
        let number = self.next_id.get();
        self.next_id.set(number.wrapping_add(1));
        // Fibonacci hashing: neighbours land far apart.
        let share = u32::from((self.id_prefix ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]);
        most.saturating_add(most / 2_560 * share)
    }

    /// What owns the connections of `direction`.
    pub(crate) fn tasks_of(&self, direction: Direction) -> &TaskTracker {
        match direction {
            Direction::Inbound => &self.inbound_tasks,
            Direction::Outbound => &self.tasks,
        }
    }

    /// What all that happens on one connection shares.
    pub(crate) fn exchange(
        &self,
        direction: Direction,
        downstream: SocketAddr,
        port: u16,
        link: Link,
    ) -> Exchange {
        let Link { ends, tls, place } = link;
        Exchange {
            direction,
            downstream,
            port,
            ends,
            tls,
            edges: Arc::clone(&self.edges),
            access_log: self.access_log.clone(),
            _place: place,
            drain: self.drain.clone(),
            is_closing: Cell::default(),
            cut: Rc::default(),
            in_flight: Cell::default(),
            unread: Cell::default(),
        }
    }

    /// Counts a connection whose ends are known, as far as they are.
    pub(crate) fn connected(&self, exchange: &Exchange) {
        self.count(exchange, Verdict::Allowed);
    }

    /// Records a connection that ended before there was anything to record of it: counted, logged, in the ledger.
    pub(crate) fn refused(&self, direction: Direction, downstream: SocketAddr, port: u16, error: &Error) {
        let tls =
            if matches!(error, Error::Plaintext { .. }) { TlsState::Plaintext } else { TlsState::Failed };
        let own = self.mesh.load().own_id();
        let ends = match direction {
            Direction::Inbound => Ends { source: None, destination: own },
            Direction::Outbound => Ends { source: own, destination: None },
        };
        let exchange = Rc::new(self.exchange(direction, downstream, port, Link { ends, tls, place: None }));
        self.count(&exchange, Verdict::Failed);
        if let Error::Handshake { code, reason, .. } = error {
            self.metrics.handshake_failures.add(HandshakeLabels { direction, code: *code, reason });
        }
        Record::begin(&exchange, Carried::Unknown).failed(error);
    }

    fn count(&self, exchange: &Exchange, verdict: Verdict) {
        self.metrics.connections.add(ConnectionLabels {
            direction: exchange.direction,
            source: exchange.ends.source.clone(),
            destination: exchange.ends.destination.clone(),
            tls: exchange.tls,
            verdict,
        });
    }

    /// Forgets idle connections and endpoints, and gives memory back, once a second, for as long as the worker lives.
    pub(crate) async fn prune(self: Rc<Self>) {
        loop {
            tokio::time::sleep(PRUNE).await;
            self.pool.prune();
            // An answer serves what asks within a second, and nobody later.
            self.outside.refresh(|_| false).await;
            self.balancer.prune(&self.mesh.load().services);
            memory::settle();
        }
    }

    /// Keeps the addresses of names current, for as long as the worker lives.
    pub(crate) async fn follow_names(self: Rc<Self>) {
        loop {
            tokio::time::sleep(PRUNE).await;
            let ports = Arc::clone(&self.mesh.load().inbound);
            let is_wanted = |forward: &_| ports.iter().any(|port| port.forward == *forward);
            self.pool.dialer().names.refresh(is_wanted).await;
        }
    }
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

const PRUNE: Duration = Duration::from_secs(1);
