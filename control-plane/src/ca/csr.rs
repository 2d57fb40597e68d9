//! A certificate signing request, of which only the public key counts. Its signature proves that the caller holds the
//! key; names and extensions are ignored, whatever they say.

use rcgen::{
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SubjectPublicKeyInfo,
};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

/// A public key whose holder proved that it has the private one.
pub(crate) struct ProvenKey(SubjectPublicKeyInfo);

/// The request cannot be used. The caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CsrError {
    #[error("the request is larger than {MAX_CSR_BYTES} bytes")]
    TooLarge,
    #[error("the request is not PKCS#10 in DER")]
    Malformed,
    #[error("the key is not ECDSA P-256, ECDSA P-384 or Ed25519")]
    KeyType,
    #[error("the request's signature does not verify")]
    Signature,
}

impl ProvenKey {
    /// Reads PKCS#10 in DER.
    pub(crate) fn from_csr(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_CSR_BYTES {
            return Err(CsrError::TooLarge);
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        // The type comes before the signature: no arithmetic on keys that would be refused anyway.
        let key = Self::accepted(request.certification_request_info.subject_pki.raw)?;
        request.verify_signature().map_err(|_| CsrError::Signature)?;
        Ok(key)
    }

    /// The key of a pair that this process made itself.
    pub(crate) fn of_own_pair(pair: &rcgen::KeyPair) -> Result<Self, CsrError> {
        Self::accepted(&pair.subject_public_key_info())
    }

    pub(crate) fn public_key(&self) -> &SubjectPublicKeyInfo {
        &self.0
    }

    fn accepted(spki: &[u8]) -> Result<Self, CsrError> {
        let key = SubjectPublicKeyInfo::from_der(spki).map_err(|_| CsrError::KeyType)?;
        let accepted = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
        if accepted.contains(&key.algorithm()) { Ok(Self(key)) } else { Err(CsrError::KeyType) }
    }
}

/// A P-384 request with an ID is under 1 KiB.
const MAX_CSR_BYTES: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P521_SHA512};

    use super::*;

    fn csr(key: &KeyPair, names: Vec<String>) -> Vec<u8> {
        CertificateParams::new(names).unwrap().serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn the_three_key_types_are_taken() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let proven = ProvenKey::from_csr(&csr(&key, Vec::new())).unwrap();
            assert_eq!(proven.public_key().der_bytes(), key.der_bytes());
        }
    }

    #[test]
    fn another_key_type_is_refused() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
        assert_eq!(ProvenKey::from_csr(&csr(&key, Vec::new())).err(), Some(CsrError::KeyType));
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let mut der = csr(&KeyPair::generate().unwrap(), Vec::new());
        let last = der.len() - 1;
        der[last] ^= 1;
        assert_eq!(ProvenKey::from_csr(&der).err(), Some(CsrError::Signature));
    }

    #[test]
    fn a_huge_request_is_refused_before_it_is_parsed() {
        let names = (0..1000).map(|number| format!("name-{number}.example.test")).collect();
        let der = csr(&KeyPair::generate().unwrap(), names);
        assert_eq!(ProvenKey::from_csr(&der).err(), Some(CsrError::TooLarge));
    }

    #[test]
    fn garbage_and_trailing_bytes_are_refused() {
        let mut der = csr(&KeyPair::generate().unwrap(), Vec::new());
        der.push(0);
        for bad in [der.as_slice(), b"", b"\x30\x80", &[0xff; 64]] {
            assert_eq!(ProvenKey::from_csr(bad).err(), Some(CsrError::Malformed));
        }
    }
}
