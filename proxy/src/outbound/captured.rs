//! Outbound connections that the kernel led here: each is known by the address that it was sent to. Hands on those to
//! services of the mesh, carries those that the listener lets pass as they are, and refuses every other address.

use std::{net::SocketAddr, rc::Rc};

use super::Way;
use crate::{
    accept::Accepted,
    config::LeadsTo,
    detect::Rewound,
    error::Error,
    orig_dst::OrigDst,
    snapshot::Snapshot,
    telemetry::{Carried, Direction, Ends, Record, TlsState},
    upstream,
    worker::{Link, Worker},
};

/// A connection that may go on.
pub(super) enum Admitted {
    /// To a service of the mesh.
    Mesh(Way),
    /// To an address that the pass-through of this name lets through.
    Passthrough(OrigDst, Way, String),
}

/// Judges a connection of a captured port by its address alone: a service of the mesh first, so that no pass-through
/// makes plaintext of its traffic. A refusal comes with the port that was called.
pub(super) fn admit(accepted: &Accepted, port: usize, worker: &Worker) -> Result<Admitted, (u16, Error)> {
    let snapshot = worker.mesh.load();
    let outbound = &snapshot.outbound[port].port;
    let LeadsTo::Captured(rules) = &outbound.leads_to else {
        return Ok(Admitted::Mesh(Way { port, captured: None }));
    };
    let original = OrigDst::of(&accepted.tcp, &worker.own_ports);
    let original = original.map_err(|error| (outbound.listen.port(), error))?;
    let (address, way) = (original.address(), Way { port, captured: Some(original) });
    if snapshot.called_at.is_claimed(address) {
        return Ok(Admitted::Mesh(way));
    }
    match rules.passes(address) {
        // As long as the mesh has not told what is its own, any address may be.
        Some(passthrough) if snapshot.is_complete => {
            Ok(Admitted::Passthrough(original, way, passthrough.name.clone()))
        }
        _ => Err((address.port(), Error::UnknownDestination(address))),
    }
}

/// Carries the bytes to where they were going, counted and shown as plaintext, for as long as the port lets them pass.
pub(super) async fn pass_through(
    accepted: Accepted,
    original: OrigDst,
    way: Way,
    name: String,
    worker: &Rc<Worker>,
) {
    let Accepted { tcp, downstream, place } = accepted;
    let address = original.address();
    let ends = Ends { source: worker.mesh.load().own_id(), destination: None };
    let link = Link { ends, tls: TlsState::Plaintext, place: Some(place) };
    let exchange = Rc::new(worker.exchange(Direction::Outbound, downstream, address.port(), link));
    worker.connected(&exchange);
    let mut record = Record::begin(&exchange, Carried::Tcp);
    record.passed_by(name);
    record.upstream(&address);
    let carried = upstream::Carried::default();
    let result = tokio::select! {
        // First, so that a cut is told as a cut.
        biased;
        () = until_refused(address, way.port, worker) => Err(Error::UnknownDestination(address)),
        result = upstream::passthrough::carry(Rewound::fresh(tcp), address, &worker.pool, &carried) => result,
    };
    record.end(&carried, result);
}

/// Ends when the address is let through no longer, or has become a service's.
async fn until_refused(address: SocketAddr, port: usize, worker: &Worker) {
    let mut changes = worker.mesh.clone();
    while is_let_through(address, port, &changes.snapshot()) {
        changes.changed().await;
    }
}

fn is_let_through(address: SocketAddr, port: usize, snapshot: &Snapshot) -> bool {
    let LeadsTo::Captured(rules) = &snapshot.outbound[port].port.leads_to else { return false };
    rules.passes(address).is_some() && !snapshot.called_at.is_claimed(address)
}
