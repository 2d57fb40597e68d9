//! Cleans header and trailer fields in passing: what belongs to one hop ends here (RFC 9110 §7.6.1), what claims an
//! identity is removed in every spelling, and a `Connection` field that would make this proxy remove a security
//! header refuses the message.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, COOKIE, TE, UPGRADE},
};

/// The verified SPIFFE ID of the caller, set by the inbound sidecar for the application.
pub(crate) const PEER: HeaderName = HeaderName::from_static("x-sidegate-peer");
/// Names one request in every log.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Removes hop-by-hop fields. `Err` names the security header that `Connection` asked to remove, or shows a
/// `Connection` field that cannot be read.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) -> Result<(), String> {
    let keeps_trailers =
        headers.get_all(TE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in listed_by_connection(headers)? {
        headers.remove(name);
    }
    remove_all(headers, &HOP_BY_HOP);
    if keeps_trailers {
        // RFC 9110 §10.1.4: the one value that means the same on the next hop; gRPC needs it.
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}

/// Removes the fields of these names. Most messages have none of them: their own few names are looked at first, which costs less
/// than to look each of these up.
pub(super) fn remove_all(headers: &mut HeaderMap, names: &[HeaderName]) {
    if headers.keys().any(|name| names.contains(name)) {
        for name in names {
            headers.remove(name);
        }
    }
}

/// Refuses fields that two programs could read in two ways. CGI and WSGI turn hyphens into underscores, so `x_tenant` beside
/// `x-tenant`, or in place of a field that frames or authenticates, is a second reading; alone it is an ordinary name.
/// Blanks around a value are none of it in HTTP/1 and do not exist in HTTP/2 (RFC 9113 §8.2.1).
pub(crate) fn refuse_ambiguous(headers: &HeaderMap) -> Result<(), String> {
    for (name, value) in headers {
        if let Cow::Owned(plain) = hyphenated(name.as_str())
            && (headers.contains_key(&plain) || is_security(&plain) || is_hop_by_hop(&plain))
        {
            return Err(format!("{name}, which some read as {plain}"));
        }
        let bytes = value.as_bytes();
        if [bytes.first(), bytes.last()].into_iter().flatten().any(|byte| matches!(byte, b' ' | b'\t')) {
            return Err(format!("{name} has a value with blanks around it"));
        }
    }
    Ok(())
}

/// Removes every field that could pass for a statement about the caller's identity, and those by which some
/// frameworks let a client say that it meant another method or path than the one that is judged.
pub(crate) fn remove_identity(headers: &mut HeaderMap) {
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|name| claims_identity(name.as_str()) || overrides_request(name.as_str()))
        .cloned()
        .collect();
    for name in claims {
        headers.remove(name);
    }
}

/// Removes the trailer fields that RFC 9110 §6.5.1 forbids and those that claim an identity: a trailer is read after
/// the verdict, so nothing in it may change what was judged.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    let forbidden: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| {
            claims_identity(name.as_str()) || is_security(name.as_str()) || is_hop_by_hop(name.as_str())
        })
        .cloned()
        .collect();
    for name in forbidden {
        trailers.remove(name);
    }
}

/// Whether a route may change the field `name`, in lower case: neither what frames or addresses the message, nor what
/// belongs to one hop, nor what speaks of the caller or of another request than the one that is judged.
pub(crate) fn is_changeable(name: &str) -> bool {
    let plain = hyphenated(name);
    !(is_hop_by_hop(&plain)
        || claims_identity(&plain)
        || overrides_request(&plain)
        || FIXED.contains(&plain.as_ref()))
}

/// Joins cookie crumbs for HTTP/1.1 (RFC 9113 §8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let joined =
        headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, value);
    }
}

/// Says on one hop what [`remove_hop_by_hop`] has taken off of the other.
pub(super) fn insert_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

fn listed_by_connection(headers: &HeaderMap) -> Result<Vec<HeaderName>, String> {
    let mut listed = Vec::new();
    for value in headers.get_all(CONNECTION) {
        let list = value.to_str().map_err(|_| "Connection holds bytes that are not ASCII".to_owned())?;
        for option in list.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            let name = HeaderName::try_from(option)
                .map_err(|_| format!("Connection lists {option:?}, which is no header name"))?;
            if is_security(name.as_str()) || claims_identity(name.as_str()) {
                return Err(format!("Connection lists the security header {name}"));
            }
            listed.push(name);
        }
    }
    Ok(listed)
}

fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|hop| hop.as_str() == name)
}

/// Headers that decide about authentication, routing or framing.
fn is_security(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "authorization"
            | "cookie"
            | "set-cookie"
            | "content-length"
            | "content-type"
            | "content-encoding"
            | "content-range"
            | "x-request-id"
            | "traceparent"
            | "tracestate"
            | "max-forwards"
            | "cache-control"
    )
}

/// Applications read `x_forwarded_for` as `x-forwarded-for` (CGI, WSGI), so underscores count as hyphens.
fn claims_identity(name: &str) -> bool {
    let plain = hyphenated(name);
    IDENTITY.contains(&plain.as_ref()) || IDENTITY_PREFIXES.iter().any(|prefix| plain.starts_with(prefix))
}

/// Names with underscores are rare, and every name of every request is asked.
pub(crate) fn hyphenated(name: &str) -> Cow<'_, str> {
    if name.contains('_') { Cow::Owned(name.replace('_', "-")) } else { Cow::Borrowed(name) }
}

/// Symfony, Zend, IIS, Rails and Envoy read these.
fn overrides_request(name: &str) -> bool {
    let plain = hyphenated(name);
    OVERRIDES.contains(&plain.as_ref()) || OVERRIDE_PREFIXES.iter().any(|prefix| plain.starts_with(prefix))
}

const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    TE,
    http::header::TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];
/// RFC 7239, RFC 9440, and what Envoy and nginx write.
const IDENTITY: [&str; 4] = ["forwarded", "x-real-ip", "x-client-cert", "client-cert"];
/// What this sidecar writes itself, and what the next hop reads a message by.
const FIXED: [&str; 6] = ["host", "content-length", "expect", "max-forwards", "trailer", "x-request-id"];
const OVERRIDES: [&str; 5] =
    ["x-rewrite-url", "x-http-method", "x-http-method-override", "x-method-override", "x-http-path-override"];
const OVERRIDE_PREFIXES: [&str; 2] = ["x-original-", "x-envoy-"];
/// RFC 9440 has `client-cert-chain`, and proxies have more of its form.
const IDENTITY_PREFIXES: [&str; 4] = ["client-cert-", "x-forwarded-", "x-sidegate-", "x-ssl-client-"];

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| {
                (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    #[test]
    fn a_name_with_underscores_is_refused_where_it_could_be_read_as_another() {
        for list in [
            &[("x_tenant", "a"), ("x-tenant", "b")][..],
            &[("content_length", "5")],
            &[("transfer_encoding", "chunked")],
            &[("Authorization", "a"), ("x", "y"), ("host", "a"), ("content_type", "b")],
        ] {
            assert!(refuse_ambiguous(&fields(list)).is_err(), "{list:?}");
        }
        assert_eq!(refuse_ambiguous(&fields(&[("user_id", "1"), ("x-tenant", "b")])), Ok(()));
    }

    #[test]
    fn a_value_has_no_blanks_around_it() {
        for value in [" a", "a ", "\ta", "a\t", " "] {
            assert!(refuse_ambiguous(&fields(&[("x", value)])).is_err(), "{value:?}");
        }
        assert_eq!(refuse_ambiguous(&fields(&[("x", "a b"), ("y", "")])), Ok(()));
    }

    #[test]
    fn one_hop_ends_here() {
        let mut headers = fields(&[
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "secret"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAA"),
            ("accept", "*/*"),
        ]);
        remove_hop_by_hop(&mut headers).unwrap();
        assert_eq!(headers, fields(&[("accept", "*/*")]));
    }

    #[test]
    fn te_trailers_goes_on_because_grpc_needs_it() {
        let mut headers = fields(&[("te", "trailers")]);
        remove_hop_by_hop(&mut headers).unwrap();
        assert_eq!(headers, fields(&[("te", "trailers")]));
    }

    #[test]
    fn connection_cannot_be_used_to_strip_a_security_header() {
        for listed in ["authorization", "Cookie", "close, X-Forwarded-For", "x_sidegate_peer", "host"] {
            let mut headers = fields(&[("connection", listed), ("authorization", "Bearer x")]);
            assert!(remove_hop_by_hop(&mut headers).is_err(), "{listed}");
        }
    }

    #[test]
    fn identity_claims_are_removed_in_every_spelling() {
        for name in [
            "x-forwarded-client-cert",
            "X-Forwarded-Client-Cert",
            "x_forwarded_client_cert",
            "x-forwarded_for",
            "forwarded",
            "client-cert",
            "Client_Cert_Chain",
            "client-cert-subject",
            "x-sidegate-peer",
            "x_sidegate_peer",
            "x-real-ip",
            "x-ssl-client-cert",
            "x-original-url",
            "X_Http_Method_Override",
            "x-envoy-original-path",
        ] {
            let mut headers = fields(&[(name, "spiffe://shop.test/ns/shop/sa/admin"), ("accept", "*/*")]);
            remove_identity(&mut headers);
            assert_eq!(headers, fields(&[("accept", "*/*")]), "{name}");
        }
        for name in ["client-certain", "x-forwarded", "client-id"] {
            let mut headers = fields(&[(name, "a")]);
            remove_identity(&mut headers);
            assert_eq!(headers, fields(&[(name, "a")]), "{name}");
        }
    }

    #[test]
    fn trailers_carry_no_statement_that_was_not_judged() {
        let mut trailers = fields(&[
            ("grpc-status", "0"),
            ("x-checksum", "abc"),
            ("authorization", "Bearer x"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("x-forwarded-client-cert", "x"),
            ("host", "evil"),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(trailers, fields(&[("grpc-status", "0"), ("x-checksum", "abc")]));
    }

    #[test]
    fn cookie_crumbs_become_one_line() {
        let mut headers = fields(&[("cookie", "a=1"), ("cookie", "b=2")]);
        join_cookies(&mut headers);
        assert_eq!(headers, fields(&[("cookie", "a=1; b=2")]));
    }
}
