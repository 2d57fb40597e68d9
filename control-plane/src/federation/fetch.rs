//! One GET of a foreign bundle, by a profile of the SPIFFE Federation standard (§5.2). `https_spiffe`: the server must prove the
//! configured SPIFFE ID under the bundle in hand. `https_web`: authorities that the operator names vouch for its host name.
//! Refuses plaintext, redirects, more bytes than a bundle has, a slow server, and addresses that [`may_fetch_from`] refuses: the
//! connection goes to an address that was looked at, and the name is not looked up again.

use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    header,
    http::uri::{Authority, PathAndQuery},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use sidegate_identity::{
    TrustBundle, TrustBundles,
    tls::{self, Expected},
};
use sidegate_policy::may_fetch_from;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::config::{Endpoint, Profile};

/// The document, or why there is none. `in_hand` is what the server is verified by with `https_spiffe`.
pub(super) async fn fetch(endpoint: &Endpoint, in_hand: Option<TrustBundle>) -> Result<String, String> {
    let tls = match (&endpoint.profile, in_hand) {
        (Profile::Spiffe { id, .. }, Some(bundle)) => {
            let expected = Expected::OneOf(Arc::from([id.clone()]));
            tls::client_config(None, Arc::new(TrustBundles::from_iter([bundle])), expected, &[b"http/1.1"])
        }
        (Profile::Spiffe { .. }, None) => return Err("there is no bundle to verify it by".to_owned()),
        (Profile::Web { roots }, _) => web(roots).await?,
    };
    let asked = timeout(DEADLINE, ask(endpoint, tls)).await;
    asked.unwrap_or_else(|_| Err(format!("no whole answer in {} s", DEADLINE.as_secs())))
}

async fn ask(endpoint: &Endpoint, tls: Arc<ClientConfig>) -> Result<String, String> {
    let url = &endpoint.url;
    let host = url.host().ok_or("no host")?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let tcp = connect(&host, url.port_u16().unwrap_or(443), endpoint).await?;
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(tls).connect(name, tcp).await.map_err(|error| refused(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let asked = async {
        let request = Request::get(url.path_and_query().map_or("/", PathAndQuery::as_str))
            .header(header::HOST, url.authority().map_or("", Authority::as_str))
            .header(header::ACCEPT, "application/json")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        // A redirect is another URL than the one that was written down (Federation §5.2.1, §5.2.2).
        if response.status() != StatusCode::OK {
            return Err(format!("it answered {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
        let body = body.map_err(|error| format!("{error}; at most {MOST_BYTES} bytes are read"))?;
        String::from_utf8(body.to_bytes().to_vec()).map_err(|error| error.to_string())
    };
    // Its end is told to whoever waits for the answer, which may be whole by then.
    let served = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = asked => answer,
        never = served => match never {},
    }
}

/// In the words of whichever rule was broken.
fn refused(error: &std::io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    tls.and_then(tls::peer_error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// To the first address that answers. One that may not be asked refuses all: a name that has such an address is not to be
/// trusted with the others.
async fn connect(host: &str, port: u16, endpoint: &Endpoint) -> Result<TcpStream, String> {
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| error.to_string())?;
    let addresses: Vec<_> = found.take(MOST_ADDRESSES).collect();
    if let Some(near) =
        addresses.iter().find(|address| !may_fetch_from(address.ip(), &endpoint.allow_addresses))
    {
        let near = near.ip();
        return Err(format!(
            "{near} is an address of the own host or link; name it in allowAddresses if it is meant"
        ));
    }
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

async fn web(roots: &Path) -> Result<Arc<ClientConfig>, String> {
    let unusable = |error: &dyn std::fmt::Display| format!("{}: {error}", roots.display());
    let pem = tokio::fs::read(roots).await.map_err(|error| unusable(&error))?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        // One of a kind that rustls does not take vouches for nobody.
        let _ = store.add(certificate.map_err(|error| unusable(&error))?);
    }
    if store.is_empty() {
        return Err(unusable(&"no authority in it"));
    }
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// From the name to the last byte.
const DEADLINE: Duration = Duration::from_secs(10);
/// Some dozens of authorities.
pub(super) const MOST_BYTES: usize = 256 << 10;
const MOST_ADDRESSES: usize = 8;
