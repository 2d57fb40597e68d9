//! Tunnels that begin as a request: an upgrade of HTTP/1.1 (RFC 9110 §7.8), the WebSocket of RFC 6455 above all, and the
//! WebSocket of HTTP/2 (RFC 8441). Takes the head of a request, hands on what it asks to become, and makes the answer of
//! one HTTP version that of the other. Refuses what the port does not list, and answers that nobody asked for.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE,
    },
    request::Parts,
};
use hyper::ext::Protocol;
use sidegate_codes::Code;

use super::headers;
use crate::{config::Upgrades, error::Error};

/// What a request asks to become, and how its answer has to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// A WebSocket.
    WebSocket {
        /// Of the handshake of RFC 6455, to which the answer is a digest of it; made here if there was none.
        key: Option<HeaderValue>,
        /// Whether the downstream asked by RFC 8441.
        is_extended: bool,
    },
    /// Another protocol of the port's list, by HTTP/1.1 alone.
    Other(HeaderValue),
}

impl Opening {
    /// What the head asks for. A WebSocket over HTTP/2 becomes the GET that it stands for: from here on both are the same
    /// request.
    pub(super) fn asked(parts: &mut Parts, allowed: &Upgrades) -> Result<Option<Self>, Error> {
        if parts.method == Method::CONNECT {
            return Self::asked_by_connect(parts, allowed).map(Some);
        }
        let Some(name) = upgrade_of(&parts.headers).map_err(|()| unsupported("two upgrades at once"))? else {
            return Ok(None);
        };
        if parts.version != Version::HTTP_11 || !allowed.has(name.as_bytes()) {
            return Err(unsupported("an upgrade that the port does not list"));
        }
        if !is_websocket(&name) {
            return Ok(Some(Self::Other(name)));
        }
        if parts.method != Method::GET {
            return Err(unsupported("a WebSocket by other than GET"));
        }
        Ok(Some(Self::WebSocket { key: parts.headers.get(SEC_WEBSOCKET_KEY).cloned(), is_extended: false }))
    }

    /// RFC 8441 §4. A CONNECT without `:protocol` asks for a tunnel to another host.
    fn asked_by_connect(parts: &mut Parts, allowed: &Upgrades) -> Result<Self, Error> {
        let protocol = parts.extensions.get::<Protocol>().ok_or_else(|| unsupported("CONNECT"))?;
        if protocol.as_ref() != WEBSOCKET.as_bytes() || !allowed.has(protocol.as_ref()) {
            return Err(unsupported("a CONNECT to a protocol that the port does not list"));
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| unsupported("a WebSocket while there is no randomness"))?;
        let key = HeaderValue::try_from(STANDARD.encode(random)).ok();
        parts.method = Method::GET;
        for name in [SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_ACCEPT] {
            parts.headers.remove(name);
        }
        Ok(Self::WebSocket { key, is_extended: true })
    }

    /// Says it as HTTP/1.1.
    pub(super) fn insert_http1(&self, fields: &mut HeaderMap) {
        match self {
            Self::Other(name) => headers::insert_upgrade(fields, name.clone()),
            Self::WebSocket { key, .. } => {
                headers::insert_upgrade(fields, HeaderValue::from_static(WEBSOCKET));
                if let Some(key) = key {
                    fields.insert(SEC_WEBSOCKET_KEY, key.clone());
                }
            }
        }
    }

    /// Says it as HTTP/2.
    pub(super) fn insert_http2(&self, parts: &mut Parts) -> Result<(), Error> {
        match self {
            Self::Other(_) => Err(unsupported("an upgrade to an HTTP/2 application")),
            // RFC 6455 §4.2.1: without a key it is no handshake, and there is nothing to answer it by.
            Self::WebSocket { key: None, .. } => {
                Err(Error::bad_request(Code::BadHeader, "a WebSocket handshake without a key"))
            }
            Self::WebSocket { .. } => {
                parts.method = Method::CONNECT;
                parts.headers.remove(SEC_WEBSOCKET_KEY);
                parts.extensions.insert(Protocol::from_static(WEBSOCKET));
                Ok(())
            }
        }
    }

    /// Whether an upstream's answer, of which `became` is what it switched to, opens the tunnel. The answer is made that of
    /// the downstream's version. `Err` says what is wrong with it.
    pub(super) fn is_opened_by<B>(
        &self,
        answer: &mut Response<B>,
        became: Option<Became>,
    ) -> Result<bool, String> {
        let Some(became) = became else {
            // RFC 8441 §4: any 2xx would open the tunnel, and there is nobody at its other end.
            let is_mistakable = matches!(self, Self::WebSocket { is_extended: true, .. });
            return if is_mistakable && answer.status().is_success() {
                Err("the upstream answered a WebSocket handshake and did not switch".to_owned())
            } else {
                Ok(false)
            };
        };
        let is_asked = match (&became, self) {
            (Became::Extended, _) => true,
            (Became::Upgraded(name), Self::WebSocket { .. }) => is_websocket(name),
            (Became::Upgraded(name), Self::Other(asked)) => {
                name.as_bytes().eq_ignore_ascii_case(asked.as_bytes())
            }
        };
        if !is_asked {
            return Err("the upstream switched to a protocol that was not asked for".to_owned());
        }
        for name in [CONTENT_LENGTH, TRANSFER_ENCODING] {
            answer.headers_mut().remove(name);
        }
        match self {
            Self::WebSocket { key, is_extended: true } => {
                let proof = answer.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
                if became != Became::Extended && proof != key.as_ref().map(accept) {
                    return Err("the upstream's Sec-WebSocket-Accept is not of this handshake".to_owned());
                }
                *answer.status_mut() = StatusCode::OK;
            }
            Self::WebSocket { key, is_extended: false } => {
                *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                headers::insert_upgrade(answer.headers_mut(), HeaderValue::from_static(WEBSOCKET));
                if let (Became::Extended, Some(key)) = (&became, key) {
                    answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept(key));
                }
            }
            Self::Other(name) => headers::insert_upgrade(answer.headers_mut(), name.clone()),
        }
        Ok(true)
    }
}

/// How an upstream switched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// By 101, to the protocol of this name.
    Upgraded(HeaderValue),
    /// By a 200 to an extended CONNECT.
    Extended,
}

impl Became {
    /// What `answer`, as it came, switched to; `Err` if that cannot be told.
    pub(super) fn of<B>(answer: &Response<B>) -> Result<Option<Self>, String> {
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return match upgrade_of(answer.headers()) {
                Ok(Some(name)) => Ok(Some(Self::Upgraded(name))),
                _ => Err("the upstream switched to nothing in particular".to_owned()),
            };
        }
        // hyper puts it there for a 200 to a CONNECT, which is sent for an opening alone.
        let has_tunnel = answer.extensions().get::<hyper::upgrade::OnUpgrade>().is_some();
        Ok((answer.version() == Version::HTTP_2 && has_tunnel).then_some(Self::Extended))
    }
}

/// The one protocol that the `Upgrade` fields name, if `Connection` says that they are of this hop: what a proxy has passed
/// on by mistake asks for nothing (RFC 9110 §7.8). `h2c` is not heard, since every server may ignore it and RFC 9113 §3.1
/// retired it.
fn upgrade_of(fields: &HeaderMap) -> Result<Option<HeaderValue>, ()> {
    let options =
        fields.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    if !options.map(<[u8]>::trim_ascii).any(|option| option.eq_ignore_ascii_case(b"upgrade")) {
        return Ok(None);
    }
    let mut named =
        fields.get_all(UPGRADE).iter().filter(|value| !value.as_bytes().eq_ignore_ascii_case(b"h2c"));
    match (named.next(), named.next()) {
        (name, None) => Ok(name.cloned()),
        _ => Err(()),
    }
}

fn is_websocket(name: &HeaderValue) -> bool {
    name.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes())
}

/// RFC 6455 §4.2.2: proves that the server has read the handshake. SHA-1 by the standard, and no secret depends on it.
fn accept(key: &HeaderValue) -> HeaderValue {
    let text = [key.as_bytes(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let proof = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text));
    HeaderValue::try_from(proof).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn unsupported(what: &str) -> Error {
    Error::bad_request(Code::UnsupportedRequest, what)
}

const WEBSOCKET: &str = "websocket";

#[cfg(test)]
mod tests;
