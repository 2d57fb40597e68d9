//! A trust bundle as JSON, by the SPIFFE standards (Trust Domain and Bundle §4, X509-SVID §6): a JWK set whose X.509 authorities
//! are in `x5c`, one each. Members and keys that are not known are left alone, as the standards ask; an X.509 authority that is
//! not as they say refuses the whole.

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

#[derive(Deserialize)]
struct Document {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    #[serde(rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    x5c: Vec<String>,
}

/// The certificates of the X.509 authorities.
pub(super) fn authorities(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let document: Document = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let keys = document.keys.iter().enumerate().filter(|(_, key)| key.usage.as_deref() == Some(X509));
    keys.map(|(position, key)| {
        let [certificate] = &key.x5c[..] else {
            return Err(format!("keys[{position}].x5c: holds {} certificates, not one", key.x5c.len()));
        };
        STANDARD
            .decode(certificate)
            .map(CertificateDer::from)
            .map_err(|error| format!("keys[{position}].x5c[0]: {error}"))
    })
    .collect()
}

/// The bundle for whoever federates with this mesh; `None` if an authority's key is not on a curve of NIST's.
pub(crate) fn published(bundle: &TrustBundle) -> Option<Value> {
    let keys: Option<Vec<_>> = bundle.authorities().iter().map(key).collect();
    Some(json!({ "keys": keys?, "spiffe_refresh_hint": REFRESH_HINT_SECONDS }))
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
/// How soon others should look again; a new authority is published long before it signs.
const REFRESH_HINT_SECONDS: u64 = 300;
