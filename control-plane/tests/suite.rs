//! The control plane from outside: a real server on port 0, real mutual TLS, the wire's own client.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by failing")]

#[path = "suite/api.rs"]
mod api;
#[path = "suite/bad_input.rs"]
mod bad_input;
#[path = "suite/discovery.rs"]
mod discovery;
#[path = "suite/issuance.rs"]
mod issuance;
#[path = "suite/ledger.rs"]
mod ledger;
#[path = "suite/mesh.rs"]
mod mesh;
#[path = "suite/quarantine.rs"]
mod quarantine;
#[path = "suite/registry.rs"]
mod registry;
#[path = "suite/restart.rs"]
mod restart;
#[path = "suite/sidecar.rs"]
mod sidecar;
#[path = "suite/tokens.rs"]
mod tokens;
