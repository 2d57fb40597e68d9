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
use sidegate_identity::{
    SpiffeId, TrustBundles,
    tls::{Credentials, KeyUse},
};
use sidegate_proto::v1;
use zeroize::Zeroizing;

use super::resources::Resources;

/// The cache's folder.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    identity: SpiffeId,
    key_use: KeyUse,
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
    pub(super) fn new(folder: PathBuf, identity: SpiffeId, key_use: KeyUse) -> Self {
        Self { folder, identity, key_use }
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
        let damaged =
            |file: &str, reason: String| CacheError::Damaged { path: self.folder.join(file), reason };
        let saved =
            v1::Update::decode(bytes.as_slice()).map_err(|error| damaged(RESOURCES, error.to_string()))?;
        let resources = Resources::from_list(saved.set);
        let mesh = resources.mesh_state().map_err(|refusal| damaged(RESOURCES, refusal.to_string()))?;
        let credentials = match self.read(CREDENTIALS)? {
            None => None,
            Some(pem) => self.credentials(&pem, &mesh.trust)?,
        };
        Ok(Resumed { credentials, resources })
    }

    /// Replaces the saved resources.
    pub(super) fn save_resources(&self, resources: &Resources) -> Result<(), CacheError> {
        let saved = v1::Update { version: 0, set: resources.to_list(), removed: Vec::new() };
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
        match crate::files::credentials(pem, pem, self.key_use, trust) {
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
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(error(&self.folder))?;
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
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(error(&beside))?;
        let path = self.folder.join(name);
        fs::rename(&beside, &path).map_err(error(&path))?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(error(&self.folder))
    }
}

/// Not a link, of this user alone.
fn check_private(path: &Path, must: u32) -> Result<(), CacheError> {
    let found =
        fs::symlink_metadata(path).map_err(|cause| CacheError::Io { path: path.to_owned(), cause })?;
    let mode = found.mode() & 0o7777;
    let is_ours = found.uid() == rustix::process::geteuid().as_raw();
    if mode & 0o077 == 0 && is_ours && !found.is_symlink() {
        Ok(())
    } else {
        Err(CacheError::Open { path: path.to_owned(), mode, must })
    }
}

fn pem_block(label: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(label, der))
}

const RESOURCES: &str = "resources.pb";
const CREDENTIALS: &str = "svid.pem";

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::PermissionsExt};

    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, ExtendedKeyUsagePurpose,
        IsCa, KeyPair, KeyUsagePurpose, SanType,
    };
    use sidegate_identity::{TrustBundle, TrustDomain};
    use sidegate_proto::v1::resource::Kind;
    use tempfile::TempDir;
    use time::OffsetDateTime;

    use super::*;

    const PAYMENTS: &str = "spiffe://shop.test/ns/shop/sa/payments";

    /// A cache of `identity` with a good state of `PAYMENTS` in it.
    fn saved(identity: &str) -> (TempDir, Cache) {
        let root = TempDir::new().unwrap();
        let cache = Cache::new(root.path().join("cache"), SpiffeId::parse(identity).unwrap(), KeyUse::Sealed);
        let (authority, credentials, key) = issued();
        cache.save_resources(&resources(authority)).unwrap();
        cache.save_credentials(&credentials, &key).unwrap();
        (root, cache)
    }

    fn issued() -> (Vec<u8>, Credentials, Vec<u8>) {
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        root.not_after = OffsetDateTime::now_utc() + time::Duration::HOUR;
        let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = DistinguishedName::new();
        leaf.subject_alt_names = vec![SanType::URI(PAYMENTS.try_into().unwrap())];
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        leaf.not_before = OffsetDateTime::now_utc() - time::Duration::MINUTE;
        leaf.not_after = OffsetDateTime::now_utc() + time::Duration::HOUR;
        let key = KeyPair::generate().unwrap();
        let leaf = leaf.signed_by(&key, &root).unwrap();
        let authority = root.der().to_vec();
        let bundle =
            TrustBundle::from_der(TrustDomain::parse("shop.test").unwrap(), [root.der().clone()]).unwrap();
        let trust: TrustBundles = [bundle].into_iter().collect();
        let pkcs8 = key.serialize_der();
        let private = rustls::pki_types::PrivateKeyDer::try_from(pkcs8.clone()).unwrap();
        let now = rustls::pki_types::UnixTime::now();
        let credentials = Credentials::new(vec![leaf.der().clone()], private, &trust, now).unwrap();
        (authority, credentials, pkcs8)
    }

    fn resources(authority: Vec<u8>) -> Resources {
        let settings = v1::Settings {
            labels: BTreeMap::new(),
            root_namespace: String::new(),
            enforcement: v1::Enforcement::Enforce.into(),
            report_interval_ms: 1_000,
            renew: None,
            egress: v1::Egress::Deny.into(),
        };
        let bundle = v1::TrustBundle { trust_domain: "shop.test".to_owned(), authorities: vec![authority] };
        let resource = |name: &str, kind| v1::Resource {
            name: name.to_owned(),
            version: "1".to_owned(),
            kind: Some(kind),
        };
        Resources::from_list(vec![
            resource("settings", Kind::Settings(settings)),
            resource("bundle/shop.test", Kind::Bundle(bundle)),
        ])
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_was_saved_is_resumed_and_nobody_else_may_read_it() {
        let (_root, cache) = saved(PAYMENTS);
        let resumed = cache.load().unwrap();
        assert_eq!(resumed.credentials.unwrap().svid().id().as_str(), PAYMENTS);
        assert_eq!(resumed.resources.len(), 2);
        for (path, mode) in [("", 0o700), (RESOURCES, 0o600), (CREDENTIALS, 0o600)] {
            assert_eq!(fs::metadata(cache.folder.join(path)).unwrap().mode() & 0o777, mode, "{path}");
        }
    }

    #[test]
    fn an_empty_cache_resumes_nothing() {
        let root = TempDir::new().unwrap();
        let cache = Cache::new(root.path().join("cache"), SpiffeId::parse(PAYMENTS).unwrap(), KeyUse::Sealed);
        let resumed = cache.load().unwrap();
        assert!(resumed.credentials.is_none() && resumed.resources.len() == 0);
    }

    #[test]
    fn what_others_could_have_written_or_read_is_not_used() {
        for (path, mode) in [("", 0o755), (RESOURCES, 0o620), (CREDENTIALS, 0o644)] {
            let (_root, cache) = saved(PAYMENTS);
            chmod(&cache.folder.join(path), mode);
            assert!(matches!(cache.load(), Err(CacheError::Open { .. })), "{path} {mode:o}");
        }
    }

    #[test]
    fn a_link_in_place_of_the_cache_is_not_followed() {
        let (root, cache) = saved(PAYMENTS);
        let elsewhere = root.path().join("elsewhere");
        fs::rename(&cache.folder, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &cache.folder).unwrap();
        assert!(matches!(cache.load(), Err(CacheError::Open { .. })));
    }

    #[test]
    fn a_damaged_state_is_not_used() {
        let (_root, cache) = saved(PAYMENTS);
        cache.write(RESOURCES, b"\xFF\xFF\xFF").unwrap();
        assert!(matches!(cache.load(), Err(CacheError::Damaged { .. })));
    }

    #[test]
    fn a_certificate_of_another_identity_is_not_used() {
        let (_root, cache) = saved("spiffe://shop.test/ns/shop/sa/orders");
        assert!(matches!(cache.load(), Err(CacheError::OtherIdentity(_))));
    }

    #[test]
    fn a_certificate_that_the_bundle_does_not_vouch_for_is_left_out() {
        let (_root, cache) = saved(PAYMENTS);
        let (other, ..) = issued();
        cache.save_resources(&resources(other)).unwrap();
        let resumed = cache.load().unwrap();
        assert!(resumed.credentials.is_none(), "the join token counts then");
        assert_eq!(resumed.resources.len(), 2);
    }
}
