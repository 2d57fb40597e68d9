//! Whose tokens are taken: issuers, and where their keys come from. Refuses an issuer without audiences, since a token for
//! somebody else is not for this workload, and keys that would be fetched without TLS.

use std::{path::PathBuf, time::Duration};

use http::{HeaderName, Uri, header};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{file::Faults, schema};
use crate::http::is_changeable;

/// Whose tokens are taken, and where they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// The header field that holds the token: behind `Bearer` in `authorization`, alone in any other.
    pub header: HeaderName,
    /// Whether the application gets the token too.
    pub forward: bool,
    /// Never empty; each `iss` once.
    pub issuers: Vec<Issuer>,
}

/// An issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its `iss`, byte for byte.
    pub issuer: String,
    /// Of which a token's `aud` has at least one. Never empty.
    pub audiences: Vec<String>,
    /// Where its keys come from.
    pub keys: KeysFrom,
}

/// Where the keys of an issuer come from, and for how long they are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysFrom {
    /// Where they are.
    pub origin: Origin,
    /// How often they are looked at.
    pub refresh: Duration,
    /// For how long the last good ones are used when that fails.
    pub max_stale: Duration,
}

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File(PathBuf),
    /// At a server.
    Url(KeysUrl),
}

/// Keys at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysUrl {
    /// `https`, with a host.
    pub url: Uri,
    /// PEM: the authorities that vouch for the server.
    pub trust_bundle: PathBuf,
    /// Addresses that it may have although they are of the own host or link.
    pub allow_addresses: Vec<IpNet>,
}

/// Whose tokens are taken. A request that carries a token is refused unless the token is good, whatever policies say. Absent:
/// tokens are not looked at, and pass as they are.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct JwtFile {
    /// The header field that holds the token: behind `Bearer` in `authorization`, alone in any other.
    #[serde(default = "authorization")]
    header: String,
    /// Whether the application gets the token too.
    #[serde(default)]
    forward: bool,
    /// The issuers, each once.
    issuers: Vec<IssuerFile>,
}

/// An issuer of tokens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct IssuerFile {
    /// Its `iss`, byte for byte.
    issuer: String,
    /// Of which a token's `aud` has at least one.
    audiences: Vec<String>,
    /// Where its keys come from.
    keys: KeysFile,
}

/// Where the keys of an issuer come from, a JSON Web Key Set: exactly one of `file` and `url`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct KeysFile {
    /// A file, looked at every two seconds.
    #[schemars(with = "Option<schema::File>")]
    file: Option<PathBuf>,
    /// An `https` URL. Redirects are not followed.
    url: Option<String>,
    /// PEM: the authorities that vouch for the server of `url`. The system's are often at
    /// `/etc/ssl/certs/ca-certificates.crt`.
    #[schemars(with = "Option<schema::File>")]
    trust_bundle: Option<PathBuf>,
    /// Addresses that the server of `url` may have although they are of the own host or link, where it is not looked for.
    #[serde(default)]
    #[schemars(with = "Vec<schema::Cidr>")]
    allow_addresses: Vec<String>,
    /// How often `url` is asked.
    #[schemars(with = "Option<schema::Time>", extend("default" = "5m"))]
    refresh: Option<String>,
    /// For how long the last good keys are used when no new ones can be had; after that, tokens are refused.
    #[schemars(with = "Option<schema::Time>", extend("default" = "1h"))]
    max_stale: Option<String>,
}

impl JwtFile {
    pub(super) fn resolve(self, faults: &mut Faults<'_>) -> Option<Jwt> {
        let header = faults.parse::<HeaderName>("jwt.header", &self.header);
        // Others are set or removed on the way.
        if header.as_ref().is_some_and(|name| !is_changeable(name.as_str())) {
            faults.push("jwt.header", format!("{} cannot hold a token", self.header));
        }
        if self.issuers.is_empty() {
            faults.push("jwt.issuers", "is empty; leave `jwt` out if no token is to be looked at");
        }
        let issuers = faults.each("jwt.issuers", self.issuers, IssuerFile::resolve);
        for (index, issuer) in issuers.iter().enumerate() {
            if issuers.iter().take(index).any(|other| other.issuer == issuer.issuer) {
                faults.push(
                    &format!("jwt.issuers[{index}].issuer"),
                    format!("{:?} stands twice", issuer.issuer),
                );
            }
        }
        Some(Jwt { header: header?, forward: self.forward, issuers })
    }
}

impl IssuerFile {
    fn resolve(self, field: &str, faults: &mut Faults<'_>) -> Option<Issuer> {
        if self.issuer.is_empty() {
            faults.push(&format!("{field}.issuer"), "is empty");
        }
        if self.audiences.is_empty() || self.audiences.iter().any(String::is_empty) {
            let message = "names nobody; a token for somebody else must not be taken";
            faults.push(&format!("{field}.audiences"), message);
        }
        let keys = self.keys.resolve(&format!("{field}.keys"), faults)?;
        Some(Issuer { issuer: self.issuer, audiences: self.audiences, keys })
    }
}

impl KeysFile {
    fn resolve(self, field: &str, faults: &mut Faults<'_>) -> Option<KeysFrom> {
        let at = |name: &str| format!("{field}.{name}");
        let mut time = |name: &str, text: Option<String>, default: Duration| match text {
            None => Some(default),
            Some(text) => {
                let time = humantime::parse_duration(&text).map_err(|error| format!("{text:?}: {error}"));
                let time = faults.take(&at(name), time)?;
                let is_allowed = (SHORTEST..=LONGEST).contains(&time);
                if !is_allowed {
                    faults.push(&at(name), format!("{text:?} is not between 1s and 7d"));
                }
                is_allowed.then_some(time)
            }
        };
        let refresh = time("refresh", self.refresh, Duration::from_mins(5));
        let max_stale = time("maxStale", self.max_stale, Duration::from_hours(1));
        let is_of_url = self.trust_bundle.is_some() || !self.allow_addresses.is_empty();
        let origin = match (self.file, self.url, self.trust_bundle) {
            (Some(_), None, _) if is_of_url => {
                faults.push(field, "`trustBundle` and `allowAddresses` are of `url`");
                None
            }
            (Some(file), None, _) => Some(Origin::File(faults.folder().join(file))),
            (None, Some(url), Some(trust_bundle)) => {
                let url = https(&url).map_err(|why| format!("{url:?} {why}"));
                let allow_addresses =
                    faults.each(&at("allowAddresses"), self.allow_addresses, |text, field, faults| {
                        faults.parse::<IpNet>(field, &text)
                    });
                let trust_bundle = faults.folder().join(trust_bundle);
                faults
                    .take(&at("url"), url)
                    .map(|url| Origin::Url(KeysUrl { url, trust_bundle, allow_addresses }))
            }
            (None, Some(_), None) => {
                let message = "is missing: who vouches for the server? The system's authorities are often at \
                               /etc/ssl/certs/ca-certificates.crt";
                faults.push(&at("trustBundle"), message);
                None
            }
            _ => {
                faults.push(field, "either `file` or `url`, and not both");
                None
            }
        };
        Some(KeysFrom { origin: origin?, refresh: refresh?, max_stale: max_stale? })
    }
}

/// Keys that come over plaintext are anybody's.
fn https(text: &str) -> Result<Uri, &'static str> {
    let url: Uri = text.parse().map_err(|_| "is no URL")?;
    let authority = url.authority().ok_or("has no host")?;
    match url.scheme_str() {
        Some("https") if authority.as_str().contains('@') => Err("has a user, which is not sent"),
        Some("https") => Ok(url),
        _ => Err("is not https: keys that come in plaintext are anybody's"),
    }
}

fn authorization() -> String {
    header::AUTHORIZATION.to_string()
}

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_hours(7 * 24);
