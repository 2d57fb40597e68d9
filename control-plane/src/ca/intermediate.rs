//! An intermediate under a root whose key is elsewhere: makes the request that the root's owner signs, and takes the signed
//! certificate with what leads from it to the root. Refuses whatever the mesh's own verification would refuse, and any
//! private key: the root's must not come near this machine.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::pem::{PemObject, SectionKind};
use sidegate_codes::Code;
use sidegate_identity::{
    SpiffeId, SvidLimits, TrustBundle, TrustBundles, TrustDomain, Usage, serial, verify,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{
    Validity, leaf_params,
    office::{self, FIRST_FILE, FIRST_INTERMEDIATE},
    root::{Expired, Root},
};
use crate::{
    clock,
    config::Config,
    registry::Registry,
    rotation::desk::Request,
    state::{StateError, StateFolder},
};

/// No request was made, or nothing was installed.
#[derive(Debug, thiserror::Error)]
pub enum IntermediateError {
    /// The certificates cannot be used; the operator's to mend.
    #[error("{0}")]
    Unusable(String),
    /// There is no key to which a certificate could belong.
    #[error("no request was made in {0}, or it was installed already")]
    NoRequest(std::path::PathBuf),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
}

/// An intermediate that is in the state folder.
#[derive(Debug)]
pub enum Placed {
    /// The mesh begins with it: nothing has run here yet.
    First,
    /// The control plane is to be asked to sign with it.
    Ask(Request),
}

impl IntermediateError {
    /// The code that explains it.
    pub fn code(&self) -> Code {
        match self {
            Self::Unusable(_) => Code::BadCredentials,
            Self::NoRequest(_) => Code::StateUnusable,
            Self::State(error) => error.code(),
        }
    }
}

/// The request as PEM. Its key stays in the state folder; asked again, the same key's.
pub fn request(config: &Config) -> Result<String, IntermediateError> {
    let folder = StateFolder::open_beside(&config.state)?;
    let unusable = |error: rcgen::Error| IntermediateError::Unusable(error.to_string());
    let key = if let Some(pem) = folder.read_secret(PENDING)? {
        KeyPair::from_pem(&pem).map_err(unusable)?
    } else {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(unusable)?;
        folder.create_secret(PENDING, &Zeroizing::new(key.serialize_pem()))?;
        key
    };
    wanted(&config.trust_domain)
        .and_then(|params| params.serialize_request(&key))
        .and_then(|request| request.pem())
        .map_err(unusable)
}

/// Puts the certificate of the request's key into the state folder, with those that lead from it to `root`.
pub fn place(
    config: &Config,
    certificates: &[u8],
    root: &[u8],
    taint: bool,
    reason: &str,
) -> Result<Placed, IntermediateError> {
    let folder = StateFolder::open_beside(&config.state)?;
    let key = folder.read_secret(PENDING)?;
    let key = key.ok_or_else(|| IntermediateError::NoRequest(config.state.clone()))?;
    let chain = [sections(certificates)?, sections(root)?].concat();
    let secret = Zeroizing::new(format!("{}{}", *key, chain.concat()));
    Root::from_pem(&secret, &config.trust_domain, Expired::Refused)
        .and_then(|signer| prove(&signer, &config.trust_domain))
        .map_err(IntermediateError::Unusable)?;
    if !Registry::exists(&folder) && !folder.join(FIRST_FILE).exists() {
        folder.create_secret(FIRST_INTERMEDIATE, &secret)?;
        folder.remove(PENDING)?;
        return Ok(Placed::First);
    }
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| IntermediateError::Unusable(error.to_string()))?;
    let file = office::intermediate_file(random);
    folder.create_secret(&file, &secret)?;
    Ok(Placed::Ask(Request::Install { file, taint, reason: reason.to_owned() }))
}

/// Forgets the request, whose certificate the control plane has taken. One that it did not take it deletes itself, at its
/// next start if not at once.
pub fn taken(config: &Config) -> Result<(), StateError> {
    StateFolder::open_beside(&config.state)?.remove(PENDING)
}

/// Signs a leaf and verifies it as every sidecar would: whatever forbids that, in any certificate on the way, is found here
/// and not by the first workload.
pub(super) fn prove(signer: &Root, trust_domain: &TrustDomain) -> Result<(), String> {
    if !signer.is_offline() {
        return Err("there is nothing between the key's certificate and the root".to_owned());
    }
    check_path_length(signer)?;
    let now = clock::unix_time(clock::now_ms());
    let validity = Validity::within(signer, now, PROOF_LIFE).map_err(|error| error.to_string())?;
    let identity =
        SpiffeId::parse(&format!("spiffe://{trust_domain}/proof")).map_err(|error| error.to_string())?;
    let leaf = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .and_then(|key| {
            leaf_params(&identity, serial::compose(clock::now_ms(), [0; 9]), validity)?
                .signed_by(&key, signer.issuer())
        })
        .map_err(|error| error.to_string())?;
    let bundle = TrustBundle::from_der(trust_domain.clone(), [signer.certificate().clone()])
        .map_err(|error| format!("the root: {error}"))?;
    let bundles = TrustBundles::from_iter([bundle]);
    let chain = [&[leaf.der().clone()], signer.intermediates()].concat();
    for usage in [Usage::Client, Usage::Server] {
        verify(&chain, usage, &bundles, &SvidLimits::default(), now)
            .map_err(|error| format!("what it signs would be refused: {error}"))?;
    }
    Ok(())
}

/// Our own verification does not look at the path length of a root, and that of others does.
fn check_path_length(signer: &Root) -> Result<(), String> {
    let (_, root) = X509Certificate::from_der(signer.certificate()).map_err(|error| error.to_string())?;
    let constraints = root.basic_constraints().map_err(|error| error.to_string())?;
    let most = constraints.and_then(|constraints| constraints.value.path_len_constraint);
    let below = u32::try_from(signer.intermediates().len()).unwrap_or(u32::MAX);
    match most {
        Some(most) if most < below => {
            Err(format!("the root allows {most} intermediates below it, and there are {below}"))
        }
        _ => Ok(()),
    }
}

fn wanted(trust_domain: &TrustDomain) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Sidegate intermediate of {trust_domain}"));
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

/// Its certificates, each as PEM.
fn sections(pem: &[u8]) -> Result<Vec<String>, IntermediateError> {
    let unusable = |reason: &str| IntermediateError::Unusable(reason.to_owned());
    let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).map(|section| match section {
        Ok((SectionKind::Certificate, der)) => Ok(certificate_pem(&der)),
        Ok((SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey, _)) => {
            Err(unusable("a private key is in it; the root's key must never come to this machine"))
        }
        Ok(_) => Err(unusable("something else than certificates is in it")),
        Err(error) => Err(unusable(&format!("it is not PEM: {error}"))),
    });
    let sections = sections.collect::<Result<Vec<_>, _>>()?;
    if sections.is_empty() { Err(unusable("no certificate is in it")) } else { Ok(sections) }
}

fn certificate_pem(der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The key that waits for its certificate: 0600.
const PENDING: &str = "intermediate.request";
const PROOF_LIFE: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests;
