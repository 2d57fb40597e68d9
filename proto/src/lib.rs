//! The wire between sidecars and the control plane: what `proto/sidegate/v1/*.proto` says, generated, and nothing else.
//! After a change of a `.proto` file run `cargo test -p sidegate-proto`: it writes the code anew and fails once.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::pedantic, reason = "generated code")]

/// The only version so far.
pub mod v1 {
    include!("generated/sidegate.v1.rs");
}
