//! The whole-path tests: real binaries, real sockets on loopback, one process for all of them.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod bad_policies;
mod bodies;
mod changes;
mod cli;
mod control;
mod corners;
mod corners_h2;
mod downgrade;
mod egress;
mod expectations;
mod external;
mod federation;
mod federation_endpoint;
mod fenced;
mod file_identity;
mod forward_proxy;
mod hardening;
mod http_path;
mod identity;
mod jwt;
mod limits;
mod links;
mod local_users;
mod mesh;
mod observed;
mod opaque;
mod outbound;
mod own_app;
mod plaintext;
mod quarantine;
mod rates;
#[cfg(feature = "rego")]
mod rego;
mod resilience;
mod rolling;
mod rotation;
mod routing;
mod server_first;
mod server_names;
mod streams;
mod tokens;
mod websocket;
mod websocket_h2;
mod workload_api;
