//! What the mesh holds, in its form on the wire. A resource's version is a digest of its content, so that what a sidecar
//! holds from another stream, or from its cache, is compared without sending it.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use sha2::{Digest, Sha256};
use sidegate_identity::{Quarantine, Refused, TrustBundle};
use sidegate_policy::Document;
use sidegate_proto::v1::{self, Resource, resource::Kind};

use crate::{
    config::{Config, EgressDefault, Enforcement, Service, ServiceName},
    hex,
};

/// A certificate that is to be renewed before half of its life has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Renewal {
    /// Hex.
    pub(crate) serial: String,
    /// Each sidecar draws a moment within.
    pub(crate) within: Duration,
}

/// What the mesh says of one workload.
pub(crate) fn settings(config: &Config, workload: &Service, renewal: Option<&Renewal>) -> Resource {
    let enforcement = match config.enforcement {
        Enforcement::Enforce => v1::Enforcement::Enforce,
        Enforcement::Observe => v1::Enforcement::Observe,
    };
    let egress = match config.egress {
        EgressDefault::Deny => v1::Egress::Deny,
        EgressDefault::Allow => v1::Egress::Allow,
    };
    let report_interval_ms = u32::try_from(config.report_interval.as_millis()).unwrap_or(u32::MAX);
    let root_namespace = config.root_namespace.clone().unwrap_or_default();
    let mut content = Content::new();
    // In the order of the config's sorted map: a protobuf map has none.
    for (key, value) in &workload.labels {
        content.add(key).add(value);
    }
    content
        .add(&root_namespace)
        .add(enforcement.as_str_name())
        .add(egress.as_str_name())
        .add(&report_interval_ms.to_string());
    let renew = renewal.map(|Renewal { serial, within }| {
        let within_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        content.add(serial).add(&within_ms.to_string());
        v1::Renew { serial: serial.clone(), within_ms }
    });
    let settings = v1::Settings {
        labels: workload.labels.clone().into_iter().collect(),
        root_namespace,
        enforcement: enforcement.into(),
        report_interval_ms,
        renew,
        egress: egress.into(),
    };
    content.resource("settings".to_owned(), Kind::Settings(settings))
}

/// One policy, as JSON.
pub(crate) fn policy(document: &Document) -> Resource {
    let policy = v1::Policy { document: document.to_json(), source: document.source().to_string() };
    let mut content = Content::new();
    content.add(&policy.document).add(&policy.source);
    content.resource(format!("{POLICY_PREFIX}{}", document.name()), Kind::Policy(policy))
}

/// A service with the endpoints that it has now.
pub(crate) fn service(service: &Service, endpoints: &BTreeSet<SocketAddr>) -> Resource {
    let identities = vec![service.identity.to_string()];
    let endpoints: Vec<_> =
        endpoints.iter().map(|address| v1::Endpoint { address: address.to_string() }).collect();
    let mut content = Content::new();
    for identity in &identities {
        content.add(identity);
    }
    for endpoint in &endpoints {
        content.add(&endpoint.address);
    }
    content.resource(service_name(&service.name), Kind::Service(v1::Service { identities, endpoints }))
}

/// The resource that a service is.
pub(crate) fn service_name(name: &ServiceName) -> String {
    format!("service/{name}")
}

/// The authorities of one trust domain.
pub(crate) fn bundle(bundle: &TrustBundle) -> Resource {
    let message = trust_bundle(bundle);
    let mut content = Content::new();
    for authority in &message.authorities {
        content.add_bytes(authority);
    }
    content.resource(format!("bundle/{}", bundle.trust_domain()), Kind::Bundle(message))
}

/// The identities that nobody speaks with.
pub(crate) fn quarantine(quarantine: &Quarantine) -> Resource {
    let mut content = Content::new();
    let mut identities = Vec::new();
    for (id, refused) in quarantine.iter() {
        let epoch = match refused {
            Refused::All => None,
            Refused::IssuedBefore(ms) => Some(ms),
        };
        content.add(id.as_str()).add(&format!("{epoch:?}"));
        identities.push(v1::Quarantined { identity: id.to_string(), issued_before_ms: epoch });
    }
    content.resource("quarantine".to_owned(), Kind::Quarantine(v1::Quarantine { identities }))
}

/// The message of a bundle, which issuance answers with too.
pub(crate) fn trust_bundle(bundle: &TrustBundle) -> v1::TrustBundle {
    v1::TrustBundle {
        trust_domain: bundle.trust_domain().to_string(),
        authorities: bundle.authorities().iter().map(|authority| authority.to_vec()).collect(),
    }
}

/// Feeds a digest, each part with its length before it: ("a", "bc") is not ("ab", "c").
struct Content(Sha256);

impl Content {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn add(&mut self, part: &str) -> &mut Self {
        self.add_bytes(part.as_bytes())
    }

    fn add_bytes(&mut self, part: &[u8]) -> &mut Self {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
        self
    }

    fn resource(self, name: String, kind: Kind) -> Resource {
        let version = hex::encode(&self.0.finalize()).chars().take(32).collect();
        Resource { name, version, kind: Some(kind) }
    }
}

/// What the names of policies begin with.
pub(crate) const POLICY_PREFIX: &str = "policy/";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(labels: &str, enforcement: &str) -> Config {
        let text = format!(
            r#"{{apiVersion: sidegate.dev/v1alpha1, kind: Mesh, trustDomain: shop.test, policies: p, state: s,
            enforcement: {enforcement}, listen: {{grpc: "127.0.0.1:0", api: "127.0.0.1:0"}},
            services: [{{namespace: shop, name: payments, labels: {labels}}}]}}"#
        );
        Config::parse(Path::new("mesh.yaml"), &text).unwrap()
    }

    fn settings_version(labels: &str, enforcement: &str) -> String {
        let config = config(labels, enforcement);
        settings(&config, &config.services[0], None).version
    }

    #[test]
    fn a_version_follows_the_content_and_nothing_else() {
        let version = settings_version("{a: b, c: d}", "Enforce");
        assert_eq!(version, settings_version("{c: d, a: b}", "Enforce"));
        assert_ne!(version, settings_version("{a: b, c: e}", "Enforce"));
        assert_ne!(version, settings_version("{a: b, c: d}", "Observe"));
        assert_ne!(settings_version("{a: bc}", "Enforce"), settings_version("{ab: c}", "Enforce"));
    }

    #[test]
    fn a_services_version_follows_its_endpoints() {
        let config = config("{}", "Enforce");
        let one = BTreeSet::from(["10.0.0.1:1".parse().unwrap()]);
        let with = service(&config.services[0], &one);
        assert_eq!(with.name, "service/shop/payments");
        assert_ne!(with.version, service(&config.services[0], &BTreeSet::new()).version);
    }
}
