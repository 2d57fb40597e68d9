//! A trust bundle as JSON, by the SPIFFE standards (Trust Domain and Bundle §4, X509-SVID §6): a JWK set whose X.509 authorities
//! are in `x5c`, one each. Members and keys that are not known are left alone, as the standards ask; an X.509 authority that is
//! not as they say refuses the whole.

use std::time::Duration;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Value, json};
use sidegate_identity::TrustBundle;
use x509_parser::{
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
};

use crate::mesh::Mesh;

/// What a document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    /// The certificates of the X.509 authorities.
    pub(super) authorities: Vec<CertificateDer<'static>>,
    /// Grows with each change.
    pub(super) sequence: Option<u64>,
    /// How soon to look again, in seconds.
    refresh_hint: Option<u64>,
}

#[derive(Deserialize)]
struct Form {
    keys: Vec<Key>,
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Deserialize)]
struct Key {
    #[serde(rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    x5c: Vec<String>,
}

/// Reads a document.
pub(super) fn parse(text: &str) -> Result<Document, String> {
    let form: Form = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let keys = form.keys.iter().enumerate().filter(|(_, key)| key.usage.as_deref() == Some(X509));
    let authorities: Result<Vec<_>, String> = keys
        .map(|(position, key)| {
            let [certificate] = &key.x5c[..] else {
                return Err(format!("keys[{position}].x5c: holds {} certificates, not one", key.x5c.len()));
            };
            STANDARD
                .decode(certificate)
                .map(CertificateDer::from)
                .map_err(|error| format!("keys[{position}].x5c[0]: {error}"))
        })
        .collect();
    Ok(Document {
        authorities: authorities?,
        sequence: form.spiffe_sequence,
        refresh_hint: form.spiffe_refresh_hint,
    })
}

impl Document {
    /// How soon to look again.
    pub(super) fn refresh_hint(&self) -> Duration {
        Duration::from_secs(self.refresh_hint.unwrap_or(REFRESH_HINT_SECONDS))
    }
}

/// The bundle for whoever federates with this mesh; `None` if an authority's key is not on a curve of NIST's.
pub(crate) fn published(mesh: &Mesh) -> Option<Value> {
    let bundle = mesh.trust.bundles.get(mesh.config.trust_domain.as_str())?;
    written(bundle, mesh.trust.sequence, refresh_hint(mesh.config.leaf_life))
}

/// How long an incoming root is published before it signs: Federation §4.1 asks for three to five times the hint.
pub(crate) fn lead(leaf_life: Duration) -> Duration {
    refresh_hint(leaf_life) * 5
}

/// How soon others should look again.
fn refresh_hint(leaf_life: Duration) -> Duration {
    (leaf_life / 20).clamp(Duration::from_secs(1), Duration::from_secs(REFRESH_HINT_SECONDS))
}

pub(super) fn written(bundle: &TrustBundle, sequence: u64, refresh_hint: Duration) -> Option<Value> {
    let keys: Option<Vec<_>> = bundle.authorities().iter().map(key).collect();
    let (keys, hint) = (keys?, refresh_hint.as_secs());
    Some(json!({ "keys": keys, "spiffe_sequence": sequence, "spiffe_refresh_hint": hint }))
}

fn key(authority: &CertificateDer<'static>) -> Option<Value> {
    let (_, certificate) = X509Certificate::from_der(authority).ok()?;
    let PublicKey::EC(point) = certificate.public_key().parsed().ok()? else { return None };
    // Uncompressed: a 4, then the two coordinates.
    let [4, coordinates @ ..] = point.data() else { return None };
    let curve = match coordinates.len() {
        64 => "P-256",
        96 => "P-384",
        _ => return None,
    };
    let (x, y) = coordinates.split_at(coordinates.len() / 2);
    let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
    let x5c = [STANDARD.encode(authority)];
    Some(json!({ "kty": "EC", "crv": curve, "x": x, "y": y, "use": X509, "x5c": x5c }))
}

const X509: &str = "x509-svid";
/// What the standard says where a document says nothing, and the most that this one says.
const REFRESH_HINT_SECONDS: u64 = 300;
