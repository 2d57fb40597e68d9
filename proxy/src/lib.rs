//! The sidecar: stands beside one workload, terminates and originates mutual TLS, authorizes every connection and
//! request, and reports what it saw. Start reading at `inbound` and `outbound`: each is its path, top to bottom, and
//! each stage has a module of its own name.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod detect;
pub mod families;
pub mod http;
pub mod measured;
pub mod mux;

mod accept;
mod admin;
mod app;
mod authorize;
mod balance;
mod bucket;
mod capture;
mod check;
mod contain;
mod control;
mod drain;
mod egress;
mod error;
mod external;
mod files;
mod healthcheck;
mod identity;
mod inbound;
mod jwt;
mod memory;
mod message;
mod orig_dst;
mod outbound;
mod rate;
mod resilience;
mod route;
mod scratch;
mod snapshot;
mod telemetry;
#[cfg(test)]
mod test_authority;
mod tls;
mod transport;
mod upstream;
mod watch;
mod worker;
mod workload_api;
mod workload_endpoint;
