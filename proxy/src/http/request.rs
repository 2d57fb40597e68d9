//! One request, checked and in canonical form: an `http::Request` as parsed goes in, a [`Checked`] comes out, and
//! what is ambiguous, doubled or over a limit is refused. Policy reads the `Checked`, and the upstream is sent that
//! same value: what is authorized is what is forwarded.

use http::{
    HeaderMap, HeaderValue, Method, Request, Uri, Version,
    header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING},
    request::Parts,
    uri::{PathAndQuery, Scheme},
};
use http_body::Body;
use sidegate_codes::Code;

use super::{RequestBody, authority::Authority, expect, headers, path, upgrade::Opening};
use crate::{
    config::{Limits, PathMode, Upgrades},
    error::Error,
    route::Asking,
};

/// A request with one path, one authority, one framing, and no field of another hop.
#[derive(Debug)]
pub(crate) struct Checked<B> {
    parts: Parts,
    authority: Authority,
    body: B,
    opening: Option<Opening>,
    /// Its body waits for a 100.
    expects: bool,
}

/// How requests of a port are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    /// Of the port.
    pub(crate) paths: PathMode,
    /// What a request of the port may become.
    pub(crate) upgrades: &'a Upgrades,
    /// Of the sidecar.
    pub(crate) limits: &'a Limits,
    /// Inbound: a peer's claims of identity are removed. Outbound they are the peer sidecar's to remove.
    pub(crate) removes_identity: bool,
}

impl Checked<RequestBody> {
    /// The same once more. `None` if it has a body, which flows once, or asks for a tunnel.
    pub(crate) fn copy(&self) -> Option<Self> {
        if self.opening.is_some() || !self.body.is_end_stream() {
            return None;
        }
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method.clone_from(&self.parts.method);
        parts.uri.clone_from(&self.parts.uri);
        parts.version = self.parts.version;
        parts.headers.clone_from(&self.parts.headers);
        let authority = self.authority.clone();
        Some(Self { parts, authority, body: RequestBody::nothing(), opening: None, expects: false })
    }
}

impl<B: Body> Checked<B> {
    /// Checks `request` in full, or says which rule it breaks.
    pub(crate) fn new(request: Request<B>, rules: Rules<'_>) -> Result<Self, Error> {
        let (mut parts, body) = request.into_parts();
        let opening = Opening::asked(&mut parts, rules.upgrades)?;
        if opening.is_some() && !body.is_end_stream() {
            // The body would still flow when the answer has made a tunnel of the connection, past everything that watches it.
            return Err(Error::bad_request(Code::BadFraming, "an upgrade with a body"));
        }
        refuse_lookalike_method(&parts.method)?;
        refuse_oversize(&parts, rules.limits)?;
        refuse_ambiguous_framing(&parts.headers)?;
        // An expectation of HTTP/1.0 is none (RFC 9110 §10.1.1).
        let is_expected = expect::is_expected(&parts.headers)? && parts.version > Version::HTTP_10;
        let expects = is_expected && !body.is_end_stream();
        let authority = Authority::agree(
            parts.uri.authority().map(http::uri::Authority::as_str),
            parts.headers.get_all(HOST).iter().map(HeaderValue::as_bytes),
        )
        .map_err(|error| Error::bad_request(Code::BadAuthority, error.to_string()))?;
        parts.uri = canonical_target(&parts, rules.paths)?;
        headers::remove_hop_by_hop(&mut parts.headers)
            .map_err(|detail| Error::bad_request(Code::BadHeader, detail))?;
        if rules.removes_identity {
            headers::remove_identity(&mut parts.headers);
        }
        headers::refuse_ambiguous(&parts.headers)
            .map_err(|detail| Error::bad_request(Code::BadHeader, detail))?;
        // Each hop frames anew from the body itself, and says in its own words what it expects.
        headers::remove_all(&mut parts.headers, &[CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT, HOST]);
        Ok(Self { parts, authority, body, opening, expects })
    }

    /// As every log names it.
    pub(crate) fn request_id(&self) -> &str {
        let id = self.parts.headers.get(headers::REQUEST_ID);
        id.and_then(|id| id.to_str().ok()).unwrap_or_default()
    }

    /// The method, compared exactly.
    pub(crate) fn method(&self) -> &str {
        self.parts.method.as_str()
    }

    /// The host in lower case, without its port.
    pub(crate) fn host(&self) -> &str {
        self.authority.host()
    }

    /// The canonical path, without its query.
    pub(crate) fn path(&self) -> &str {
        self.parts.uri.path()
    }

    /// The header fields as they are sent on, but for those that this sidecar writes itself.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// The query as it was sent, without its question mark.
    pub(crate) fn query(&self) -> Option<&str> {
        self.parts.uri.query()
    }

    /// The host, with its port if it names one.
    pub(crate) fn authority(&self) -> String {
        self.authority.to_string()
    }

    /// How long its body is, where that is known beforehand.
    pub(crate) fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The port that its authority names.
    pub(crate) fn port(&self) -> Option<u16> {
        self.authority.port()
    }

    /// What routes match.
    pub(crate) fn asking(&self) -> Asking<'_> {
        Asking {
            method: self.method(),
            host: self.host(),
            path: self.path(),
            query: self.query(),
            headers: self.headers(),
        }
    }

    /// Puts a host and a path in the place of its own, by the same checks: what is sent on is canonical again, or nothing
    /// is. The query stays.
    pub(crate) fn rewrite(
        &mut self,
        host: Option<&str>,
        path: Option<String>,
        mode: PathMode,
        limits: &Limits,
    ) -> Result<(), Error> {
        if let Some(path) = path {
            let rewritten = target(&path, self.query(), mode)?;
            refuse_long_path(rewritten.path(), limits)?;
            self.parts.uri = rewritten;
        }
        if let Some(host) = host {
            self.authority = Authority::of_host(host.to_owned());
        }
        Ok(())
    }

    /// What it asks to become.
    pub(crate) fn opening(&self) -> Option<&Opening> {
        self.opening.as_ref()
    }

    /// The header fields that will be sent on.
    pub(crate) fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.parts.headers
    }

    /// As HTTP/1.1: origin-form and one `Host` (RFC 9112 §3.2.1), cookies in one line, one framing.
    pub(crate) fn into_http1(self) -> Request<B> {
        let Self { mut parts, authority, body, opening, expects } = self;
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        if let Ok(host) = HeaderValue::try_from(authority.to_string()) {
            parts.headers.insert(HOST, host);
        }
        if expects {
            parts.headers.insert(EXPECT, expect::field());
        }
        headers::join_cookies(&mut parts.headers);
        if let Some(opening) = opening {
            opening.insert_http1(&mut parts.headers);
        }
        if let Some(length) = body.size_hint().exact() {
            // A POST says it of nothing too (RFC 9110 §8.6).
            if length > 0 || !matches!(parts.method, Method::GET | Method::HEAD) {
                parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
        } else if !body.is_end_stream() {
            parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Request::from_parts(parts, body)
    }

    /// As HTTP/2: `:scheme`, `:authority` and `:path` (RFC 9113 §8.3.1).
    pub(crate) fn into_http2(self) -> Result<Request<B>, Error> {
        let Self { mut parts, authority, body, opening, expects } = self;
        parts.version = Version::HTTP_2;
        parts.extensions.clear();
        if let Some(opening) = opening {
            opening.insert_http2(&mut parts)?;
        }
        if expects {
            parts.headers.insert(EXPECT, expect::field());
        }
        let mut target = std::mem::take(&mut parts.uri).into_parts();
        target.scheme = Some(Scheme::HTTP);
        target.authority =
            Some(authority.to_string().try_into().map_err(|_| {
                Error::bad_request(Code::BadAuthority, format!("{authority} cannot be sent"))
            })?);
        parts.uri =
            Uri::from_parts(target).map_err(|error| Error::bad_request(Code::BadPath, error.to_string()))?;
        Ok(Request::from_parts(parts, body))
    }
}

/// Methods are case-sensitive (RFC 9110 §9.1), and some frameworks forget it: a rule on POST must not be passed by
/// `post`.
fn refuse_lookalike_method(method: &Method) -> Result<(), Error> {
    let sent = method.as_str();
    let known = KNOWN_METHODS.iter().find(|known| known.eq_ignore_ascii_case(sent));
    match known {
        Some(known) if *known != sent => {
            Err(Error::bad_request(Code::UnsupportedRequest, format!("method {sent}, which is not {known}")))
        }
        _ => Ok(()),
    }
}

/// A head of HTTP/1 is bounded as it is read; HTTP/2 fields count after HPACK has expanded them, crumbs included.
fn refuse_oversize(parts: &Parts, limits: &Limits) -> Result<(), Error> {
    let too_large = |limit: &str, seen: usize, most: usize| {
        Err(Error::bad_request(Code::HeadersTooLarge, format!("{limit}: {seen} is over {most}")))
    };
    let count = parts.headers.len();
    if count > limits.headers {
        return too_large("limits.headers", count, limits.headers);
    }
    let bytes: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > limits.header_bytes {
        return too_large("limits.headerBytes", bytes, limits.header_bytes);
    }
    refuse_long_path(parts.uri.path(), limits)
}

fn refuse_long_path(path: &str, limits: &Limits) -> Result<(), Error> {
    let (seen, most) = (path.len(), limits.path_bytes);
    if seen > most {
        let detail = format!("limits.pathBytes: {seen} is over {most}");
        return Err(Error::bad_request(Code::HeadersTooLarge, detail));
    }
    Ok(())
}

/// RFC 9112 §6.1: at most one of the two, said once. Of HTTP/2 the library lets some doubled forms through.
pub(super) fn refuse_ambiguous_framing(headers: &HeaderMap) -> Result<(), Error> {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let encoding = encodings.next();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    let wrong = if encodings.next().is_some() {
        Some("two Transfer-Encoding fields")
    } else if encoding.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        Some("a Transfer-Encoding other than chunked")
    } else if encoding.is_some() && length.is_some() {
        Some("both Transfer-Encoding and Content-Length")
    } else if lengths.any(|other| Some(other) != length) {
        Some("two different Content-Length fields")
    } else {
        None
    };
    wrong.map_or(Ok(()), |detail| Err(Error::bad_request(Code::BadFraming, detail)))
}

/// Path (canonical) and query (as sent); nothing else of the target goes on.
fn canonical_target(parts: &Parts, mode: PathMode) -> Result<Uri, Error> {
    let sent = parts.uri.path();
    if sent == "*" && parts.method == Method::OPTIONS {
        return Ok(Uri::from_static("*"));
    }
    // An absolute-form target may leave its path out (RFC 9112 §3.2.2).
    let sent = if sent.is_empty() && parts.uri.authority().is_some() { "/" } else { sent };
    target(sent, parts.uri.query(), mode)
}

fn target(sent: &str, query: Option<&str>, mode: PathMode) -> Result<Uri, Error> {
    let bad = |detail: String| Error::bad_request(Code::BadPath, detail);
    let canonical = path::normalize(sent, mode).map_err(|error| bad(format!("{sent:?}: {error}")))?;
    let target = match query {
        None => PathAndQuery::try_from(canonical.as_ref()),
        Some(query) => PathAndQuery::try_from(format!("{canonical}?{query}")),
    };
    let target = target.map_err(|error| bad(format!("{sent:?}: {error}")))?;
    if target.path() != canonical {
        return Err(bad(format!("{sent:?} does not read back as {canonical:?}")));
    }
    Ok(Uri::from(target))
}

const KNOWN_METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

#[cfg(test)]
mod tests;
