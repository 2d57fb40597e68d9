//! A link of a peer's sidecar: each of its streams is served like a connection, by the same stages, under the limits of
//! connections and judged by itself. The link says who is at the other end, and nothing else.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use sidegate_codes::Code;

use super::{Arrival, Downstream, serve_client};
use crate::{
    contain::contained,
    error::Error,
    identity::Client,
    mux::{self, Broken},
    telemetry::{Direction, Record},
    tls::Terminated,
    worker::Worker,
};

/// One link, to its end. `carries`: the ALPN that each of its streams would have as a connection. It takes no more streams when a
/// connection would take no more requests.
pub(super) async fn serve(
    stream: Terminated,
    carries: &'static [u8],
    client: Rc<Client>,
    arrival: Arrival<'_>,
    worker: &Rc<Worker>,
) -> Result<(), Error> {
    let (downstream, port) = (arrival.downstream, arrival.port);
    let exchange = arrival.exchange(&client, worker);
    worker.connected(&exchange);

    let limits = &worker.limits;
    let bounds = mux::Bounds::of(limits, limits.keep_alive_timeout);
    let mut link = mux::Link::new(stream, mux::Side::Server, bounds);
    let closing = async {
        tokio::select! {
            () = worker.drain.begun() => {}
            () = tokio::time::sleep(client.time_to_begin()) => {}
            () = tokio::time::sleep(worker.spread(limits.connection_age)) => {}
            // Each stream tells it of itself.
            _ = client.until_untrusted(worker.mesh.clone()) => {}
        }
    };
    tokio::pin!(closing);
    let mut is_closing = false;
    loop {
        let next = tokio::select! {
            biased;
            () = &mut closing, if !is_closing => {
                is_closing = true;
                link.go_away();
                continue;
            }
            next = link.next() => next,
        };
        match next {
            Ok(Some(stream)) => spawn(stream, carries, &client, downstream, port, worker),
            Ok(None) => return Ok(()),
            Err(broken) => {
                Record::ended(&exchange, Err(refused(&broken)));
                return Ok(());
            }
        }
    }
}

/// Serves one stream beside the others.
fn spawn(
    stream: mux::Stream,
    carries: &'static [u8],
    client: &Rc<Client>,
    downstream: SocketAddr,
    port: usize,
    worker: &Rc<Worker>,
) {
    let (client, serving) = (Rc::clone(client), Rc::clone(worker));
    let served = async move {
        let snapshot = serving.mesh.snapshot();
        let result = match serving.gate.enter(Direction::Inbound, downstream.ip()) {
            Ok(place) => {
                let arrival = Arrival { downstream, place, port, snapshot: &snapshot };
                let stream = Downstream::Shared(stream);
                serve_client(stream, Some(carries), client, arrival, &serving).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            serving.refused(Direction::Inbound, downstream, snapshot.inbound[port].forward.port(), &error);
        }
    };
    worker.tasks_of(Direction::Inbound).spawn_local(contained(served, Arc::clone(&worker.metrics)));
}

/// As it is recorded.
fn refused(broken: &Broken) -> Error {
    match broken {
        Broken::Protocol(_) | Broken::Control | Broken::Resets | Broken::Deaf => {
            Error::bad_request(Code::LinkBroken, broken.to_string())
        }
        Broken::Silent | Broken::Truncated | Broken::Io(_) => Error::Downstream(broken.to_string()),
    }
}
