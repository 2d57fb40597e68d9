//! `federation` of `mesh.yaml`: the other trust domains, each with one source of its bundle. The own trust domain has its
//! authorities in the state folder, and another one has one bundle: none is ever merged.

use std::path::{Path, PathBuf};

use hyper::{Uri, http::uri::Scheme};
use ipnet::IpNet;
use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_saphyr::Spanned;
use sidegate_identity::{SpiffeId, TrustDomain};

use super::{
    super::{BundleSource, Endpoint, Federated, Profile, bounds::BUNDLE_REFRESH, schema},
    Check, display,
};

/// A trust domain besides the own one.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Federated")]
pub(super) struct FederatedDocument {
    /// Its name.
    #[schemars(with = "schema::Domain")]
    trust_domain: Spanned<String>,
    /// The file of its trust bundle, as PEM or as SPIFFE's JSON; read again when it changes. Beside `httpsSpiffe`: the bundle by
    /// which its endpoint is verified the first time.
    #[serde(default)]
    #[schemars(with = "Option<schema::File>")]
    bundle: Option<PathBuf>,
    /// Its bundle endpoint by the profile `https_spiffe`: the server proves a SPIFFE ID under the bundle in hand.
    #[serde(default)]
    https_spiffe: Option<SpiffeEndpointDocument>,
    /// Its bundle endpoint by the profile `https_web`: the server proves its host name under authorities of the web.
    #[serde(default)]
    https_web: Option<WebEndpointDocument>,
}

/// A bundle endpoint that proves a SPIFFE ID.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "HttpsSpiffe")]
struct SpiffeEndpointDocument {
    /// Where it is.
    #[schemars(with = "schema::Url")]
    url: Spanned<String>,
    /// What its server must prove to be; of the same trust domain.
    #[schemars(with = "schema::Id")]
    spiffe_id: Spanned<String>,
    /// How often it is asked at least; more often if it hints at that.
    #[serde(default)]
    #[schemars(with = "Option<schema::Time>", transform = |schema: &mut Schema| BUNDLE_REFRESH.describe(schema))]
    refresh: Option<Spanned<String>>,
    /// Addresses that it may have although they are of the own host or link, where it is not looked for.
    #[serde(default)]
    #[schemars(with = "Vec<schema::Cidr>")]
    allow_addresses: Vec<Spanned<String>>,
}

/// A bundle endpoint that proves its host name.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "HttpsWeb")]
struct WebEndpointDocument {
    /// Where it is.
    #[schemars(with = "schema::Url")]
    url: Spanned<String>,
    /// PEM: the authorities that vouch for its host name. The system's are often at `/etc/ssl/certs/ca-certificates.crt`.
    #[schemars(with = "schema::File")]
    trust_bundle: PathBuf,
    /// How often it is asked at least; more often if it hints at that.
    #[serde(default)]
    #[schemars(with = "Option<schema::Time>", transform = |schema: &mut Schema| BUNDLE_REFRESH.describe(schema))]
    refresh: Option<Spanned<String>>,
    /// Addresses that it may have although they are of the own host or link, where it is not looked for.
    #[serde(default)]
    #[schemars(with = "Vec<schema::Cidr>")]
    allow_addresses: Vec<Spanned<String>>,
}

/// What the two profiles have in common.
struct Asked<'a> {
    url: &'a Spanned<String>,
    refresh: Option<&'a Spanned<String>>,
    allow_addresses: &'a [Spanned<String>],
}

impl Check {
    /// Relative paths are of `folder`; what is fetched is kept in `state`.
    pub(super) fn federation(
        &mut self,
        own: &TrustDomain,
        (folder, state): (&Path, &Path),
        documents: Vec<FederatedDocument>,
    ) -> Vec<Federated> {
        let mut federation: Vec<Federated> = Vec::with_capacity(documents.len());
        for (index, document) in documents.into_iter().enumerate() {
            let place = format!("federation[{index}]");
            let trust_domain = self.value(&document.trust_domain, &format!("{place}.trustDomain"), |text| {
                let trust_domain = TrustDomain::parse(text).map_err(display)?;
                if trust_domain == *own {
                    return Err(format!("{text} is the mesh's own trust domain"));
                }
                if federation.iter().any(|federated| federated.trust_domain == trust_domain) {
                    return Err(format!("{text} is listed twice"));
                }
                Ok(trust_domain)
            });
            let Some(trust_domain) = trust_domain else { continue };
            let source = self.source(&trust_domain, (folder, state), &place, document);
            federation.extend(source.map(|source| Federated { trust_domain, source }));
        }
        federation
    }

    fn source(
        &mut self,
        trust_domain: &TrustDomain,
        (folder, state): (&Path, &Path),
        place: &str,
        document: FederatedDocument,
    ) -> Option<BundleSource> {
        let kept = state.join("federation").join(format!("{trust_domain}.json"));
        let FederatedDocument { trust_domain: named, bundle, https_spiffe, https_web } = document;
        match (bundle, https_spiffe, https_web) {
            (Some(file), None, None) => Some(BundleSource::File(folder.join(file))),
            (Some(first), Some(spiffe), None) => {
                let place = format!("{place}.httpsSpiffe");
                let id = self.value(&spiffe.spiffe_id, &format!("{place}.spiffeId"), |text| {
                    let id = SpiffeId::parse(text).map_err(display)?;
                    let is_theirs = id.trust_domain() == trust_domain.as_str();
                    if is_theirs { Ok(id) } else { Err(format!("{text} is not of {trust_domain}")) }
                });
                let asked = Asked {
                    url: &spiffe.url,
                    refresh: spiffe.refresh.as_ref(),
                    allow_addresses: &spiffe.allow_addresses,
                };
                let profile = id.map(|id| Profile::Spiffe { id, first: folder.join(first) });
                self.endpoint(&place, &asked, profile, kept)
            }
            (None, None, Some(web)) => {
                let asked = Asked {
                    url: &web.url,
                    refresh: web.refresh.as_ref(),
                    allow_addresses: &web.allow_addresses,
                };
                let profile = Profile::Web { roots: folder.join(web.trust_bundle) };
                self.endpoint(&format!("{place}.httpsWeb"), &asked, Some(profile), kept)
            }
            _ => {
                let message = "has one source: `bundle`, a file; `httpsSpiffe`, and beside it the `bundle` to begin \
                               with; or `httpsWeb`";
                self.add(&named, place.to_owned(), message.to_owned());
                None
            }
        }
    }

    fn endpoint(
        &mut self,
        place: &str,
        asked: &Asked<'_>,
        profile: Option<Profile>,
        kept: PathBuf,
    ) -> Option<BundleSource> {
        let url = self.value(asked.url, &format!("{place}.url"), https);
        let refresh = self.duration(asked.refresh, &format!("{place}.refresh"), BUNDLE_REFRESH);
        let allow_addresses = self.each(asked.allow_addresses, &format!("{place}.allowAddresses"), |text| {
            text.parse::<IpNet>().map_err(|error| format!("{text:?}: {error}"))
        });
        Some(BundleSource::Endpoint(Endpoint {
            url: url?,
            profile: profile?,
            refresh: refresh?,
            allow_addresses,
            kept,
        }))
    }
}

/// Nothing of it is a secret, and nothing of it is left to be guessed.
fn https(text: &str) -> Result<Uri, String> {
    let url: Uri = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
    let has_user = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if url.scheme() != Some(&Scheme::HTTPS) || url.host().is_none_or(str::is_empty) || has_user {
        return Err(format!("{text:?} is not https://HOST[:PORT]/PATH"));
    }
    Ok(url)
}
