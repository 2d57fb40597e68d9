//! What they may do: the policy language, its reading, compilation, evaluation and explanation.
//!
//! Receives text (YAML files, the JSON of the wire) and requests whose peer is already verified and whose path is
//! already normalised. Hands on verdicts that name their policy and rule. Refuses, as a whole, whatever it does not
//! understand. Pure: no clock, no files, no threads. The language is described in `docs/policy.md`.
//!
//! ```
//! use sidegate_policy::{Http, PolicySet, Request, Source, Verdict, Workload, parse_yaml};
//!
//! let text = "
//! apiVersion: sidegate.dev/v1alpha1
//! kind: AuthorizationPolicy
//! metadata: {name: payments-callers, namespace: shop}
//! spec:
//!   action: Allow
//!   rules:
//!   - {name: charge, from: [{serviceAccounts: [shop/orders]}], to: [{methods: [POST], paths: [/charge]}]}
//! ";
//! let set = PolicySet::new(parse_yaml("payments.yaml", text, None)?).unwrap();
//! let policies = set.compile(&Workload {
//!     namespace: "shop",
//!     labels: &[].into(),
//!     trust_domain: "shop.test",
//!     root_namespace: None,
//! });
//!
//! let orders = "spiffe://shop.test/ns/shop/sa/orders".parse()?;
//! let mut request = Request {
//!     source: Source { identity: Some(&orders), ip: [10, 0, 0, 7].into() },
//!     port: 8080,
//!     http: Some(Http { method: "POST", host: "payments", path: "/charge", headers: &(), claims: None }),
//!     sni: None,
//!     now: 1_780_000_000,
//! };
//! assert_eq!(policies.judge(&request).verdict, Verdict::Allow);
//!
//! request.http = None;
//! assert_eq!(policies.judge(&request).verdict, Verdict::Deny);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
// A policy engine that can panic can be switched off by whoever finds the input.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,          // a value from a file or a peer is never "surely there"
        clippy::expect_used,          // nor here: what structure guarantees, types express
        clippy::panic,                // an error denies; a panic ends the thread that would have denied
        clippy::indexing_slicing,     // an index out of range is a panic in disguise
        clippy::arithmetic_side_effects, // an overflow is a panic in debug and a wrong number in release
    )
)]

mod analyse;
mod claims;
mod compile;
mod condition;
mod document;
mod egress;
mod error;
mod explain;
mod fetch;
mod http_ports;
mod index;
mod judge;
mod jwt;
mod limits;
mod model;
mod plaintext;
mod read;
mod rego;
mod schema;
mod set;
mod spelling;
mod values;

pub use analyse::{Finding, Lint, Service, Severity, Surroundings};
pub use claims::Claims;
pub use compile::Policies;
pub use condition::{Condition, Headers};
pub use egress::{Egress, Named, Outside, address_kinds, is_public};
pub use error::PolicyError;
pub use explain::Explanation;
pub use fetch::may_fetch_from;
pub use http_ports::HttpRule;
pub use judge::{Decision, Http, Request, Source, Verdict};
pub use jwt::{ClaimTest, ClaimValue, Jwt};
pub use limits::{FILE_BYTES, SET_BYTES, SET_FILES};
pub use model::{
    Action, AuthorizationPolicy, EgressDestination, EgressPolicy, EgressRule, EgressSource, EgressSpec, Grpc,
    Metadata, Mode, OneOf, Operation, Peer, PlaintextException, PlaintextOperation, PlaintextSource,
    PlaintextSpec, Rule, Spec,
};
pub use read::{Document, Sourced, parse_json, parse_yaml};
pub use rego::Rego;
pub use schema::schema;
pub use set::{PolicySet, Workload};
pub use values::{
    ClaimName, ClaimText, Date, GrpcMethod, GrpcService, HostPattern, InvalidValue, IpBlock, Method, Name,
    PathPattern, Reason, ServiceAccount,
};
