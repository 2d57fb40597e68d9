//! Trust bundles of other trust domains, which the operator puts into files: each stands for the one trust domain that
//! `mesh.yaml` names it for and is merged with nothing. What cannot be read whole is refused whole.

mod document;

use std::{path::Path, sync::Arc};

use sidegate_codes::Code;
use sidegate_identity::{TrustBundle, TrustDomain};
use sidegate_proto::v1::Resource;

pub(crate) use self::document::published;
use crate::{
    config::{self, Federated},
    problem::Problem,
    resource,
};

/// A foreign bundle in force, in its form on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    trust_domain: TrustDomain,
    pub(crate) resource: Arc<Resource>,
}

/// What the files of the foreign bundles say at one look, in the order of `mesh.yaml`.
#[derive(Debug)]
pub(crate) struct ForeignFiles(Vec<(Federated, Result<String, Problem>)>);

impl ForeignFiles {
    pub(crate) fn read(federation: &[Federated]) -> Self {
        let read = |federated: &Federated| {
            let text = config::read_bounded(&federated.bundle, MAX_BYTES)
                .map_err(|error| problem(&federated.bundle, Code::ConfigUnreadable, error.to_string()));
            (federated.clone(), text)
        };
        Self(federation.iter().map(read).collect())
    }

    /// The bundles of these files. One that cannot be used is a problem to show, and leaves the one `before` it in force:
    /// a slip of the pen cuts nobody off. A trust domain that `mesh.yaml` does not name any more is not among them.
    pub(crate) fn load(&self, before: &[Foreign]) -> (Vec<Foreign>, Vec<Problem>) {
        let (mut loaded, mut problems) = (Vec::new(), Vec::new());
        for (Federated { trust_domain, bundle: path }, text) in &self.0 {
            let bundle = text.clone().and_then(|text| {
                parse(trust_domain, &text).map_err(|reason| problem(path, Code::BadCredentials, reason))
            });
            match bundle {
                Ok(bundle) => {
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

/// The bundle in a text: SPIFFE's JSON, or certificates in PEM.
fn parse(trust_domain: &TrustDomain, text: &str) -> Result<TrustBundle, String> {
    let bundle = if text.trim_start().starts_with('{') {
        TrustBundle::from_der(trust_domain.clone(), document::authorities(text)?)
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
