//! The source of a mesh: it reads `mesh.yaml` and the policies, issues certificates to attested workloads, tells each
//! sidecar what it needs, keeps the ledger of what they saw, and answers the operator.
#![forbid(unsafe_code)]

pub mod cli;
