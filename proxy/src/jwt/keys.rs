//! The public keys of one issuer, from a JSON Web Key Set (RFC 7517). Each key takes the one algorithm that it is for, so a
//! token cannot choose how it is checked. Keys of kinds that are not taken, shared secrets among them, are left out: a key that
//! is not there verifies nothing. A set without any key that is taken is refused, and so is one with two keys of one name.

use std::fmt;

use aws_lc_rs::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::refusal::Refusal;

/// The keys of one issuer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KeySet(Vec<Key>);

/// A public key, and what it is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    material: Material,
}

#[derive(PartialEq, Eq)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// A point of the curve.
    Point(Vec<u8>),
}

/// How a token is signed. There are no others: `none` is no signature, and what is verified with a shared secret (`HS256`)
/// can be signed with it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

/// Why keys cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadKeys {
    #[error("not a JSON Web Key Set: {0}")]
    Syntax(String),
    #[error("it has {0} keys; at most {MOST_KEYS} are read")]
    TooMany(usize),
    #[error("the key {0:?} is not what it says: {1}")]
    Key(String, &'static str),
    #[error("two keys for {1} are named {0:?}")]
    Ambiguous(String, &'static str),
    #[error("it has no key that signs tokens with RS256, PS256, ES256, EdDSA or their like")]
    None,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    pub(super) fn parse(json: &[u8]) -> Result<Self, BadKeys> {
        let JwkSet { keys } =
            serde_json::from_slice(json).map_err(|error| BadKeys::Syntax(error.to_string()))?;
        if keys.len() > MOST_KEYS {
            return Err(BadKeys::TooMany(keys.len()));
        }
        let keys =
            keys.into_iter().map(Key::of).filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?;
        for (index, key) in keys.iter().enumerate() {
            let same = |other: &&Key| other.kid == key.kid && other.algorithm == key.algorithm;
            if let (Some(kid), Some(_)) = (&key.kid, keys.iter().take(index).find(same)) {
                return Err(BadKeys::Ambiguous(kid.clone(), key.algorithm.name()));
            }
        }
        if keys.is_empty() { Err(BadKeys::None) } else { Ok(Self(keys)) }
    }

    /// The one key that a token can mean. A name is compared, never opened: no file or table is looked up by it.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Key, Refusal> {
        let mut keys = self
            .0
            .iter()
            .filter(|key| key.algorithm == algorithm && (kid.is_none() || key.kid.as_deref() == kid));
        match (keys.next(), keys.next()) {
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(Refusal::AmbiguousKey),
            (None, _) => Err(Refusal::UnknownKey),
        }
    }
}

impl Key {
    /// `None`: not for signatures of tokens, or of a kind that is not taken.
    fn of(jwk: Jwk) -> Result<Option<Self>, BadKeys> {
        let signs = jwk.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && jwk.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|it| it == "verify"));
        let Some(algorithm) = jwk.algorithm().filter(|_| signs) else { return Ok(None) };
        let shown = jwk.kid.clone().unwrap_or_default();
        let bytes = |field: Option<&String>| {
            let text = field.ok_or_else(|| BadKeys::Key(shown.clone(), "a part is missing"))?;
            URL_SAFE_NO_PAD.decode(text).map_err(|_| BadKeys::Key(shown.clone(), "a part is no base64url"))
        };
        let material = match algorithm.coordinate_bytes() {
            None if algorithm == Algorithm::EdDsa => Material::Point(bytes(jwk.x.as_ref())?),
            None => Material::Rsa {
                modulus: without_zeros(bytes(jwk.n.as_ref())?),
                exponent: without_zeros(bytes(jwk.e.as_ref())?),
            },
            Some(length) => {
                let (x, y) = (bytes(jwk.x.as_ref())?, bytes(jwk.y.as_ref())?);
                if x.len() != length || y.len() != length {
                    return Err(BadKeys::Key(shown, "a coordinate has another length than the curve's"));
                }
                // SEC 1 §2.3.3: uncompressed.
                Material::Point([&[4], x.as_slice(), y.as_slice()].concat())
            }
        };
        let is_weak = matches!(&material, Material::Rsa { modulus, .. } if modulus.len() < LEAST_RSA_BYTES);
        if is_weak {
            return Err(BadKeys::Key(shown, "RSA of less than 2048 bits"));
        }
        Ok(Some(Self { kid: jwk.kid, algorithm, material }))
    }

    /// Whether the signature over `message` is this key's.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.material {
            Material::Rsa { modulus, exponent } => self.algorithm.rsa().ok_or(()).and_then(|how| {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(how, message, signature).map_err(|_| ())
            }),
            Material::Point(point) => self.algorithm.curve().ok_or(()).and_then(|how| {
                UnparsedPublicKey::new(how, point).verify(message, signature).map_err(|_| ())
            }),
        };
        verified.is_ok()
    }
}

impl Jwk {
    /// The one algorithm of the key. An RSA key that names none is for RS256, which is what those mean that name none; the
    /// curve of any other says it.
    fn algorithm(&self) -> Option<Algorithm> {
        let of_kind = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", None) => {
                return self
                    .alg
                    .as_deref()
                    .map_or(Some(Algorithm::Rs256), Algorithm::of)
                    .filter(|it| it.rsa().is_some());
            }
            ("EC", Some("P-256")) => Algorithm::Es256,
            ("EC", Some("P-384")) => Algorithm::Es384,
            ("OKP", Some("Ed25519")) => Algorithm::EdDsa,
            _ => return None,
        };
        self.alg.as_deref().is_none_or(|alg| Algorithm::of(alg) == Some(of_kind)).then_some(of_kind)
    }
}

impl Algorithm {
    const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// By its name of RFC 7518, in exactly its letters.
    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::Es256 | Self::Es384 | Self::EdDsa => return None,
        })
    }

    fn curve(self) -> Option<&'static dyn VerificationAlgorithm> {
        Some(match self {
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::EdDsa => &signature::ED25519,
            _ => return None,
        })
    }

    /// Of a curve whose points have two.
    fn coordinate_bytes(self) -> Option<usize> {
        match self {
            Self::Es256 => Some(32),
            Self::Es384 => Some(48),
            _ => None,
        }
    }
}

/// Some issuers write a number with the zero that keeps it positive.
fn without_zeros(bytes: Vec<u8>) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.into_iter().skip(zeros).collect()
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa { .. } => "RSA",
            Self::Point(_) => "a point",
        })
    }
}

const MOST_KEYS: usize = 64;
const LEAST_RSA_BYTES: usize = 256;
