//! The last good state on disk: what the control plane told and this workload's certificate with its key. Written
//! beside and renamed, 0600 in a 0700 folder; anything looser, damaged or of another identity is not used.
//!
//! The key is on disk because a sidecar that restarts while the control plane is away has no other proof of who it
//! is. Put the folder on memory-backed storage, or leave `cache` out and do without.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use prost::Message;
use sidegate_identity::{SpiffeId, TrustBundles, tls::Credentials};
use sidegate_proto::v1;
use zeroize::Zeroizing;

use super::resources::Resources;

/// The cache's folder.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    identity: SpiffeId,
}

/// What a restart begins with.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    /// Absent when there are none, or when they have expired.
    pub(super) credentials: Option<Credentials>,
    pub(super) resources: Resources,
}

/// Why the cache is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CacheError {
    #[error("{path}: {cause}")]
    Io { path: PathBuf, cause: io::Error },
    #[error("{path} has mode {mode:o} or belongs to another user; it must be {must:o} and this user's own")]
    Open { path: PathBuf, mode: u32, must: u32 },
    #[error("{path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("it belongs to {0}")]
    OtherIdentity(String),
}

impl Cache {
    pub(super) fn new(folder: PathBuf, identity: SpiffeId) -> Self {
        Self { folder, identity }
    }

    /// What was saved; empty when nothing was. Certificates are verified like any others.
    pub(super) fn load(&self) -> Result<Resumed, CacheError> {
        match fs::symlink_metadata(&self.folder) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Resumed::default()),
            _ => check_private(&self.folder, 0o700)?,
        }
        let Some(bytes) = self.read(RESOURCES)? else {
            return Ok(Resumed::default());
        };
        let damaged = |file: &str, reason: String| CacheError::Damaged {
            path: self.folder.join(file),
            reason,
        };
        let saved =
            v1::Update::decode(bytes.as_slice()).map_err(|error| damaged(RESOURCES, error.to_string()))?;
        let resources = Resources::from_list(saved.set);
        let mesh = resources
            .mesh_state()
            .map_err(|refusal| damaged(RESOURCES, refusal.to_string()))?;
        let credentials = match self.read(CREDENTIALS)? {
            None => None,
            Some(pem) => self.credentials(&pem, &mesh.trust)?,
        };
        Ok(Resumed {
            credentials,
            resources,
        })
    }

    /// Replaces the saved resources.
    pub(super) fn save_resources(&self, resources: &Resources) -> Result<(), CacheError> {
        let saved = v1::Update {
            version: 0,
            set: resources.to_list(),
            removed: Vec::new(),
        };
        self.write(RESOURCES, &saved.encode_to_vec())
    }

    /// Replaces the saved certificate and key.
    pub(super) fn save_credentials(&self, credentials: &Credentials, pkcs8: &[u8]) -> Result<(), CacheError> {
        let mut pem = Zeroizing::new(pem_block("PRIVATE KEY", pkcs8));
        for certificate in credentials.chain() {
            pem.push_str(&pem_block("CERTIFICATE", certificate));
        }
        self.write(CREDENTIALS, pem.as_bytes())
    }

    /// `None` when they are good no longer: then the join token counts.
    fn credentials(&self, pem: &[u8], trust: &TrustBundles) -> Result<Option<Credentials>, CacheError> {
        match crate::files::credentials(pem, pem, trust) {
            Ok(credentials) if credentials.svid().id() == &self.identity => Ok(Some(credentials)),
            Ok(other) => Err(CacheError::OtherIdentity(other.svid().id().to_string())),
            Err(reason) => {
                tracing::info!(%reason, "the cached certificate is not used");
                Ok(None)
            }
        }
    }

    fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, CacheError> {
        let path = self.folder.join(name);
        match fs::read(&path) {
            Ok(bytes) => {
                check_private(&path, 0o600)?;
                Ok(Some(Zeroizing::new(bytes)))
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(CacheError::Io { path, cause }),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CacheError> {
        let error = |path: &Path| {
            let path = path.to_owned();
            move |cause| CacheError::Io { path, cause }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(error(&self.folder))?;
        check_private(&self.folder, 0o700)?;
        let beside = self.folder.join(format!("{name}.new"));
        // What a crash left behind; `create_new` then makes sure that the file is ours.
        match fs::remove_file(&beside) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(error(&beside)(cause)),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)
            .map_err(error(&beside))?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(error(&beside))?;
        let path = self.folder.join(name);
        fs::rename(&beside, &path).map_err(error(&path))?;
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(error(&self.folder))
    }
}

/// Not a link, of this user alone.
fn check_private(path: &Path, must: u32) -> Result<(), CacheError> {
    let found = fs::symlink_metadata(path).map_err(|cause| CacheError::Io {
        path: path.to_owned(),
        cause,
    })?;
    let mode = found.mode() & 0o7777;
    let is_ours = found.uid() == rustix::process::geteuid().as_raw();
    if mode & 0o077 == 0 && is_ours && !found.is_symlink() {
        Ok(())
    } else {
        Err(CacheError::Open {
            path: path.to_owned(),
            mode,
            must,
        })
    }
}

fn pem_block(label: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(label, der))
}

const RESOURCES: &str = "resources.pb";
const CREDENTIALS: &str = "svid.pem";
