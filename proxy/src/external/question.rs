//! What is asked: a request or an opaque connection as the protocol shows it. Of the header fields only those that are
//! listed, and never a body. A field that the protocol cannot carry is an objection: the server would decide about less than
//! there is.

use http::{HeaderMap, HeaderName, Version, header};
use http_body::Body;
use sidegate_identity::SpiffeId;
use sidegate_proto::external_authorization as wire;

use super::{External, Objection, Outcome};
use crate::{authorize::Caller, http::Checked};

/// One question.
#[derive(Debug)]
pub(crate) struct Question {
    is_http: bool,
    request: wire::CheckRequest,
}

impl Question {
    /// About a request as it is, before anything is taken off of it.
    pub(crate) fn about_request<B: Body>(
        external: &External,
        caller: Caller<'_>,
        own: Option<&SpiffeId>,
        request: &Checked<B>,
        version: Version,
    ) -> Result<Self, Objection> {
        let path = match request.query() {
            None => request.path().to_owned(),
            Some(query) => format!("{}?{query}", request.path()),
        };
        let http = wire::HttpRequest {
            id: request.request_id().to_owned(),
            method: request.method().to_owned(),
            headers: shown(request.headers(), &external.config.send_headers)?,
            path,
            host: request.authority(),
            // Of the link; what is behind it is the application's own business.
            scheme: if caller.client.id().is_some() { "https" } else { "http" }.to_owned(),
            size: request.length().and_then(|length| i64::try_from(length).ok()).unwrap_or(-1),
            protocol: if version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" }.to_owned(),
        };
        Ok(Self { is_http: true, request: check(caller, own, Some(http)) })
    }

    /// About an opaque connection.
    pub(crate) fn about_connection(caller: Caller<'_>, own: Option<&SpiffeId>) -> Self {
        Self { is_http: false, request: check(caller, own, None) }
    }

    pub(super) fn into_parts(self) -> (bool, wire::CheckRequest) {
        (self.is_http, self.request)
    }
}

fn check(caller: Caller<'_>, own: Option<&SpiffeId>, http: Option<wire::HttpRequest>) -> wire::CheckRequest {
    let at = |address: String, port: u16| {
        let socket_address = Some(wire::SocketAddress { address, port_value: port.into() });
        Some(wire::Address { socket_address })
    };
    let principal = |id: &SpiffeId| id.as_str().to_owned();
    wire::CheckRequest {
        attributes: Some(wire::AttributeContext {
            source: Some(wire::Peer {
                address: at(caller.ip.to_canonical().to_string(), 0),
                // Empty, as Envoy has it, where none is proven.
                principal: caller.client.id().map(principal).unwrap_or_default(),
            }),
            // The application's port is what policies mean by a port.
            destination: Some(wire::Peer {
                address: at(String::new(), caller.port),
                principal: own.map(principal).unwrap_or_default(),
            }),
            request: Some(wire::Request { http }),
            tls_session: caller.sni.map(|sni| wire::TlsSession { sni: sni.to_owned() }),
        }),
    }
}

/// Fields by name; several lines of one are joined as RFC 9110 §5.3 has it, so that none is left out.
fn shown(
    headers: &HeaderMap,
    names: &[HeaderName],
) -> Result<std::collections::BTreeMap<String, String>, Objection> {
    let mut shown = std::collections::BTreeMap::new();
    for name in names {
        let separator = if name == header::COOKIE { "; " } else { "," };
        let mut lines = Vec::new();
        for line in headers.get_all(name) {
            let text = std::str::from_utf8(line.as_bytes()).map_err(|_| {
                Objection::new(Outcome::BadQuestion, format!("{name} is not UTF-8, and could not be shown"))
            })?;
            lines.push(text);
        }
        if !lines.is_empty() {
            shown.insert(name.as_str().to_owned(), lines.join(separator));
        }
    }
    Ok(shown)
}
