//! The wire: between sidecars and the control plane what `proto/sidegate/v1/*.proto` says, between a workload and
//! its source of identity what `proto/spiffe/workload.proto` says, and between a sidecar and whoever decides beside policy
//! what `proto/envoy/external_authorization.proto` says, generated, and nothing else.
//! After a change of a `.proto` file run `cargo test -p sidegate-proto`: it writes the code anew and fails once.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::pedantic, reason = "generated code")]

/// The only version so far.
pub mod v1 {
    include!("generated/sidegate.v1.rs");
}

/// The X.509-SVID profile of the SPIFFE Workload API.
pub mod workload {
    use std::fmt;

    include!("generated/spiffe.workload.rs");

    impl fmt::Debug for X509svid {
        /// Names the identity; the key has no representation.
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("X509svid")
                .field("spiffe_id", &self.spiffe_id)
                .field("hint", &self.hint)
                .finish_non_exhaustive()
        }
    }
}

/// External authorization, version 3 of Envoy's protocol, as far as a sidecar speaks it.
pub mod external_authorization {
    include!("generated/envoy.service.auth.v3.rs");
}
