//! Reads the control plane's API: a loopback URL in, typed documents out.
//! Refuses every other address: the API has no authentication yet, so it must not leave the host.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use http::{Method, StatusCode, Uri};
use serde::{Deserialize, de::DeserializeOwned};
use sidegate_codes::Code;
use tokio::time::timeout;

use crate::{
    exit::Exit,
    failure::Failure,
    http1::{self, Connection},
};

/// Where the control plane's API is served; loopback HTTP only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiUrl {
    address: SocketAddr,
}

/// Why a text is not an [`ApiUrl`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum BadApiUrl {
    /// Not of the form `http://127.0.0.1:15180`.
    #[error("the API's URL looks like http://127.0.0.1:15180")]
    Malformed,
    /// Another host: traffic there would be neither encrypted nor authenticated.
    #[error(
        "only loopback (127.0.0.1, [::1], localhost) is allowed, because the API has no authentication yet; forward the port, as in `ssh -L 15180:127.0.0.1:15180 HOST`"
    )]
    NotLoopback,
}

/// A reader of one control plane's API.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    url: ApiUrl,
}

impl Client {
    pub(crate) fn new(url: ApiUrl) -> Self {
        Self { url }
    }

    /// Reads the document at `path`, within [`ANSWER_TIMEOUT`].
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let answer = timeout(ANSWER_TIMEOUT, self.exchange(path))
            .await
            .map_err(|_| self.unreachable(path, &format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))?
            .map_err(|error| self.unreachable(path, &error.to_string()))?;
        match answer.status {
            StatusCode::OK => serde_json::from_slice(&answer.body)
                .map_err(|error| self.not_a_control_plane(path, &error.to_string())),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied(path, answer.status)),
            StatusCode::NOT_FOUND => Err(self.too_old(path)),
            StatusCode::SERVICE_UNAVAILABLE => Err(self.stands_by(path, &answer.body)),
            status => Err(self.not_a_control_plane(path, &format!("it answered {status}"))),
        }
    }

    async fn exchange(&self, path: &str) -> Result<http1::Answer, http1::Error> {
        let address = self.url.address;
        let mut connection = Connection::open(address, &address.to_string()).await?;
        connection.send(Method::GET, path, &[("accept", "application/json")]).await
    }

    fn unreachable(&self, path: &str, why: &str) -> Failure {
        Failure::new(
            Exit::Unreachable,
            "the control plane cannot be reached",
            why,
            "start one with `sidegate demo` or `sidegate control-plane --config mesh.yaml`, or name it with `--api URL`",
        )
        .coded(Code::ControlPlaneUnreachable)
        .seen(format!("GET {}{path}", self.url))
    }

    fn too_old(&self, path: &str) -> Failure {
        Failure::new(
            Exit::Unreachable,
            "the control plane does not know this question",
            "it answered 404, as one of an older release does",
            "compare the releases, `sidegate version` here and `sidegate status -o json` there, and update the older",
        )
        .coded(Code::ControlPlaneUnreachable)
        .seen(format!("GET {}{path}", self.url))
    }

    pub(crate) fn not_a_control_plane(&self, path: &str, why: &str) -> Failure {
        Failure::new(
            Exit::Unreachable,
            "the control plane's answer is not understood",
            why,
            "check that `--api` names a Sidegate control plane of this release: `sidegate version`",
        )
        .coded(Code::ControlPlaneUnreachable)
        .seen(format!("GET {}{path}", self.url))
    }

    fn stands_by(&self, path: &str, body: &[u8]) -> Failure {
        let why =
            serde_json::from_slice::<Refusal>(body).map_or_else(|error| error.to_string(), |said| said.error);
        let code = Code::ControlPlaneStandsBy;
        Failure::new(Exit::Unreachable, "this control plane stands by", why, code.next_step())
            .coded(code)
            .seen(format!("GET {}{path}", self.url))
    }

    fn denied(&self, path: &str, status: StatusCode) -> Failure {
        Failure::new(
            Exit::Denied,
            "the control plane refused to answer",
            format!("it answered {status}"),
            "ask its operator for access, or check who you are to it",
        )
        .seen(format!("GET {}{path}", self.url))
    }
}

/// Why there is no document.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl From<SocketAddr> for ApiUrl {
    /// For an address that is known to be ours.
    fn from(address: SocketAddr) -> Self {
        Self { address }
    }
}

impl FromStr for ApiUrl {
    type Err = BadApiUrl;

    fn from_str(text: &str) -> Result<Self, BadApiUrl> {
        let uri: Uri = text.parse().map_err(|_| BadApiUrl::Malformed)?;
        let plain =
            uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/") && uri.query().is_none();
        let authority = uri.authority().filter(|_| plain).ok_or(BadApiUrl::Malformed)?;
        let port = authority.port_u16().ok_or(BadApiUrl::Malformed)?;
        // `localhost` is not looked up: a resolver could name another host.
        let host = if authority.host() == "localhost" { "127.0.0.1" } else { authority.host() };
        let ip: std::net::IpAddr =
            host.trim_matches(['[', ']']).parse().map_err(|_| BadApiUrl::NotLoopback)?;
        if !ip.is_loopback() {
            return Err(BadApiUrl::NotLoopback);
        }
        Ok(Self { address: SocketAddr::new(ip, port) })
    }
}

impl std::fmt::Display for ApiUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}", self.address)
    }
}

/// How long one document may take: the API answers from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_urls_are_accepted_in_every_spelling() {
        for (text, address) in [
            ("http://127.0.0.1:15180", "127.0.0.1:15180"),
            ("http://127.0.0.1:15180/", "127.0.0.1:15180"),
            ("http://localhost:1", "127.0.0.1:1"),
            ("http://[::1]:15180", "[::1]:15180"),
        ] {
            let url: ApiUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), format!("http://{address}"));
        }
    }

    #[test]
    fn no_other_host_scheme_or_form_is_accepted() {
        for text in ["http://10.0.0.1:15180", "http://example.com:80", "http://127.0.0.1.evil.test:1"] {
            assert_eq!(text.parse::<ApiUrl>(), Err(BadApiUrl::NotLoopback), "{text}");
        }
        for text in
            ["", "127.0.0.1:15180", "https://127.0.0.1:15180", "http://127.0.0.1", "http://127.0.0.1:1/v1"]
        {
            assert_eq!(text.parse::<ApiUrl>(), Err(BadApiUrl::Malformed), "{text}");
        }
    }

    #[test]
    fn credentials_in_the_url_do_not_hide_the_host() {
        assert!("http://127.0.0.1@example.com:80".parse::<ApiUrl>().is_err());
    }
}
