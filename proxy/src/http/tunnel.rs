//! The tunnel that a CONNECT asks for (RFC 9110 §9.3.6): its request goes in, the one host that it names comes out. What
//! is ambiguous is refused, and so is anything that could pass for a request's body: the bytes of a tunnel are sent on
//! only after its answer.

use http::{
    HeaderValue, Method, Request,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
};
use sidegate_codes::Code;

use super::authority::Authority;
use crate::error::Error;

/// Whether `request` asks for a tunnel, and not for another protocol by the extended CONNECT of RFC 8441.
pub(super) fn is_asked_for<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT && request.extensions().get::<hyper::ext::Protocol>().is_none()
}

/// The host that `request` wants to be connected to, as requests name it. RFC 9112 §3.2.3 wants a port with it.
pub(crate) fn host<B>(request: &Request<B>) -> Result<String, Error> {
    target(request).map(|(host, _)| host)
}

/// The same with the port.
pub(crate) fn target<B>(request: &Request<B>) -> Result<(String, u16), Error> {
    let bad = |detail: String| Error::bad_request(Code::BadAuthority, detail);
    let fields = request.headers();
    if fields.contains_key(CONTENT_LENGTH) || fields.contains_key(TRANSFER_ENCODING) {
        return Err(Error::bad_request(Code::BadFraming, "a CONNECT with a body"));
    }
    let named = request.uri().authority().map(http::uri::Authority::as_str);
    let hosts = fields.get_all(HOST).iter().map(HeaderValue::as_bytes);
    let authority = Authority::agree(named, hosts).map_err(|error| bad(error.to_string()))?;
    match (named, authority.port()) {
        (Some(_), Some(port)) => Ok((authority.host().to_owned(), port)),
        _ => Err(bad(format!("a CONNECT to {authority}, which is not host:port"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(target: &str, fields: &[(&'static str, &'static str)]) -> Result<String, Code> {
        let mut request = Request::builder().method("CONNECT").uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        host(&request.body(()).unwrap()).map_err(|error| error.code())
    }

    #[test]
    fn a_tunnel_leads_to_the_one_host_that_is_named() {
        assert_eq!(named("Payments.:443", &[]).as_deref(), Ok("payments"));
        assert_eq!(named("payments:8443", &[("host", "payments:8443")]).as_deref(), Ok("payments"));
        assert_eq!(named("[fd00:0::7]:80", &[]).as_deref(), Ok("[fd00::7]"));
    }

    #[test]
    fn a_tunnel_to_two_hosts_to_none_or_with_a_body_is_refused() {
        for (target, fields, want) in [
            ("payments", &[][..], Code::BadAuthority),
            ("payments:0", &[], Code::BadAuthority),
            ("user@payments:443", &[], Code::BadAuthority),
            ("/payments:443", &[("host", "payments:443")], Code::BadAuthority),
            ("payments:443", &[("host", "stock:443")], Code::BadAuthority),
            ("payments:443", &[("host", "payments:444")], Code::BadAuthority),
            ("payments:443", &[("content-length", "0")], Code::BadFraming),
            ("payments:443", &[("transfer-encoding", "chunked")], Code::BadFraming),
        ] {
            assert_eq!(named(target, fields), Err(want), "{target} {fields:?}");
        }
    }
}
