//! The source of a mesh: it reads `mesh.yaml` and the policies, issues certificates to attested workloads, tells each
//! sidecar what it needs, keeps the ledger of what they saw, and answers the operator.
#![forbid(unsafe_code)]

pub mod app;
pub mod cli;
pub mod config;
pub mod families;
pub mod quarantine;
pub mod registry;
pub mod rotation;
pub mod tokens;

mod api;
mod attest;
mod ca;
mod clock;
mod database;
mod discovery;
mod federation;
mod healthcheck;
mod hex;
mod issuance;
mod ledger;
mod mesh;
mod metrics;
mod policies;
mod problem;
mod proxies;
mod rate;
mod resource;
mod server;
mod standby;
mod state;
mod watch;

pub use ca::intermediate;
pub use problem::Problem;
pub use server::local::LocalSocketError;
pub use state::StateError;
