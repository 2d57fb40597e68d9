//! Outbound connections that the kernel led here: each is known by the address that it was sent to. Hands on those to
//! services of the mesh, those that may leave it, and those that may by a name in them; refuses every other address.

use super::Way;
use crate::{
    accept::Accepted,
    config::LeadsTo,
    egress::{self, Leave},
    error::Error,
    orig_dst::OrigDst,
    worker::Worker,
};

/// A connection that may go on.
pub(super) enum Admitted {
    /// To a service of the mesh.
    Mesh(Way),
    /// Out of the mesh.
    Leaving(Leave, Way),
    /// Out of the mesh, if what it asks for may leave.
    Unread(OrigDst, Way),
}

/// Judges a connection of a captured port by its address alone: a service of the mesh first, so that no rule of egress
/// makes plaintext of its traffic. A refusal comes with the port that was called.
pub(super) fn admit(accepted: &Accepted, port: usize, worker: &Worker) -> Result<Admitted, (u16, Error)> {
    let snapshot = worker.mesh.load();
    let outbound = &snapshot.outbound[port].port;
    if !matches!(outbound.leads_to, LeadsTo::Captured) {
        return Ok(Admitted::Mesh(Way { port, captured: None }));
    }
    let original = OrigDst::of(&accepted.tcp, &worker.own_ports);
    let original = original.map_err(|error| (outbound.listen.port(), error))?;
    let (address, way) = (original.address(), Way { port, captured: Some(original) });
    if snapshot.called_at.is_claimed(address) {
        return Ok(Admitted::Mesh(way));
    }
    match egress::to_address(address, &snapshot) {
        Ok(leave) if !leave.is_unnamed() => Ok(Admitted::Leaving(leave, way)),
        _ if egress::reads_names(address.port(), &snapshot) => Ok(Admitted::Unread(original, way)),
        Ok(leave) => Ok(Admitted::Leaving(leave, way)),
        Err(error) => Err((address.port(), error)),
    }
}
