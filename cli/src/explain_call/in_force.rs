//! What is in force at a running control plane: its mesh, and its policies as it read them. Refuses an answer that is not whole,
//! or that this release reads otherwise than the control plane does.

use serde::Serialize;
use sidegate_control_plane::config::{Service, ServiceName};
use sidegate_identity::{SpiffeId, TrustDomain};
use time::{OffsetDateTime, format_description::well_known::Rfc3339, serde::rfc3339};

use crate::{
    api::{
        self,
        client::{ApiUrl, Client},
    },
    exit::Exit,
    failure::Failure,
    policy::files::{Kept, Mesh},
    status,
};

/// Whose word an answer is, and since when it holds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InForce {
    api: String,
    digest: String,
    #[serde(with = "rfc3339")]
    loaded_at: OffsetDateTime,
    /// Whether newer files were refused.
    stale: bool,
    enforcement: String,
    #[serde(skip)]
    quarantined: Vec<SpiffeId>,
}

/// Asks the control plane.
pub(crate) fn ask(url: &ApiUrl) -> Result<(Mesh, InForce), Failure> {
    let client = Client::new(url.clone());
    let told: Result<api::Mesh, Failure> = status::block_on(client.get(PATH))?;
    let told = told.map_err(|failure| failure.or("name the files: `--mesh mesh.yaml`"))?;
    let bad = |error: &dyn std::fmt::Display| client.not_a_control_plane(PATH, &error.to_string());
    let id = |text: &String| SpiffeId::parse(text).map_err(|error| bad(&error));
    let quarantined = told.quarantined.iter().map(id).collect::<Result<_, _>>()?;
    let service = |service: api::Service| {
        let identity = id(&service.identity)?;
        Ok(Service {
            name: ServiceName { namespace: service.namespace, name: service.name },
            identity,
            labels: service.labels,
            port: service.port,
            // No judgement depends on these, and the control plane keeps them to itself.
            join_tokens: Vec::new(),
            local_users: Vec::new(),
            endpoints: Vec::new(),
        })
    };
    let services = told.services.into_iter().map(service).collect::<Result<_, Failure>>()?;
    let trust_domain = TrustDomain::parse(&told.trust_domain).map_err(|error| bad(&error))?;
    let policies = told.policies.ok_or_else(|| none_in_force(url))?;
    let files = policies.files.into_iter().map(|file| (file.name, file.text)).collect();
    let mesh = Mesh {
        trust_domain: Some(trust_domain),
        root_namespace: told.root_namespace,
        egress: told.egress,
        services: Some(services),
        policies: Some(Kept::InForce(files)),
    };
    let in_force = InForce {
        api: url.to_string(),
        digest: policies.digest,
        loaded_at: policies.loaded_at,
        stale: policies.stale,
        enforcement: told.enforcement,
        quarantined,
    };
    Ok((mesh, in_force))
}

impl InForce {
    /// Which of the two is in quarantine, if there is a caller with an identity: nobody speaks with it.
    pub(crate) fn quarantined<'a>(
        &self,
        source: Option<&'a SpiffeId>,
        called: &'a SpiffeId,
    ) -> Option<&'a SpiffeId> {
        [source?, called].into_iter().find(|id| self.quarantined.contains(id))
    }
}

impl std::fmt::Display for InForce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let loaded = self.loaded_at.format(&Rfc3339).map_err(|_| std::fmt::Error)?;
        write!(f, "what is in force at {}: set {:.12}, loaded {loaded}", self.api, self.digest)?;
        if self.stale {
            f.write_str("; newer files were refused, see `sidegate check`")?;
        }
        if self.enforcement == "Observe" {
            f.write_str("; `enforcement: Observe`, what is denied is let in and recorded")?;
        }
        Ok(())
    }
}

fn none_in_force(url: &ApiUrl) -> Failure {
    let why = "none have loaded since it started; sidecars keep those that they hold";
    let next = "`sidegate check` says what is wrong with the files";
    Failure::new(Exit::Unreachable, "the control plane has no policies in force", why, next)
        .coded(sidegate_codes::Code::PolicyStale)
        .seen(format!("GET {url}{PATH}"))
}

const PATH: &str = "/v1/mesh";
