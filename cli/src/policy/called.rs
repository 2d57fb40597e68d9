//! The workload that is called: a service of `mesh.yaml`, or what was said of it.

use std::{collections::BTreeMap, fmt, num::NonZeroU16};

use sidegate_control_plane::config::Service;
use sidegate_identity::{SpiffeId, TrustDomain};
use sidegate_policy::Workload;

use super::files::{self, Mesh};
use crate::{exit::Exit, failure::Failure};

/// A workload as selectors see it.
pub(crate) struct Called {
    pub(crate) identity: SpiffeId,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) namespace: String,
    pub(crate) account: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// The application's port, where `mesh.yaml` says it.
    pub(crate) port: Option<u16>,
}

impl Called {
    pub(crate) fn of(text: &str, mesh: &Mesh, labels: &[(String, String)]) -> Result<Self, Failure> {
        let identity = files::identity(text, mesh.trust_domain.as_ref())?;
        let (Some(namespace), Some(account)) = (identity.namespace(), identity.service_account()) else {
            let why = "a workload's identity is spiffe://<trust domain>/ns/<namespace>/sa/<account>";
            return Err(unknown(text, why.to_owned(), "as in shop/payments"));
        };
        let trust_domain = TrustDomain::parse(identity.trust_domain())
            .map_err(|error| unknown(text, error.to_string(), "as in shop/payments"))?;
        let services = mesh.services.as_ref();
        let service = services.map(|services| service(text, &identity, services)).transpose()?;
        let labels = match service {
            Some(service) => service.labels.clone(),
            None if labels.is_empty() => BTreeMap::from([("app".to_owned(), account.to_owned())]),
            None => labels.iter().cloned().collect(),
        };
        Ok(Self {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            trust_domain,
            labels,
            port: service.and_then(|service| service.port).map(NonZeroU16::get),
            identity,
        })
    }

    pub(crate) fn workload<'a>(&'a self, root_namespace: Option<&'a str>) -> Workload<'a> {
        Workload {
            namespace: &self.namespace,
            labels: &self.labels,
            trust_domain: self.trust_domain.as_str(),
            root_namespace,
        }
    }
}

impl fmt::Display for Called {
    /// `shop/payments {app: payments}`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        write!(f, "{}/{} {{{}}}", self.namespace, self.account, labels.join(", "))
    }
}

/// The first service under the identity: its labels are the workload's, as the control plane has it.
fn service<'m>(text: &str, identity: &SpiffeId, services: &'m [Service]) -> Result<&'m Service, Failure> {
    services.iter().find(|service| service.identity == *identity).ok_or_else(|| {
        let known: Vec<&str> = services.iter().map(|service| service.identity.as_str()).collect();
        let why = format!("mesh.yaml has no service with the identity {identity}");
        unknown(text, why, &format!("it has {}", known.join(", ")))
    })
}

fn unknown(text: &str, why: String, next: &str) -> Failure {
    Failure::new(Exit::Usage, "the called workload is unknown", why, next).seen(text)
}

/// A label as it is typed: `key=value`.
pub(crate) fn label(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("a label is key=value, as in app=payments")?;
    Ok((key.to_owned(), value.to_owned()))
}
