//! The policy set as it stands in the folder: all of it, checked as a whole by the one evaluator's own reader, or the
//! list of what is wrong. Hands on the set, its form on the wire, and what of it concerns each identity. A file is parsed
//! when it is another one than before, and whatever is as it was is the same value as before.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    path::Path,
    sync::Arc,
};

use sha2::{Digest, Sha256};
use sidegate_identity::SpiffeId;
use sidegate_policy::{Document, PolicyError, PolicySet, Workload};
use sidegate_proto::v1::Resource;

use crate::{
    clock,
    config::{
        Config, Service,
        folder::{self, PolicyFile},
    },
    hex,
    problem::Problem,
    resource,
};

/// A whole set that passed.
#[derive(Debug)]
pub(crate) struct LoadedPolicies {
    pub(crate) set: PolicySet,
    /// By the policies' names: made once for all sidecars.
    pub(crate) resources: BTreeMap<Arc<str>, Arc<Resource>>,
    /// Changes when a policy does, and not with comments or the order of files.
    pub(crate) digest: String,
    pub(crate) loaded_at_ms: u64,
    /// The files that the set was read from: whoever shows a rule shows the text that is in force.
    pub(crate) files: Vec<PolicyFile>,
}

/// Parses the files, and remembers those that passed by themselves.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// By the names of the files.
    known: HashMap<String, KnownFile>,
}

/// The policies that select the workload of each identity: a mesh of a thousand sidecars has far fewer workloads.
#[derive(Debug, Default)]
pub(crate) struct Selected(HashMap<SpiffeId, Arc<[Arc<Resource>]>>);

/// What a file of this text holds.
#[derive(Clone, Debug)]
struct KnownFile {
    /// SHA-256.
    text: [u8; 32],
    policies: Arc<[Written]>,
}

/// A policy, and its form on the wire.
#[derive(Clone, Debug)]
struct Written {
    document: Arc<Document>,
    resource: Arc<Resource>,
}

/// Reads the folder's files as they are now.
pub(crate) fn read(folder: &Path) -> Result<Vec<PolicyFile>, Vec<Problem>> {
    folder::read(folder)
}

/// A service as selectors see it.
pub(crate) fn workload_of<'a>(config: &'a Config, service: &'a Service) -> Workload<'a> {
    Workload {
        namespace: &service.name.namespace,
        labels: &service.labels,
        trust_domain: config.trust_domain.as_str(),
        root_namespace: config.root_namespace.as_deref(),
    }
}

impl Parser {
    /// The set of all files; every broken one is reported.
    pub(crate) fn parse(&mut self, files: &[PolicyFile]) -> Result<LoadedPolicies, Vec<Problem>> {
        let mut known = HashMap::with_capacity(files.len());
        let mut written = Vec::new();
        let mut problems = Vec::new();
        for file in files {
            match self.file(file) {
                Ok(of_file) => {
                    written.extend(of_file.policies.iter().cloned());
                    known.insert(file.name.clone(), of_file);
                }
                Err(problem) => problems.push(problem),
            }
        }
        // Files that are gone are forgotten.
        self.known = known;
        if !problems.is_empty() {
            return Err(problems);
        }
        let documents = written.iter().map(|policy| policy.document.clone()).collect();
        let problems = |errors: Vec<PolicyError>| errors.into_iter().map(Problem::from).collect::<Vec<_>>();
        let set = PolicySet::new(documents).map_err(problems)?;
        set.refuse_lasting_exceptions(clock::now_ms() / 1_000).map_err(problems)?;
        Ok(LoadedPolicies::of(set, written, files.to_vec()))
    }

    fn file(&self, file: &PolicyFile) -> Result<KnownFile, Problem> {
        let text = Sha256::digest(&file.text).into();
        match self.known.get(&file.name) {
            Some(known) if known.text == text => Ok(known.clone()),
            _ => {
                let policies = sidegate_policy::parse_yaml(&file.name, &file.text, None)?;
                Ok(KnownFile { text, policies: policies.into_iter().map(Written::of).collect() })
            }
        }
    }
}

impl Written {
    fn of(document: Document) -> Self {
        Self { resource: Arc::new(resource::policy(&document)), document: Arc::new(document) }
    }
}

impl LoadedPolicies {
    fn of(set: PolicySet, written: Vec<Written>, files: Vec<PolicyFile>) -> Self {
        let resources: BTreeMap<_, _> =
            written.into_iter().map(|policy| (policy.document.name().clone(), policy.resource)).collect();
        let mut digest = Sha256::new();
        for resource in resources.values() {
            digest.update(resource.name.as_bytes());
            digest.update(resource.version.as_bytes());
        }
        let digest = hex::encode(&digest.finalize()).chars().take(16).collect();
        Self { set, resources, digest, loaded_at_ms: clock::now_ms(), files }
    }

    fn selecting(&self, workload: &Workload<'_>) -> Arc<[Arc<Resource>]> {
        let documents = self.set.documents_selecting(workload);
        documents.filter_map(|document| self.resources.get(document.name()).cloned()).collect()
    }
}

impl Selected {
    /// Of every identity of the mesh; an identity that several services share has the labels of the first of them in
    /// `mesh.yaml`. What is as it was `before` is the same value.
    pub(crate) fn of(config: &Config, policies: Option<&LoadedPolicies>, before: &Self) -> Self {
        let mut selected = HashMap::with_capacity(config.services.len());
        for service in &config.services {
            if let Entry::Vacant(place) = selected.entry(service.identity.clone()) {
                let workload = workload_of(config, service);
                let now = policies.map_or_else(Arc::default, |policies| policies.selecting(&workload));
                let same = before.get(&service.identity).filter(|before| are_same(before, &now));
                place.insert(same.cloned().unwrap_or(now));
            }
        }
        Self(selected)
    }

    /// `None`: the identity is no service of the mesh.
    pub(crate) fn get(&self, identity: &SpiffeId) -> Option<&Arc<[Arc<Resource>]>> {
        self.0.get(identity)
    }
}

fn are_same(before: &[Arc<Resource>], now: &[Arc<Resource>]) -> bool {
    let is_same = |(a, b): (&Arc<Resource>, &Arc<Resource>)| {
        Arc::ptr_eq(a, b) || (a.name == b.name && a.version == b.version)
    };
    before.len() == now.len() && before.iter().zip(now).all(is_same)
}

#[cfg(test)]
mod tests {
    use std::slice;

    use sidegate_codes::Code;

    use super::*;

    fn file(name: &str, app: &str, action: &str) -> PolicyFile {
        let text = format!(
            "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {app}, namespace: shop}}\n\
             spec: {{selector: {{app: {app}}}, action: {action}, rules: [{{to: [{{ports: [80]}}]}}]}}\n"
        );
        PolicyFile { name: name.into(), text: text.into_bytes() }
    }

    #[test]
    fn a_file_is_parsed_again_only_if_it_has_changed() {
        let mut parser = Parser::default();
        let before = parser.parse(&[file("a.yaml", "web", "Allow"), file("b.yaml", "db", "Allow")]).unwrap();
        let after = parser.parse(&[file("a.yaml", "web", "Deny"), file("b.yaml", "db", "Allow")]).unwrap();
        let is_same = |name: &str| Arc::ptr_eq(&before.resources[name], &after.resources[name]);
        assert!(is_same("shop/db") && !is_same("shop/web"));
        assert_ne!(before.digest, after.digest);
    }

    #[test]
    fn files_that_were_parsed_before_are_still_judged_as_one_set() {
        let mut parser = Parser::default();
        let one = file("a.yaml", "web", "Allow");
        let other = file("b.yaml", "web", "Deny");
        parser.parse(slice::from_ref(&one)).unwrap();
        for _ in 0..2 {
            let problems = parser.parse(&[one.clone(), other.clone()]).unwrap_err();
            let found: Vec<_> =
                problems.iter().map(|problem| (problem.code, problem.file.as_str())).collect();
            assert_eq!(found, [(Code::PolicyDuplicate, "b.yaml")]);
        }
        let moved = PolicyFile { name: "c.yaml".into(), ..one };
        let loaded = parser.parse(&[moved]).unwrap();
        let sources: Vec<_> = loaded.set.documents().map(|document| &**document.source()).collect();
        assert_eq!(sources, ["c.yaml:1"]);
    }

    #[test]
    fn an_exception_that_lasts_is_refused_here_and_not_by_each_sidecar() {
        let until = |expires: &str| {
            let text = format!(
                "apiVersion: sidegate.dev/v1alpha1\nkind: PlaintextException\nmetadata: {{name: probe, namespace: shop}}\n\
                 spec: {{from: [{{ipBlocks: [10.0.0.7]}}], to: [{{ports: [80]}}], expires: {expires}, reason: a test}}\n"
            );
            Parser::default().parse(&[PolicyFile { name: "a.yaml".into(), text: text.into_bytes() }])
        };
        until("2026-01-31").unwrap();
        let problems = until("2999-01-31").unwrap_err();
        assert_eq!(problems.iter().map(|problem| problem.code).collect::<Vec<_>>(), [Code::PolicyBadValue]);
    }

    #[test]
    fn a_broken_file_is_reported_each_time_and_costs_the_others_nothing() {
        let mut parser = Parser::default();
        let good = file("a.yaml", "web", "Allow");
        let before = parser.parse(slice::from_ref(&good)).unwrap();
        for _ in 0..2 {
            let problems = parser.parse(&[good.clone(), file("b.yaml", "db", "Perhaps")]).unwrap_err();
            assert_eq!(problems.iter().map(|problem| &*problem.file).collect::<Vec<_>>(), ["b.yaml"]);
        }
        let after = parser.parse(&[good]).unwrap();
        assert!(Arc::ptr_eq(&before.resources["shop/web"], &after.resources["shop/web"]));
    }
}
