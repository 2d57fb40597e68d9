//! Takes connections off a listener, each with its place under the connection limits, and hands them to `serve`.
//! Over a limit a connection is closed at once and counted. A fault in one connection ends that connection alone.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use sidegate_codes::Code;
use tokio::net::{TcpListener, TcpStream};

use crate::{
    config::Limits,
    contain::contained,
    error::Error,
    telemetry::{Direction, Metrics},
    worker::Worker,
};

/// A connection and its place under the limits.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) tcp: TcpStream,
    /// Whoever connected.
    pub(crate) downstream: SocketAddr,
    /// Kept until the connection ends.
    pub(crate) place: Place,
}

/// Counts open connections over all workers.
#[derive(Debug)]
pub(crate) struct Gate {
    limits: Arc<Limits>,
    /// Its gauges of open connections follow the places.
    metrics: Arc<Metrics>,
    /// Held for a few instructions, at the two ends of a connection.
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// Apart, so that callers cannot take the places of the application's own calls.
    inbound: usize,
    outbound: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// A place under the connection limits; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Arc<Gate>,
    direction: Direction,
    source: Option<IpAddr>,
}

/// Accepts until its direction takes nothing new any more. `port` is what a refusal is recorded under.
pub(crate) async fn run<F>(
    listener: TcpListener,
    direction: Direction,
    port: u16,
    worker: Rc<Worker>,
    serve: impl Fn(Accepted, Rc<Worker>) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    let stopped = worker.stopped(direction);
    tokio::pin!(stopped);
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => return,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(tcp, downstream)| tuned(tcp).map(|tcp| (tcp, downstream))) {
            Ok((tcp, downstream)) => {
                is_failing = false;
                match worker.gate.enter(direction, downstream.ip()) {
                    Ok(place) => {
                        spawn(
                            &worker,
                            direction,
                            serve(Accepted { tcp, downstream, place }, Rc::clone(&worker)),
                        );
                    }
                    Err(error) => worker.refused(direction, downstream, port, &error),
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: accepting again at once would spin, and so would the log.
                worker.metrics.accept_failures.fetch_add(1, Ordering::Relaxed);
                if !is_failing {
                    let code = Code::AcceptFailed;
                    tracing::warn!(%code, %error, direction = direction.as_str(), "connections wait to be accepted");
                }
                is_failing = true;
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

fn spawn(worker: &Rc<Worker>, direction: Direction, connection: impl Future<Output = ()> + 'static) {
    worker.tasks_of(direction).spawn_local(contained(connection, Arc::clone(&worker.metrics)));
}

fn tuned(tcp: TcpStream) -> io::Result<TcpStream> {
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::Interrupted
    )
}

impl Gate {
    /// Nobody is in.
    pub(crate) fn new(limits: Arc<Limits>, metrics: Arc<Metrics>) -> Self {
        Self { limits, metrics, open: Mutex::default() }
    }

    /// A place for a connection from `source`. Outbound, all come from the one application.
    pub(crate) fn enter(self: &Arc<Self>, direction: Direction, source: IpAddr) -> Result<Place, Error> {
        if self.metrics.is_overloaded() {
            return Err(Error::Overloaded);
        }
        let source = (direction == Direction::Inbound).then(|| source.to_canonical());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if *open.of(direction) >= self.limits.connections {
            return Err(Error::TooManyConnections { limit: "limits.connections" });
        }
        if let Some(source) = source {
            let count = open.by_source.entry(source).or_default();
            if *count >= self.limits.connections_per_source {
                return Err(Error::TooManyConnections { limit: "limits.connectionsPerSource" });
            }
            *count += 1;
        }
        *open.of(direction) += 1;
        self.metrics.active(direction).fetch_add(1, Ordering::Relaxed);
        Ok(Place { gate: Arc::clone(self), direction, source })
    }
}

impl Open {
    fn of(&mut self, direction: Direction) -> &mut usize {
        match direction {
            Direction::Inbound => &mut self.inbound,
            Direction::Outbound => &mut self.outbound,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.metrics.active(self.direction).fetch_sub(1, Ordering::Relaxed);
        let mut open = self.gate.open.lock().unwrap_or_else(PoisonError::into_inner);
        let places = open.of(self.direction);
        *places = places.saturating_sub(1);
        let Some(source) = self.source else { return };
        if let Some(count) = open.by_source.get_mut(&source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.by_source.remove(&source);
            }
        }
    }
}

const BACK_OFF: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(connections: usize, connections_per_source: usize) -> Arc<Gate> {
        Arc::new(Gate::new(
            Arc::new(Limits { connections, connections_per_source, ..Limits::default() }),
            Arc::default(),
        ))
    }

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn one_source_cannot_take_all_places() {
        let gate = gate(10, 2);
        let held =
            [gate.enter(Direction::Inbound, ONE).unwrap(), gate.enter(Direction::Inbound, ONE).unwrap()];
        assert!(matches!(
            gate.enter(Direction::Inbound, ONE),
            Err(Error::TooManyConnections { limit: "limits.connectionsPerSource" })
        ));
        assert!(gate.enter(Direction::Inbound, OTHER).is_ok());
        drop(held);
        assert!(gate.enter(Direction::Inbound, ONE).is_ok());
        assert!(gate.open.lock().unwrap().by_source.is_empty(), "sources are forgotten when they leave");
    }

    #[test]
    fn an_ipv4_source_is_the_same_when_mapped_into_ipv6() {
        let gate = gate(10, 1);
        let _held = gate.enter(Direction::Inbound, ONE).unwrap();
        assert!(gate.enter(Direction::Inbound, "::ffff:10.0.0.1".parse().unwrap()).is_err());
    }

    #[test]
    fn all_sources_together_are_bounded() {
        let gate = gate(1, 10);
        let _held = gate.enter(Direction::Inbound, ONE).unwrap();
        assert!(matches!(
            gate.enter(Direction::Inbound, OTHER),
            Err(Error::TooManyConnections { limit: "limits.connections" })
        ));
    }

    #[test]
    fn callers_take_no_place_of_the_applications_own_calls() {
        let gate = gate(1, 10);
        let _inbound = gate.enter(Direction::Inbound, ONE).unwrap();
        let outbound = gate.enter(Direction::Outbound, ONE).unwrap();
        assert!(gate.enter(Direction::Outbound, ONE).is_err());
        drop(outbound);
        assert!(gate.enter(Direction::Inbound, ONE).is_err(), "nor the other way round");
    }

    #[test]
    fn nobody_is_let_in_while_memory_is_short() {
        let gate = gate(10, 10);
        gate.metrics.overloaded.store(true, Ordering::Relaxed);
        for direction in [Direction::Inbound, Direction::Outbound] {
            assert!(matches!(gate.enter(direction, ONE), Err(Error::Overloaded)));
        }
        gate.metrics.overloaded.store(false, Ordering::Relaxed);
        assert!(gate.enter(Direction::Inbound, ONE).is_ok());
    }
}
