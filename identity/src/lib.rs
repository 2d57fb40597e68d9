//! Who may speak: SPIFFE IDs, trust bundles, verification of X.509-SVIDs and the TLS settings that rest on it.
//! Receives bytes and a point in time, hands on a [`VerifiedSvid`] that only [`verify`] can make, and refuses
//! everything that breaks one of the X.509-SVID rules. No files, sockets or environment.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,             // A peer chooses these bytes: what is absent is an error, not a crash.
        clippy::expect_used,             // Where structure proves a value, the place says so and lifts this narrowly.
        clippy::panic,                   // A handshake that can be made to panic is a denial of service.
        clippy::indexing_slicing,        // Lengths come from DER that a peer wrote.
        clippy::arithmetic_side_effects, // Times and sizes from certificates may be at the edge of their type.
    )
)]

pub mod renewal;
pub mod serial;
pub mod tls;

mod authority;
mod bundle;
mod certificate;
mod proven;
mod quarantine;
mod spiffe_id;
mod verify;

pub use authority::AuthorityFault;
pub use bundle::{BundleError, MAX_AUTHORITIES, TrustBundle, TrustBundles};
pub use certificate::{Malformed, certificates_in_sequence};
pub use quarantine::{Quarantine, Refused};
pub use spiffe_id::{InvalidSpiffeId, SpiffeId, TrustDomain};
pub use verify::{SvidError, SvidLimits, Usage, VerifiedSvid, verify};
