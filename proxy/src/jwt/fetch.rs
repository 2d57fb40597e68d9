//! Gets the bytes of a key set, from a file or by one GET over TLS. Refuses plaintext, redirects, more bytes than a key set
//! has, a server that is slow, and addresses that [`may_fetch_from`] refuses: the connection goes to an address that was looked
//! at, and the name is not looked up again.

use std::{convert::Infallible, path::Path, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sidegate_policy::may_fetch_from;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::keys::{BadKeys, KeySet};
use crate::{
    config::{KeysUrl, Origin},
    tls,
};

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoKeys {
    #[error("cannot read {path}: {cause}")]
    File { path: String, cause: String },
    #[error("{url}: {cause}")]
    Server { url: String, cause: String },
    #[error("{from}: {cause}")]
    Bad { from: String, cause: BadKeys },
}

/// Gets the keys.
pub(super) async fn fetch(origin: &Origin) -> Result<KeySet, NoKeys> {
    let (from, bytes) = match origin {
        Origin::File(path) => (path.display().to_string(), file(path).await?),
        Origin::Url(at) => {
            let url = at.url.to_string();
            let asked = tokio::time::timeout(DEADLINE, ask(at)).await;
            let asked = asked.unwrap_or_else(|_| Err(format!("no whole answer in {} s", DEADLINE.as_secs())));
            (url.clone(), asked.map_err(|cause| NoKeys::Server { url, cause })?)
        }
    };
    KeySet::parse(&bytes).map_err(|cause| NoKeys::Bad { from, cause })
}

async fn file(path: &Path) -> Result<Vec<u8>, NoKeys> {
    let unreadable = |cause: String| NoKeys::File { path: path.display().to_string(), cause };
    let length = tokio::fs::metadata(path).await.map_err(|error| unreadable(error.to_string()))?.len();
    if length > MOST_BYTES as u64 {
        return Err(unreadable(format!("{length} bytes; at most {MOST_BYTES} are read")));
    }
    tokio::fs::read(path).await.map_err(|error| unreadable(error.to_string()))
}

async fn ask(at: &KeysUrl) -> Result<Vec<u8>, String> {
    let host = at.url.host().ok_or("no host")?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = at.url.port_u16().unwrap_or(443);
    let tcp = connect(&host, port, at).await?;
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    let tls = TlsConnector::from(tls::trusting_file(&at.trust_bundle, &[]).await?);
    let stream = tls.connect(name, tcp).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let asked = async {
        let path = at.url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let authority = at.url.authority().map_or("", http::uri::Authority::as_str);
        let request = Request::get(path)
            .header(header::HOST, authority)
            .header(header::ACCEPT, "application/json, application/jwk-set+json")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        // A redirect is another URL than the one that was written down.
        if response.status() != StatusCode::OK {
            return Err(format!("it answered {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
        body.map(|body| body.to_bytes().to_vec())
            .map_err(|error| format!("{error}; at most {MOST_BYTES} bytes are read"))
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

/// To the first address that answers. One that may not be asked refuses all: a name that has such an address is not to be trusted
/// with the others.
async fn connect(host: &str, port: u16, at: &KeysUrl) -> Result<TcpStream, String> {
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| error.to_string())?;
    let addresses: Vec<_> = found.take(MOST_ADDRESSES).collect();
    if let Some(near) = addresses.iter().find(|address| !may_fetch_from(address.ip(), &at.allow_addresses)) {
        return Err(format!(
            "{} is an address of the own host or link; name it in allowAddresses if it is meant",
            near.ip()
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

/// From the name to the last byte.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
const MOST_BYTES: usize = 256 * 1024;
const MOST_ADDRESSES: usize = 8;
