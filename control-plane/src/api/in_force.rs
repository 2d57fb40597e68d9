//! `GET /v1/mesh`: all that a judgement depends on, at one moment. The services as selectors see them, the policies' files
//! as they were read, and who is in quarantine. Tokens, users and endpoints are no part of it.

use std::collections::BTreeMap;

use serde::Serialize;
use sidegate_identity::Refused;

use super::{Shown, documents::API_VERSION};
use crate::{
    clock,
    config::{EgressDefault, Enforcement, Service, folder::PolicyFile},
    mesh::Mesh,
    policies::LoadedPolicies,
};

/// The document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InForce {
    api_version: &'static str,
    trust_domain: String,
    root_namespace: Option<String>,
    enforcement: Enforcement,
    egress: EgressDefault,
    services: Vec<ServiceInForce>,
    /// Those of whom everything is refused.
    quarantined: Vec<String>,
    /// Absent until a set has loaded: what sidecars hold is not known then.
    policies: Option<PoliciesInForce>,
}

#[derive(Serialize)]
struct ServiceInForce {
    namespace: String,
    name: String,
    identity: String,
    labels: BTreeMap<String, String>,
    port: Option<u16>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PoliciesInForce {
    digest: String,
    loaded_at: String,
    /// Whether newer files were refused.
    stale: bool,
    files: Vec<File>,
}

#[derive(Serialize)]
struct File {
    name: String,
    text: String,
}

impl InForce {
    pub(super) fn of(shown: &Shown) -> Self {
        let mesh = shown.mesh.borrow().clone();
        let config = &mesh.config;
        let quarantined = mesh.quarantine.quarantine.iter().filter(|(_, refused)| *refused == Refused::All);
        Self {
            api_version: API_VERSION,
            trust_domain: config.trust_domain.to_string(),
            root_namespace: config.root_namespace.clone(),
            enforcement: config.enforcement,
            egress: config.egress,
            services: config.services.iter().map(ServiceInForce::of).collect(),
            quarantined: quarantined.map(|(id, _)| id.to_string()).collect(),
            policies: mesh.policies.as_deref().map(|policies| PoliciesInForce::of(policies, &mesh)),
        }
    }
}

impl ServiceInForce {
    fn of(service: &Service) -> Self {
        Self {
            namespace: service.name.namespace.clone(),
            name: service.name.name.clone(),
            identity: service.identity.to_string(),
            labels: service.labels.clone(),
            port: service.port.map(Into::into),
        }
    }
}

impl PoliciesInForce {
    fn of(policies: &LoadedPolicies, mesh: &Mesh) -> Self {
        Self {
            digest: policies.digest.clone(),
            loaded_at: clock::rfc3339(policies.loaded_at_ms),
            stale: !mesh.policy_problems.is_empty(),
            files: policies.files.iter().map(File::of).collect(),
        }
    }
}

impl File {
    fn of(file: &PolicyFile) -> Self {
        // What has loaded is UTF-8: the parser takes nothing else.
        Self { name: file.name.clone(), text: String::from_utf8_lossy(&file.text).into_owned() }
    }
}
