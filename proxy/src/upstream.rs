//! The far side of the path. `app` sends to the local application and takes nothing without a `Permit`; `peer` sends
//! to another sidecar over mutual TLS and takes nothing without a chosen endpoint; `outside` leaves the mesh
//! and takes nothing without a `Leave`. All share one pool per worker.

pub(crate) mod app;
pub(crate) mod outside;
pub(crate) mod peer;

mod connection;
mod copy;
mod deadline;
mod dial;
mod heard;
mod http1;
mod leased;
mod names;
mod pool;
mod sending;
mod stream;

use http::Response;
use sidegate_identity::SpiffeId;

use crate::http::Opening;

pub(crate) use dial::{Carries, Dialer};
pub(crate) use leased::{BrokenAnswer, Duplex, Leased, Opened};
pub(crate) use names::Names;
pub(crate) use pool::{Bounds, Pool, chain};
pub(crate) use stream::{Carried, carry_upgraded};

/// An upstream's answer, and who it proved to be.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Leased>,
    /// `None` for the local application, which proves nothing.
    pub(crate) peer: Option<SpiffeId>,
    /// What the request asked to become.
    pub(crate) opening: Option<Opening>,
}
