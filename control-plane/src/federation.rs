//! Trust bundles of other trust domains, from files that the operator writes or that `follow` fetches: each stands for the one
//! trust domain that `mesh.yaml` names it for and is merged with nothing. What cannot be read whole is refused whole.

mod document;
mod fetch;
pub(crate) mod follow;
mod held;
pub(crate) mod serve;

use std::{path::Path, sync::Arc};

use sidegate_codes::Code;
use sidegate_identity::{TrustBundle, TrustDomain};
use sidegate_proto::v1::Resource;

pub(crate) use self::document::{lead, published};
use self::held::Held;
use crate::{
    config::{self, BundleSource, Federated},
    problem::Problem,
    resource,
};

/// A foreign bundle in force, in its form on the wire.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Foreign {
    trust_domain: TrustDomain,
    pub(crate) resource: Arc<Resource>,
}

/// What the files of the foreign bundles say at one look, in the order of `mesh.yaml`.
#[derive(Debug)]
pub(crate) struct ForeignFiles(Vec<(Federated, Result<Found, Problem>)>);

/// What a file holds.
#[derive(Clone, Debug)]
struct Found {
    /// `None`: nothing was fetched yet.
    text: Option<String>,
    /// Why there is nothing newer.
    stale: Option<Problem>,
}

impl ForeignFiles {
    pub(crate) fn read(federation: &[Federated]) -> Self {
        let read = |federated: &Federated| (federated.clone(), Found::read(federated));
        Self(federation.iter().map(read).collect())
    }

    /// The bundles of these files. One that cannot be used is a problem to show, and leaves the one `before` it in force:
    /// a slip of the pen cuts nobody off. A trust domain that `mesh.yaml` does not name any more is not among them.
    pub(crate) fn load(&self, before: &[Foreign]) -> (Vec<Foreign>, Vec<Problem>) {
        let (mut loaded, mut problems) = (Vec::new(), Vec::new());
        for (Federated { trust_domain, source }, found) in &self.0 {
            let bundle = found.clone().and_then(|Found { text, stale }| {
                problems.extend(stale);
                let parsed = text.map(|text| parse(trust_domain, &text)).transpose();
                parsed.map_err(|reason| problem(source.file(), Code::BadCredentials, reason))
            });
            match bundle {
                // What is not known is trusted by nobody.
                Ok(None) => {}
                Ok(Some(bundle)) => {
                    let resource = Arc::new(resource::bundle(&bundle));
                    loaded.push(Foreign { trust_domain: trust_domain.clone(), resource });
                }
                Err(problem) => {
                    problems.push(problem);
                    loaded.extend(before.iter().find(|old| old.trust_domain == *trust_domain).cloned());
                }
            }
        }
        (loaded, problems)
    }
}

impl Found {
    /// An endpoint's bundle is the one that was fetched last, or the one to begin with.
    fn read(federated: &Federated) -> Result<Self, Problem> {
        match &federated.source {
            BundleSource::File(path) => config::read_bounded(path, MAX_BYTES)
                .map(|text| Self { text: Some(text), stale: None })
                .map_err(|error| problem(path, Code::ConfigUnreadable, error.to_string())),
            BundleSource::Endpoint(endpoint) => {
                let (held, first) = Held::load(endpoint)
                    .map_err(|reason| problem(&endpoint.kept, Code::ConfigUnreadable, reason))?;
                let stale = held.problem.map(|reason| Problem {
                    field: Some(format!("federation: {}", federated.trust_domain)),
                    ..Problem::of_file(Code::ForeignBundleStale, endpoint.url.to_string(), reason)
                });
                Ok(Self { text: held.document.or(first), stale })
            }
        }
    }
}

/// The bundle in a text: SPIFFE's JSON, or certificates in PEM.
fn parse(trust_domain: &TrustDomain, text: &str) -> Result<TrustBundle, String> {
    let bundle = if text.trim_start().starts_with('{') {
        TrustBundle::from_der(trust_domain.clone(), document::parse(text)?.authorities)
    } else {
        TrustBundle::from_pem(trust_domain.clone(), text.as_bytes())
    };
    bundle.map_err(|error| error.to_string())
}

fn problem(path: &Path, code: Code, message: String) -> Problem {
    Problem::of_file(code, path.display().to_string(), message)
}

/// Some dozens of authorities.
const MAX_BYTES: u64 = 256 << 10;

#[cfg(test)]
mod tests;
