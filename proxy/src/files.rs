//! A mesh of files: bundle, certificate and policies from disk, read again when they change, or the policies alone where
//! the identity has another source. Each of the three is taken whole or not at all, and none waits for the others: a root that was taken out of the bundle is trusted no
//! longer even if that leaves this sidecar without a certificate, or if a policy cannot be read.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, UnixTime,
    pem::{self, PemObject},
};
use sha2::{Digest as _, Sha256};
use sidegate_codes::Code;
use sidegate_identity::{
    TrustBundle, TrustBundles, VerifiedSvid,
    tls::{Credentials, CredentialsError, KeyUse},
};
use sidegate_policy::{PolicyError, PolicySet, Workload, parse_yaml};
use zeroize::Zeroizing;

use crate::{
    authorize,
    config::{Config, Files, Identity, IdentityFiles, Protocol},
    identity::vouches_for,
    snapshot::{Enforcement, MeshState, Own, Publisher},
};

/// Why the files cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {cause} ({code})")]
    Unreadable { path: PathBuf, cause: io::Error, code: Code },
    /// The private key is open to others.
    #[error("{path} has mode {mode:o}, it must be 600 or stricter ({})", Code::UnsafeKeyFile)]
    UnsafeKey { path: PathBuf, mode: u32 },
    /// A certificate, key or bundle cannot be used.
    #[error("{path}: {reason} ({})", Code::BadCredentials)]
    BadCredentials { path: PathBuf, reason: String },
    /// The certificate has ended, or begins later.
    #[error(
        "{path}: by this machine's clock it has expired or is not valid yet ({})",
        Code::CertificateNotValidNow
    )]
    NotValidNow { path: PathBuf },
    /// A policy of the set is refused, and so is the set.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Policies(Vec<PolicyError>),
}

/// Why a certificate and its key cannot be the own ones.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnusableCredentials {
    #[error("not a PEM certificate chain: {0}")]
    Chain(pem::Error),
    #[error("not a PEM private key: {0}")]
    Key(pem::Error),
    /// Peers would refuse it.
    #[error(transparent)]
    Refused(#[from] CredentialsError),
}

/// What of the files is in force, so that only what differs is put there.
#[derive(Debug, Default)]
pub(crate) struct InForce {
    trust: Option<Arc<TrustBundles>>,
    credentials: Option<Credentials>,
    /// Of certificate, key and bundle.
    identity: Option<Digest>,
    policies: Option<Digest>,
    /// What is wrong with the identity, if anything: it is counted once and not at each look.
    refused_identity: Option<String>,
}

type Digest = [u8; 32];

/// What reading the files has changed.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) has_changed: bool,
    /// What was refused: of that, the last good state stays.
    pub(crate) refused: Option<FilesError>,
    /// The bundle does not vouch for the certificate: none is in force.
    pub(crate) is_withdrawn: bool,
    /// What came of an own certificate that was not read before.
    pub(crate) renewal: Option<Renewal>,
}

/// What came of a new certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    InForce,
    Refused,
}

impl InForce {
    /// Labels are part of what policies mean.
    pub(crate) fn reread_policies(&mut self) {
        self.policies = None;
    }

    /// Reads the files and puts in force what differs.
    pub(crate) fn apply(&mut self, config: &Config, files: &Files, publisher: &Publisher) -> Applied {
        match &files.identity {
            Identity::Files(identity) => self.apply_all(config, identity, &files.policies, publisher),
            Identity::WorkloadApi(_) => self.apply_policies(config, &files.policies, publisher),
        }
    }

    fn apply_policies(&mut self, config: &Config, policies: &Path, publisher: &Publisher) -> Applied {
        let trust = Arc::clone(&publisher.reader().load().trust);
        match self.mesh(config, policies, &trust) {
            Ok(mesh) => {
                let has_changed = mesh.is_some();
                if let Some(mesh) = mesh {
                    publisher.policies(mesh);
                }
                Applied { has_changed, refused: None, is_withdrawn: false, renewal: None }
            }
            Err(error) => {
                Applied { has_changed: false, refused: Some(error), is_withdrawn: false, renewal: None }
            }
        }
    }

    fn apply_all(
        &mut self,
        config: &Config,
        files: &IdentityFiles,
        policies: &Path,
        publisher: &Publisher,
    ) -> Applied {
        let (trust, own, bad_identity) = match Self::bundle(config, &files.trust_bundle) {
            Ok((pem, trust)) => {
                let (own, error) = self.own(config, files, &pem, &trust);
                (trust, own, error)
            }
            Err(error) => (self.trust.clone().unwrap_or_default(), Own::Kept, Some(error)),
        };
        let (mesh, bad_policies) = match self.mesh(config, policies, &trust) {
            Ok(mesh) => (mesh, None),
            Err(error) => (None, Some(error)),
        };
        let is_withdrawn = matches!(own, Own::Withdrawn);
        let renewal = self.renewal(&own, bad_identity.as_ref());
        let is_trust_new = self.trust.as_ref() != Some(&trust);
        let has_changed = is_trust_new || !matches!(own, Own::Kept) || mesh.is_some();
        if has_changed {
            self.trust = Some(Arc::clone(&trust));
            publisher.local(trust, own, mesh);
        }
        Applied {
            has_changed,
            // Whoever mends the one is told of the other next.
            refused: bad_identity.or(bad_policies),
            is_withdrawn,
            renewal,
        }
    }

    fn renewal(&mut self, own: &Own, refused: Option<&FilesError>) -> Option<Renewal> {
        let refused = refused.map(ToString::to_string);
        let is_new = refused != self.refused_identity;
        self.refused_identity = refused;
        match own {
            Own::New(_) => Some(Renewal::InForce),
            Own::Kept | Own::Withdrawn if self.refused_identity.is_some() && is_new => Some(Renewal::Refused),
            Own::Kept | Own::Withdrawn => None,
        }
    }

    fn bundle(config: &Config, path: &Path) -> Result<(Vec<u8>, Arc<TrustBundles>), FilesError> {
        let pem = read(path, Code::BadCredentials)?;
        let trust = trust(config, path, &pem)?;
        Ok((pem, Arc::new(trust)))
    }

    /// What becomes of the own certificate, and why not what the files say.
    fn own(
        &mut self,
        config: &Config,
        files: &IdentityFiles,
        bundle: &[u8],
        trust: &TrustBundles,
    ) -> (Own, Option<FilesError>) {
        match self.new_credentials(config, files, bundle, trust) {
            Ok(None) => (Own::Kept, None),
            Ok(Some(credentials)) => {
                self.credentials = Some(credentials.clone());
                (Own::New(credentials), None)
            }
            Err(error) => {
                // A certificate that was replaced before its key is no reason to go without the one there is.
                self.identity = None;
                let has_one = self.credentials.is_some();
                self.credentials.take_if(|own| !vouches_for(trust, own));
                let is_withdrawn = has_one && self.credentials.is_none();
                (if is_withdrawn { Own::Withdrawn } else { Own::Kept }, Some(error))
            }
        }
    }

    /// `None`: they are in force.
    fn new_credentials(
        &mut self,
        config: &Config,
        files: &IdentityFiles,
        bundle: &[u8],
        trust: &TrustBundles,
    ) -> Result<Option<Credentials>, FilesError> {
        let chain = read(&files.certificate, Code::BadCredentials)?;
        let key = private_key(&files.private_key)?;
        let digest = digest([bundle, &chain, &key]);
        if self.identity == Some(digest) {
            return Ok(None);
        }
        let path = || files.certificate.clone();
        let bad = |reason: String| FilesError::BadCredentials { path: path(), reason };
        let credentials =
            credentials(&chain, &key, config.key_use(), trust).map_err(|error| match error {
                UnusableCredentials::Refused(cause) if cause.code() == Code::CertificateNotValidNow => {
                    FilesError::NotValidNow { path: path() }
                }
                error => bad(error.to_string()),
            })?;
        if credentials.svid().id() != &config.workload.identity {
            return Err(bad(format!(
                "it is for {}, the configuration says {}",
                credentials.svid().id(),
                config.workload.identity
            )));
        }
        self.identity = Some(digest);
        Ok(Some(credentials))
    }

    /// `None`: the policies are in force.
    fn mesh(
        &mut self,
        config: &Config,
        policies: &Path,
        trust: &Arc<TrustBundles>,
    ) -> Result<Option<MeshState>, FilesError> {
        let texts = policy_texts(policies)?;
        let digest = digest(texts.iter().map(|(_, text)| text.as_slice()));
        if self.policies == Some(digest) {
            return Ok(None);
        }
        let mesh = MeshState {
            labels: config.workload.labels.clone(),
            root_namespace: None,
            enforcement: Enforcement::Enforce,
            egress: None,
            trust: Arc::clone(trust),
            policies: policy_set(config, &texts)?,
            services: BTreeMap::new(),
            report_interval: REPORT_INTERVAL,
        };
        self.policies = Some(digest);
        Ok(Some(mesh))
    }
}

/// What a start from these files would put in force: the own certificate, or why not.
pub(crate) fn try_out(config: &Config, files: &Files) -> Result<Option<VerifiedSvid>, FilesError> {
    let publisher = Publisher::new(config.clone(), Arc::default());
    match InForce::default().apply(config, files, &publisher).refused {
        Some(error) => Err(error),
        None => Ok(publisher.reader().load().secured.as_ref().map(|own| own.credentials.svid().clone())),
    }
}

/// What has to be watched.
pub(crate) fn paths(files: &Files) -> impl Iterator<Item = PathBuf> {
    let identity = match &files.identity {
        Identity::Files(files) => Some([&files.certificate, &files.private_key, &files.trust_bundle]),
        Identity::WorkloadApi(_) => None,
    };
    identity.into_iter().flatten().chain([&files.policies]).cloned()
}

impl FilesError {
    /// The code that a person looks up; of several policy errors the first.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Unreadable { code, .. } => *code,
            Self::UnsafeKey { .. } => Code::UnsafeKeyFile,
            Self::BadCredentials { .. } => Code::BadCredentials,
            Self::NotValidNow { .. } => Code::CertificateNotValidNow,
            Self::Policies(errors) => errors.first().map_or(Code::PolicyUnreadable, |error| error.code),
        }
    }
}

fn read(path: &Path, code: Code) -> Result<Vec<u8>, FilesError> {
    let unreadable = |cause| FilesError::Unreadable { path: path.to_owned(), cause, code };
    let bytes = first_bytes(path).map_err(unreadable)?;
    if bytes.len() > sidegate_policy::FILE_BYTES {
        let cause = format!("it is larger than {} bytes", sidegate_policy::FILE_BYTES);
        return Err(unreadable(io::Error::other(cause)));
    }
    Ok(bytes)
}

/// At most one byte more than a file may have: whatever stands in its place, such as a device, is not read to its end.
fn first_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(sidegate_policy::FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn trust(config: &Config, path: &Path, pem: &[u8]) -> Result<TrustBundles, FilesError> {
    let bundle = TrustBundle::from_pem(config.trust_domain.clone(), pem)
        .map_err(|error| FilesError::BadCredentials { path: path.to_owned(), reason: error.to_string() })?;
    Ok([bundle].into_iter().collect())
}

/// All of them, or all that is wrong with them.
fn policy_set(config: &Config, texts: &[(PathBuf, Vec<u8>)]) -> Result<PolicySet, FilesError> {
    let mut policies = Vec::new();
    let mut errors = Vec::new();
    for (path, text) in texts {
        match parse_yaml(&path.display().to_string(), text, Some(&config.workload.namespace)) {
            Ok(parsed) => policies.extend(parsed),
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(FilesError::Policies(errors));
    }
    let set = PolicySet::new(policies).map_err(FilesError::Policies)?;
    let workload = Workload {
        namespace: &config.workload.namespace,
        labels: &config.workload.labels,
        trust_domain: config.trust_domain.as_str(),
        root_namespace: None,
    };
    set.refuse_http_on(&workload, &opaque_ports(config)).map_err(FilesError::Policies)?;
    set.refuse_lasting_exceptions(authorize::now()).map_err(FilesError::Policies)?;
    Ok(set)
}

/// The application's ports that no listener leads HTTP to.
fn opaque_ports(config: &Config) -> Vec<u16> {
    let of = |is_tcp: bool| {
        let inbound = config.inbound.iter().filter(move |it| (it.protocol == Protocol::Tcp) == is_tcp);
        inbound.map(|it| it.forward.port())
    };
    of(true).filter(|port| !of(false).any(|other| other == *port)).collect()
}

fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// The policies as they are written. One that is too large is handed on as far as its parser needs, to say so.
fn policy_texts(policies: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, FilesError> {
    let mut texts = Vec::new();
    let mut bytes = 0;
    for path in policy_files(policies)? {
        let text = first_bytes(&path).map_err(|cause| FilesError::Unreadable {
            path: path.clone(),
            cause,
            code: Code::PolicyUnreadable,
        })?;
        bytes += text.len();
        if bytes > sidegate_policy::SET_BYTES {
            return Err(too_much(policies, "bytes", sidegate_policy::SET_BYTES));
        }
        texts.push((path, text));
    }
    Ok(texts)
}

fn too_much(policies: &Path, what: &str, most: usize) -> FilesError {
    let cause = io::Error::other(format!("it holds more than {most} {what}"));
    FilesError::Unreadable { path: policies.to_owned(), cause, code: Code::PolicyTooLarge }
}

/// Every `*.yaml` and `*.yml` directly inside a folder, by name; or the one file.
fn policy_files(path: &Path) -> Result<Vec<PathBuf>, FilesError> {
    let unreadable =
        |cause| FilesError::Unreadable { path: path.to_owned(), cause, code: Code::PolicyUnreadable };
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let is_yaml = file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        // An editor's hidden scratch file is no policy.
        let is_hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_yaml && !is_hidden {
            files.push(file);
        }
        if files.len() > sidegate_policy::SET_FILES {
            return Err(too_much(path, "files", sidegate_policy::SET_FILES));
        }
    }
    files.sort();
    Ok(files)
}

/// The mode is that of the file which is read, whatever takes its place meanwhile.
fn private_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, FilesError> {
    let unreadable =
        |cause| FilesError::Unreadable { path: path.to_owned(), cause, code: Code::BadCredentials };
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FilesError::UnsafeKey { path: path.to_owned(), mode });
    }
    // Room for all of it: a buffer that grows leaves copies behind.
    let mut key = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
    file.read_to_end(&mut key).map_err(unreadable)?;
    Ok(key)
}

/// Credentials from PEM, verified as peers will verify them.
pub(crate) fn credentials(
    chain: &[u8],
    key: &[u8],
    key_use: KeyUse,
    trust: &TrustBundles,
) -> Result<Credentials, UnusableCredentials> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(UnusableCredentials::Chain)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(UnusableCredentials::Key)?;
    Ok(Credentials::for_use(key_use, chain, key, trust, UnixTime::now())?)
}

const REPORT_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);

#[cfg(test)]
mod tests;
