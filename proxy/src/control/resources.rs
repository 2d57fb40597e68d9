//! From the wire to the mesh's state: the resources this sidecar holds by name, and the strict step from them to a
//! [`MeshState`]. One element that is not understood refuses them all, with its path.

use std::{collections::BTreeMap, str::FromStr, sync::Arc, time::Duration};

use rustls::pki_types::CertificateDer;
use sidegate_codes::Code;
use sidegate_identity::{Quarantine, Refused, SpiffeId, TrustBundle, TrustBundles, TrustDomain};
use sidegate_policy::{PolicySet, parse_json};
use sidegate_proto::v1::{self, resource::Kind};

use super::Renewal;
use crate::{
    authorize,
    config::{ServiceName, Target},
    snapshot::{EgressDefault, Enforcement, MeshState},
};

/// What the control plane has told, by resource name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Resources(BTreeMap<String, v1::Resource>);

/// Why an update is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message} ({code})")]
pub(crate) struct Refusal {
    /// As in `policy/shop/payments-callers: spec.rules[0].to[0].paths[1]`.
    pub(crate) path: String,
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Resources {
    /// From a full list, as the cache keeps it.
    pub(super) fn from_list(list: Vec<v1::Resource>) -> Self {
        Self(list.into_iter().map(|resource| (resource.name.clone(), resource)).collect())
    }

    /// All of them, in the order of their names.
    pub(super) fn to_list(&self) -> Vec<v1::Resource> {
        self.0.values().cloned().collect()
    }

    /// Name to version: what a `Hello` says is held.
    pub(super) fn versions(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(name, resource)| (name.clone(), resource.version.clone())).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The certificate that is to be renewed now.
    pub(super) fn renewal(&self) -> Option<Renewal> {
        let Some(Kind::Settings(v1::Settings { renew: Some(told), .. })) = &self.0.get("settings")?.kind
        else {
            return None;
        };
        Some(Renewal { serial: told.serial.clone(), within: Duration::from_millis(told.within_ms.into()) })
    }

    /// What would be held after `update`.
    pub(super) fn updated(&self, update: v1::Update) -> Self {
        let mut next = self.clone();
        for name in &update.removed {
            next.0.remove(name);
        }
        next.0.extend(update.set.into_iter().map(|resource| (resource.name.clone(), resource)));
        next
    }

    /// All of it understood, or the first element that is not.
    pub(super) fn mesh_state(&self) -> Result<MeshState, Refusal> {
        let mut settings = None;
        let mut bundles = Vec::new();
        let mut quarantine = None;
        let mut policies = Vec::new();
        let mut services = BTreeMap::new();
        for (name, resource) in &self.0 {
            let at = |refusal: Refusal| refusal.within(name);
            match &resource.kind {
                Some(Kind::Settings(told)) if name == "settings" => settings = Some(told),
                Some(Kind::Quarantine(told)) if name == "quarantine" => {
                    quarantine = Some(quarantined(told).map_err(at)?);
                }
                Some(Kind::Bundle(told)) => {
                    let bundle = bundle(told).map_err(at)?;
                    named(name, "bundle", bundle.trust_domain().as_str())?;
                    bundles.push(bundle);
                }
                Some(Kind::Policy(told)) => {
                    let policy = parse_json(&told.document, &told.source).map_err(|error| Refusal {
                        path: name.clone() + ": " + error.field.as_deref().unwrap_or("document"),
                        code: error.code,
                        message: error.message,
                    })?;
                    named(name, "policy", policy.name())?;
                    policies.push(policy);
                }
                Some(Kind::Service(told)) => {
                    let service = name.strip_prefix("service/").ok_or_else(|| {
                        Refusal::new("", "its name does not begin with service/").within(name)
                    })?;
                    let service = ServiceName::from_str(service)
                        .map_err(|error| Refusal::new("", error).within(name))?;
                    services.insert(service, target(told).map_err(at)?);
                }
                Some(Kind::Settings(_) | Kind::Quarantine(_)) => {
                    return Err(Refusal::new("", "something under another name").within(name));
                }
                None => {
                    return Err(
                        Refusal::new("kind", "of a kind that this release does not know").within(name)
                    );
                }
            }
        }
        let settings = settings.ok_or_else(|| Refusal::new("settings", "there are none"))?;
        let policies = PolicySet::new(policies).and_then(|set| {
            set.refuse_lasting_exceptions(authorize::now())?;
            Ok(set)
        });
        let policies = policies.map_err(|errors| {
            let first = errors.into_iter().next();
            Refusal {
                path: "policy".to_owned(),
                code: first.as_ref().map_or(Code::SnapshotRefused, |error| error.code),
                message: first.map_or_else(String::new, |error| error.to_string()),
            }
        })?;
        Ok(MeshState {
            labels: settings.labels.clone(),
            root_namespace: Some(settings.root_namespace.clone()).filter(|namespace| !namespace.is_empty()),
            enforcement: enforcement(settings.enforcement)?,
            egress: Some(egress(settings.egress)?),
            trust: Arc::new(
                bundles.into_iter().collect::<TrustBundles>().without(quarantine.unwrap_or_default()),
            ),
            policies,
            services,
            report_interval: report_interval(settings.report_interval_ms)?,
        })
    }
}

/// One trust domain's authorities.
pub(super) fn bundle(told: &v1::TrustBundle) -> Result<TrustBundle, Refusal> {
    let domain = TrustDomain::parse(&told.trust_domain)
        .map_err(|error| Refusal::new("trustDomain", format!("{:?}: {error}", told.trust_domain)))?;
    let authorities = told.authorities.iter().cloned().map(CertificateDer::from);
    TrustBundle::from_der(domain, authorities).map_err(|error| Refusal::new("authorities", error.to_string()))
}

/// Whom nobody speaks with.
fn quarantined(told: &v1::Quarantine) -> Result<Quarantine, Refusal> {
    let identities = told.identities.iter().enumerate().map(|(index, entry)| {
        let id = SpiffeId::parse(&entry.identity).map_err(|error| {
            Refusal::new(format!("identities[{index}]"), format!("{:?}: {error}", entry.identity))
        })?;
        Ok((id, entry.issued_before_ms.map_or(Refused::All, Refused::IssuedBefore)))
    });
    identities.collect()
}

fn target(told: &v1::Service) -> Result<Target, Refusal> {
    let identities = told.identities.iter().enumerate().map(|(index, text)| {
        SpiffeId::parse(text)
            .map_err(|error| Refusal::new(format!("identities[{index}]"), format!("{text:?}: {error}")))
    });
    let endpoints = told.endpoints.iter().enumerate().map(|(index, endpoint)| {
        endpoint.address.parse().map_err(|_| {
            Refusal::new(
                format!("endpoints[{index}].address"),
                format!("{:?} is not ip:port", endpoint.address),
            )
        })
    });
    Ok(Target {
        identities: identities.collect::<Result<_, _>>()?,
        endpoints: endpoints.collect::<Result<_, _>>()?,
    })
}

fn enforcement(value: i32) -> Result<Enforcement, Refusal> {
    match v1::Enforcement::try_from(value) {
        Ok(v1::Enforcement::Enforce) => Ok(Enforcement::Enforce),
        Ok(v1::Enforcement::Observe) => Ok(Enforcement::Observe),
        Ok(v1::Enforcement::Unspecified) | Err(_) => {
            Err(Refusal::new("settings: enforcement", format!("{value} is not a known enforcement")))
        }
    }
}

/// A control plane that does not say lets nothing out.
fn egress(value: i32) -> Result<EgressDefault, Refusal> {
    match v1::Egress::try_from(value) {
        Ok(v1::Egress::Unspecified | v1::Egress::Deny) => Ok(EgressDefault::Deny),
        Ok(v1::Egress::Allow) => Ok(EgressDefault::Allow),
        Err(_) => Err(Refusal::new("settings: egress", format!("{value} is not a known default of egress"))),
    }
}

fn report_interval(milliseconds: u32) -> Result<Duration, Refusal> {
    let interval = Duration::from_millis(milliseconds.into());
    if (SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(&interval) {
        Ok(interval)
    } else {
        Err(Refusal::new(
            "settings: reportIntervalMs",
            format!("{milliseconds} is not between 100 and 3600000"),
        ))
    }
}

/// A resource's name says what is in it: two of them can then never mean the same thing.
fn named(name: &str, kind: &str, content: &str) -> Result<(), Refusal> {
    if name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('/')) == Some(content) {
        Ok(())
    } else {
        Err(Refusal::new("", format!("it holds {kind}/{content}")).within(name))
    }
}

impl Refusal {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), code: Code::SnapshotRefused, message: message.into() }
    }

    fn within(mut self, name: &str) -> Self {
        self.path = if self.path.is_empty() { name.to_owned() } else { format!("{name}: {}", self.path) };
        self
    }
}

const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const LONGEST_INTERVAL: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"{"apiVersion":"sidegate.dev/v1alpha1","kind":"AuthorizationPolicy",
        "metadata":{"name":"callers","namespace":"shop"},
        "spec":{"action":"Allow","rules":[{"from":[{"serviceAccounts":["shop/orders"]}]}]}}"#;

    fn resource(name: &str, kind: Kind) -> v1::Resource {
        v1::Resource { name: name.to_owned(), version: "1".to_owned(), kind: Some(kind) }
    }

    fn settings(enforcement: v1::Enforcement) -> v1::Resource {
        let settings = v1::Settings {
            labels: BTreeMap::new(),
            root_namespace: String::new(),
            enforcement: enforcement.into(),
            report_interval_ms: 1_000,
            egress: v1::Egress::Deny.into(),
            renew: None,
        };
        resource("settings", Kind::Settings(settings))
    }

    fn policy(name: &str, document: &str) -> v1::Resource {
        let policy = v1::Policy { document: document.to_owned(), source: "policies/a.yaml:1".to_owned() };
        resource(name, Kind::Policy(policy))
    }

    fn service(identities: &[&str], endpoints: &[&str]) -> v1::Resource {
        let service = v1::Service {
            identities: identities.iter().map(ToString::to_string).collect(),
            endpoints: endpoints
                .iter()
                .map(|address| v1::Endpoint { address: (*address).to_owned() })
                .collect(),
        };
        resource("service/shop/payments", Kind::Service(service))
    }

    fn refused(resources: Vec<v1::Resource>) -> Refusal {
        let mut all = vec![settings(v1::Enforcement::Enforce)];
        all.extend(resources);
        Resources::from_list(all).mesh_state().expect_err("must be refused")
    }

    #[test]
    fn what_is_understood_becomes_the_mesh_state() {
        let resources = Resources::from_list(vec![
            settings(v1::Enforcement::Observe),
            policy("policy/shop/callers", POLICY),
            service(&["spiffe://shop.test/ns/shop/sa/payments"], &["10.0.0.7:15106"]),
        ]);
        let state = resources.mesh_state().unwrap();
        assert_eq!(state.enforcement, Enforcement::Observe);
        assert_eq!((state.policies.len(), state.root_namespace), (1, None));
        assert_eq!(state.services[&"shop/payments".parse().unwrap()].endpoints.len(), 1);
    }

    #[test]
    fn one_element_that_is_not_understood_refuses_all_with_its_path() {
        let unknown_field = POLICY.replace("\"action\"", "\"onlyOnTuesdays\":true,\"action\"");
        for (resources, path) in [
            (vec![policy("policy/shop/callers", &unknown_field)], "policy/shop/callers: spec.onlyOnTuesdays"),
            (vec![policy("policy/shop/other", POLICY)], "policy/shop/other"),
            (
                vec![service(&["spiffe://shop.test/ns//sa/payments"], &[])],
                "service/shop/payments: identities[0]",
            ),
            (vec![service(&[], &["payments:15106"])], "service/shop/payments: endpoints[0].address"),
            (
                vec![v1::Resource { name: "route/shop/a".to_owned(), version: String::new(), kind: None }],
                "route/shop/a: kind",
            ),
            (vec![settings(v1::Enforcement::Unspecified)], "settings: enforcement"),
        ] {
            assert_eq!(refused(resources).path, path);
        }
    }

    #[test]
    fn nothing_is_in_force_without_settings() {
        assert_eq!(Resources::default().mesh_state().unwrap_err().path, "settings");
    }

    #[test]
    fn a_delta_sets_and_removes() {
        let held = Resources::from_list(vec![
            settings(v1::Enforcement::Enforce),
            policy("policy/shop/callers", POLICY),
        ]);
        let next = held.updated(v1::Update {
            version: 2,
            set: vec![service(&[], &[])],
            removed: vec!["policy/shop/callers".to_owned()],
        });
        assert_eq!(next.versions().into_keys().collect::<Vec<_>>(), ["service/shop/payments", "settings"]);
    }
}
