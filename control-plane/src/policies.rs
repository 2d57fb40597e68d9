//! The policy set as it stands in the folder: all of it, checked as a whole by the one evaluator's own reader, or the
//! list of what is wrong. Hands on the set and its form on the wire.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};
use sidegate_identity::SpiffeId;
use sidegate_policy::PolicySet;
use sidegate_proto::v1::Resource;

use crate::{
    clock,
    config::folder::{self, PolicyFile},
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
}

/// The policies that select a workload, by its identity: a mesh of a thousand sidecars has far fewer workloads.
#[derive(Debug, Default)]
pub(crate) struct Selected {
    /// Held for a few instructions.
    by_identity: Mutex<HashMap<SpiffeId, Arc<[Arc<Resource>]>>>,
}

/// Reads the folder's files as they are now.
pub(crate) fn read(folder: &Path) -> Result<Vec<PolicyFile>, Vec<Problem>> {
    folder::read(folder)
}

/// Parses all files; every broken one is reported.
pub(crate) fn parse(files: &[PolicyFile]) -> Result<LoadedPolicies, Vec<Problem>> {
    let mut sourced = Vec::new();
    let mut problems = Vec::new();
    for file in files {
        match sidegate_policy::parse_yaml(&file.name, &file.text, None) {
            Ok(policies) => sourced.extend(policies),
            Err(error) => problems.push(Problem::from(error)),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let set = PolicySet::new(sourced)
        .map_err(|errors| errors.into_iter().map(Problem::from).collect::<Vec<_>>())?;
    Ok(LoadedPolicies::of(set))
}

impl Selected {
    /// What was found for the identity before, or what `find` finds.
    pub(crate) fn of(
        &self,
        identity: &SpiffeId,
        find: impl FnOnce() -> Arc<[Arc<Resource>]>,
    ) -> Arc<[Arc<Resource>]> {
        if let Some(found) = self.lock().get(identity) {
            return found.clone();
        }
        // Two sidecars that come at once both look, and find the same.
        let found = find();
        self.lock().insert(identity.clone(), found.clone());
        found
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SpiffeId, Arc<[Arc<Resource>]>>> {
        self.by_identity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoadedPolicies {
    fn of(set: PolicySet) -> Self {
        let resources: BTreeMap<_, _> = set
            .documents()
            .map(|document| (document.name().clone(), Arc::new(resource::policy(document))))
            .collect();
        let mut digest = Sha256::new();
        for resource in resources.values() {
            digest.update(resource.name.as_bytes());
            digest.update(resource.version.as_bytes());
        }
        let digest = hex::encode(&digest.finalize()).chars().take(16).collect();
        Self { set, resources, digest, loaded_at_ms: clock::now_ms() }
    }
}
