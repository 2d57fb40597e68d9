//! The mesh as it is now: one immutable value in one swap, published by one task. A file that does not load changes
//! nothing but the list of problems; the last good configuration and the last good policies stay. What a change does not
//! touch is the same value as before, and costs nothing.

mod views;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;
use sha2::{Digest, Sha256};
use sidegate_codes::Code;
use sidegate_identity::SpiffeId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    ca::Trust,
    clock,
    config::{Config, folder::PolicyFile},
    federation::{Foreign, ForeignFiles},
    metrics::Metrics,
    policies::{self, LoadedPolicies, Parser, Selected},
    problem::Problem,
    quarantine::{self, LoadedQuarantine, QuarantineFile},
    watch::Changes,
};

pub(crate) use views::Views;

/// Everything that distribution and attestation need to know, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Mesh {
    pub(crate) config: Arc<Config>,
    /// `None` until a set has loaded once: then nothing is known, which is not the same as an empty set.
    pub(crate) policies: Option<Arc<LoadedPolicies>>,
    /// Those of each workload.
    pub(crate) selected: Arc<Selected>,
    /// Whom nobody speaks with.
    pub(crate) quarantine: Arc<LoadedQuarantine>,
    /// The mesh's own roots.
    pub(crate) trust: Arc<Trust>,
    /// Those of other trust domains.
    pub(crate) foreign: Vec<Foreign>,
    /// Why the newest `mesh.yaml` is not in force; empty when it is.
    pub(crate) config_problems: Vec<DatedProblem>,
    /// Why the newest policies are not in force; empty when they are.
    pub(crate) policy_problems: Vec<DatedProblem>,
}

/// A problem and when it was found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DatedProblem {
    #[serde(flatten)]
    problem: Problem,
    at: String,
}

/// Reads the files when they change and publishes what they mean: the only writer.
pub(crate) struct Publisher {
    path: PathBuf,
    mesh: watch::Sender<Arc<Mesh>>,
    views: Arc<Views>,
    trust: watch::Receiver<Arc<Trust>>,
    metrics: Arc<Metrics>,
    /// Of the files' bytes at the last look.
    seen: [u8; 32],
    config: Arc<ConfigFile>,
    parser: Parser,
}

/// `mesh.yaml` at one look.
struct ConfigFile {
    /// The bytes: a value need not show in a message to be a change.
    text: Result<String, Vec<Problem>>,
    /// What they mean.
    config: Result<Arc<Config>, Vec<Problem>>,
}

impl Publisher {
    /// Publishes the first mesh. A policy set that does not load is a problem to show, not a reason to stay down:
    /// the control plane still renews certificates, and sidecars keep the policies they hold.
    pub(crate) fn start(
        path: PathBuf,
        config: Config,
        quarantine: &QuarantineFile,
        mut trust: watch::Receiver<Arc<Trust>>,
        metrics: Arc<Metrics>,
    ) -> (Self, watch::Receiver<Arc<Mesh>>) {
        let config = Arc::new(config);
        let files = Files::read(ConfigFile::read(&path, &config, None), &config);
        let blank = Mesh {
            config,
            policies: None,
            selected: Arc::default(),
            quarantine: Arc::new(LoadedQuarantine::of(quarantine)),
            trust: trust.borrow_and_update().clone(),
            foreign: Vec::new(),
            config_problems: Vec::new(),
            policy_problems: Vec::new(),
        };
        let (sender, receiver) = watch::channel(Arc::new(blank));
        let mut publisher = Self {
            path,
            mesh: sender,
            views: Arc::default(),
            trust,
            metrics,
            seen: files.digest(),
            config: files.config.clone(),
            parser: Parser::default(),
        };
        publisher.load(&files);
        (publisher, receiver)
    }

    /// The mesh as the sidecars of one identity follow it.
    pub(crate) fn views(&self) -> Arc<Views> {
        self.views.clone()
    }

    /// Follows the files until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut changes = Changes::new();
        loop {
            changes.follow(self.folders());
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = self.trust.changed() => {
                    self.trust_anew();
                    continue;
                }
                () = changes.next() => {}
            }
            // Files are read and parsed off the workers that serve sidecars.
            match tokio::task::spawn_blocking(move || self.look()).await {
                Ok(publisher) => self = publisher,
                Err(error) => {
                    return tracing::error!(%error, "the publisher ended; changes are not seen any more");
                }
            }
        }
    }

    /// Other roots, and all else as it is.
    fn trust_anew(&mut self) {
        let trust = self.trust.borrow_and_update().clone();
        let before = self.mesh.borrow().clone();
        self.publish(Mesh { trust, ..Mesh::clone(&before) });
    }

    /// Looks at the files once and publishes if any byte of them differs.
    fn look(mut self) -> Self {
        let in_force = self.mesh.borrow().config.clone();
        let files = Files::read(ConfigFile::read(&self.path, &in_force, Some(&self.config)), &in_force);
        self.config = files.config.clone();
        let digest = files.digest();
        if digest != self.seen {
            self.seen = digest;
            self.load(&files);
        }
        self
    }

    /// Publishes what the files mean.
    fn load(&mut self, files: &Files) {
        let before = self.mesh.borrow().clone();
        let (config, mut config_problems) = match &files.config.config {
            Ok(config) => (config.clone(), Vec::new()),
            Err(problems) => (before.config.clone(), problems.clone()),
        };
        let quarantine = match files.quarantine(&config, &before.quarantine) {
            Ok(quarantine) => quarantine,
            Err(problems) => {
                config_problems.extend(problems);
                before.quarantine.clone()
            }
        };
        let (foreign, foreign_problems) = files.foreign.load(&before.foreign);
        config_problems.extend(foreign_problems);
        let loaded = files.policies.as_ref().map_err(Clone::clone).and_then(|files| self.parser.parse(files));
        let (policies, policy_problems) = match loaded {
            Ok(loaded) => (Some(unless_same(before.policies.as_ref(), loaded)), Vec::new()),
            Err(problems) => (before.policies.clone(), problems),
        };
        self.report(&config_problems, &policy_problems, policies.as_deref());
        self.publish(Mesh {
            selected: Arc::new(Selected::of(&config, policies.as_deref(), &before.selected)),
            config,
            policies,
            quarantine,
            trust: self.trust.borrow().clone(),
            foreign,
            config_problems: dated(config_problems),
            policy_problems: dated(policy_problems),
        });
    }

    fn publish(&self, mesh: Mesh) {
        let mesh = Arc::new(mesh);
        // First, so that whoever has heard of a change finds it in force.
        self.mesh.send_replace(mesh.clone());
        self.views.publish(&mesh);
    }

    fn report(&self, config: &[Problem], policy: &[Problem], loaded: Option<&LoadedPolicies>) {
        for problem in config {
            tracing::error!(code = %problem.code, %problem, "refused; the last good one stays");
        }
        for problem in policy {
            self.metrics.policy_load_failed(problem.code);
            tracing::error!(code = %problem.code, %problem, "policies refused; the last good set stays");
        }
        if let (true, Some(loaded)) = (policy.is_empty(), loaded) {
            tracing::info!(count = loaded.set.len(), digest = loaded.digest, "policies in force");
        }
    }

    fn folders(&self) -> Vec<PathBuf> {
        let config = self.mesh.borrow().config.clone();
        let mut folders = vec![folder_of(&self.path), folder_of(&config.quarantine), config.policies.clone()];
        folders.extend(config.federation.iter().map(|federated| folder_of(federated.source.file())));
        folders
    }
}

impl Mesh {
    /// Whether the sidecars of this identity may have to be told something else than `before`; about the endpoints of
    /// others they hear in another way.
    fn is_news_to(&self, identity: &SpiffeId, before: &Self) -> bool {
        let is_same = Arc::ptr_eq(&self.config, &before.config)
            && Arc::ptr_eq(&self.quarantine, &before.quarantine)
            && Arc::ptr_eq(&self.trust, &before.trust)
            && self.policies.is_none() == before.policies.is_none()
            && self.foreign == before.foreign
            && match (self.selected.get(identity), before.selected.get(identity)) {
                (Some(now), Some(before)) => Arc::ptr_eq(now, before),
                (now, before) => now.is_none() && before.is_none(),
            };
        !is_same
    }
}

/// What the files say at one look.
struct Files {
    config: Arc<ConfigFile>,
    policies: Result<Vec<PolicyFile>, Vec<Problem>>,
    /// `None`: there is no file.
    quarantine: Result<Option<String>, Problem>,
    /// The bundles of other trust domains.
    foreign: ForeignFiles,
}

impl ConfigFile {
    /// Parsed if it is another text than `before`.
    fn read(path: &Path, in_force: &Arc<Config>, before: Option<&Arc<Self>>) -> Arc<Self> {
        let text = Config::read(path);
        if let Some(before) = before.filter(|before| before.text == text) {
            return before.clone();
        }
        let config = text
            .clone()
            .and_then(|text| Config::parse(path, &text))
            .and_then(|config| only_what_may_change(path, in_force, config))
            .map(|config| if config == **in_force { in_force.clone() } else { Arc::new(config) });
        Arc::new(Self { text, config })
    }
}

impl Files {
    /// The folder of the policies is the new configuration's, if that one can be used.
    fn read(config: Arc<ConfigFile>, before: &Config) -> Self {
        let in_force = config.config.as_deref().unwrap_or(before);
        let policies = policies::read(&in_force.policies);
        let quarantine = quarantine::read(&in_force.quarantine);
        let foreign = ForeignFiles::read(&in_force.federation);
        Self { config, policies, quarantine, foreign }
    }

    /// A file that is gone is a fault while somebody is in quarantine: losing it must not let them out.
    fn quarantine(
        &self,
        config: &Config,
        before: &Arc<LoadedQuarantine>,
    ) -> Result<Arc<LoadedQuarantine>, Vec<Problem>> {
        match &self.quarantine {
            Err(problem) => Err(vec![problem.clone()]),
            Ok(Some(text)) => {
                let loaded = LoadedQuarantine::of(&QuarantineFile::parse(config, text)?);
                let is_same = loaded.resource.version == before.resource.version;
                Ok(if is_same { before.clone() } else { Arc::new(loaded) })
            }
            Ok(None) if before.quarantine.iter().next().is_none() => Ok(Arc::clone(before)),
            Ok(None) => {
                let file = config.quarantine.display().to_string();
                let message =
                    "is gone, and somebody was in quarantine: write it with `identities: []` to lift all";
                Err(vec![Problem::of_file(Code::ConfigUnreadable, file, message)])
            }
        }
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let mut add = |part: &[u8]| {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        };
        match &self.config.text {
            Ok(text) => add(text.as_bytes()),
            Err(problems) => add(format!("{problems:?}").as_bytes()),
        }
        match &self.policies {
            Ok(files) => files.iter().for_each(|file| {
                add(file.name.as_bytes());
                add(&file.text);
            }),
            Err(problems) => add(format!("{problems:?}").as_bytes()),
        }
        add(format!("{:?}", self.quarantine).as_bytes());
        add(format!("{:?}", self.foreign).as_bytes());
        digest.finalize().into()
    }
}

/// What is bound at the start stays until the next one.
fn only_what_may_change(path: &Path, current: &Config, new: Config) -> Result<Config, Vec<Problem>> {
    let fixed = [
        ("trustDomain", current.trust_domain == new.trust_domain),
        ("state", current.state == new.state),
        ("registry", current.registry == new.registry),
        ("trustBundle", current.trust_bundle == new.trust_bundle),
        ("listen.grpc", current.grpc == new.grpc),
        ("listen.socket", current.socket == new.socket),
        ("listen.api", current.api == new.api),
        ("listen.bundle", current.bundle == new.bundle),
        ("certificates.retention", current.retention == new.retention),
    ];
    let problems: Vec<_> = fixed
        .into_iter()
        .filter(|(_, same)| !same)
        .map(|(field, _)| Problem {
            field: Some(field.to_owned()),
            ..Problem::of_file(
                Code::ConfigBadValue,
                path.display().to_string(),
                "changes only with a restart; until then the whole file waits",
            )
        })
        .collect();
    if problems.is_empty() { Ok(new) } else { Err(problems) }
}

/// A comment that changed loads no new policies.
fn unless_same(before: Option<&Arc<LoadedPolicies>>, loaded: LoadedPolicies) -> Arc<LoadedPolicies> {
    match before {
        Some(before) if before.digest == loaded.digest => before.clone(),
        _ => Arc::new(loaded),
    }
}

fn dated(problems: Vec<Problem>) -> Vec<DatedProblem> {
    let at = clock::rfc3339(clock::now_ms());
    problems.into_iter().map(|problem| DatedProblem { problem, at: at.clone() }).collect()
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests;
