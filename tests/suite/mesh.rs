//! A small mesh for the data path's tests: a CA of the test's own, applications that remember what reached them, and
//! real `sidegate proxy` processes between them, in file mode or under a real control plane. Everything listens on
//! port 0 of loopback.

mod app;
mod authority;
mod client;
mod control_plane;
mod decider;
mod endpoint;
mod own_tls;
mod service;
mod sidecar;

pub(crate) use app::{App, endless};
pub(crate) use authority::{Authority, Svid};
pub(crate) use client::{Connection, Http, Reply, connect, credentials, tls};
pub(crate) use control_plane::{ControlPlane, Member};
pub(crate) use decider::{Decider, OkResponse, Says, no, ok, option};
pub(crate) use endpoint::{Does, Endpoint};
pub(crate) use own_tls::OwnTls;
pub(crate) use service::{Body, Service, body, client_h1, client_h2, pieces, stream_of};
pub(crate) use sidecar::{Port, Sidecar};

/// The trust domain of every test.
pub(crate) const DOMAIN: &str = "shop.test";
/// Nothing in these tests takes longer unless it is broken.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// `spiffe://shop.test/ns/shop/sa/<account>`.
pub(crate) fn id(account: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/shop/sa/{account}")
}
