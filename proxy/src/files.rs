//! A mesh of files: identity, bundle and policies from disk, read again when they change. Everything is read and
//! checked before anything is put in force; what is refused leaves the last good state as it is.

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use sha2::{Digest, Sha256};
use sidegate_codes::Code;
use sidegate_identity::{TrustBundle, TrustBundles, tls::Credentials};
use sidegate_policy::{PolicyError, PolicySet, parse_yaml};

use crate::{
    config::{Config, Files},
    snapshot::{Enforcement, MeshState, Publisher},
};

/// Why the files cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {cause} ({code})")]
    Unreadable {
        path: PathBuf,
        cause: io::Error,
        code: Code,
    },
    /// The private key is open to others.
    #[error(
        "{path} has mode {mode:o}, it must be 600 or stricter ({})",
        Code::UnsafeKeyFile
    )]
    UnsafeKey { path: PathBuf, mode: u32 },
    /// A certificate, key or bundle cannot be used.
    #[error("{path}: {reason} ({})", Code::BadCredentials)]
    BadCredentials { path: PathBuf, reason: String },
    /// A policy of the set is refused, and so is the set.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Policies(Vec<PolicyError>),
}

/// What was read: digests tell whether it differs from what is in force.
#[derive(Debug)]
struct Loaded {
    credentials: Credentials,
    trust: Arc<TrustBundles>,
    policies: PolicySet,
    digest: [u8; 32],
}

/// Reads the files of `config` and puts them in force if they differ from `digest`; hands on their own.
pub(crate) fn apply(
    config: &Config,
    files: &Files,
    digest: &mut [u8; 32],
    publisher: &Publisher,
) -> Result<bool, FilesError> {
    let loaded = load(config, files)?;
    if loaded.digest == *digest {
        return Ok(false);
    }
    *digest = loaded.digest;
    publisher.credentials(loaded.credentials, Arc::clone(&loaded.trust));
    publisher.mesh(MeshState {
        labels: config.workload.labels.clone(),
        root_namespace: None,
        enforcement: Enforcement::Enforce,
        trust: loaded.trust,
        policies: loaded.policies,
        services: BTreeMap::new(),
        report_interval: REPORT_INTERVAL,
    });
    Ok(true)
}

/// What has to be watched.
pub(crate) fn paths(files: &Files) -> impl Iterator<Item = PathBuf> {
    [
        &files.certificate,
        &files.private_key,
        &files.trust_bundle,
        &files.policies,
    ]
    .into_iter()
    .cloned()
}

impl FilesError {
    /// The code that a person looks up; of several policy errors the first.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Unreadable { code, .. } => *code,
            Self::UnsafeKey { .. } => Code::UnsafeKeyFile,
            Self::BadCredentials { .. } => Code::BadCredentials,
            Self::Policies(errors) => errors.first().map_or(Code::PolicyUnreadable, |error| error.code),
        }
    }
}

fn load(config: &Config, files: &Files) -> Result<Loaded, FilesError> {
    let mut digest = Sha256::new();
    let mut read = |path: &Path, code: Code| -> Result<Vec<u8>, FilesError> {
        let bytes = std::fs::read(path).map_err(|cause| FilesError::Unreadable {
            path: path.to_owned(),
            cause,
            code,
        })?;
        digest.update((bytes.len() as u64).to_be_bytes());
        digest.update(&bytes);
        Ok(bytes)
    };
    let bundle = read(&files.trust_bundle, Code::BadCredentials)?;
    let chain = read(&files.certificate, Code::BadCredentials)?;
    refuse_open_key(&files.private_key)?;
    let key = zeroize::Zeroizing::new(read(&files.private_key, Code::BadCredentials)?);
    let mut policies = Vec::new();
    let mut errors = Vec::new();
    for path in policy_files(&files.policies)? {
        let text = String::from_utf8_lossy(&read(&path, Code::PolicyUnreadable)?).into_owned();
        match parse_yaml(
            &path.display().to_string(),
            &text,
            Some(&config.workload.namespace),
        ) {
            Ok(parsed) => policies.extend(parsed),
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(FilesError::Policies(errors));
    }
    let bad = |path: &Path| {
        let path = path.to_owned();
        move |reason: String| FilesError::BadCredentials { path, reason }
    };
    let bundle = TrustBundle::from_pem(config.trust_domain.clone(), &bundle)
        .map_err(|error| bad(&files.trust_bundle)(error.to_string()))?;
    let trust: TrustBundles = [bundle].into_iter().collect();
    let credentials = credentials(&chain, &key, &trust).map_err(bad(&files.certificate))?;
    if credentials.svid().id() != &config.workload.identity {
        let reason = format!(
            "it is for {}, the configuration says {}",
            credentials.svid().id(),
            config.workload.identity
        );
        return Err(bad(&files.certificate)(reason));
    }
    Ok(Loaded {
        credentials,
        trust: Arc::new(trust),
        policies: PolicySet::new(policies).map_err(FilesError::Policies)?,
        digest: digest.finalize().into(),
    })
}

/// Every `*.yaml` and `*.yml` directly inside a folder, by name; or the one file.
fn policy_files(path: &Path) -> Result<Vec<PathBuf>, FilesError> {
    let unreadable = |cause| FilesError::Unreadable {
        path: path.to_owned(),
        cause,
        code: Code::PolicyUnreadable,
    };
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let is_yaml = file
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        // An editor's hidden scratch file is no policy.
        let is_hidden = file
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_yaml && !is_hidden {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn refuse_open_key(path: &Path) -> Result<(), FilesError> {
    let unreadable = |cause| FilesError::Unreadable {
        path: path.to_owned(),
        cause,
        code: Code::BadCredentials,
    };
    let mode = std::fs::metadata(path).map_err(unreadable)?.mode() & 0o777;
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(FilesError::UnsafeKey {
            path: path.to_owned(),
            mode,
        })
    }
}

/// Credentials from PEM, verified as peers will verify them.
pub(crate) fn credentials(chain: &[u8], key: &[u8], trust: &TrustBundles) -> Result<Credentials, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("not a PEM certificate chain: {error}"))?;
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("not a PEM private key: {error}"))?;
    Credentials::new(chain, key, trust, UnixTime::now()).map_err(|error| error.to_string())
}

const REPORT_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);
