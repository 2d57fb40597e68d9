//! Tells an application to ask elsewhere.

use http::{HeaderValue, Response, header::LOCATION};
use http_body::Body;
use sidegate_codes::Code;

use super::change;
use crate::{
    config::Redirect,
    error::Error,
    http::Checked,
    upstream::{Answer, Leased},
};

/// The answer of this sidecar itself: a status and a `Location`, and no body.
pub(super) fn answer<B: Body>(
    redirect: &Redirect,
    prefix: usize,
    request: &Checked<B>,
) -> Result<Answer, Error> {
    let location = location(redirect, prefix, request);
    let location = HeaderValue::try_from(&location)
        .map_err(|_| Error::bad_request(Code::BadPath, format!("{location:?} cannot be redirected to")))?;
    let mut response = Response::new(Leased::nothing());
    *response.status_mut() = redirect.status;
    response.headers_mut().insert(LOCATION, location);
    Ok(Answer { response, peer: None, opening: None })
}

/// What the redirect says, and what it leaves out as it was asked. Applications speak plaintext here, so `http` was.
fn location<B: Body>(redirect: &Redirect, prefix: usize, request: &Checked<B>) -> String {
    let scheme = redirect.scheme.unwrap_or("http");
    let host = redirect.hostname.as_deref().unwrap_or_else(|| request.host());
    // A scheme that is named brings its own port (HTTPRequestRedirectFilter.port).
    let port = redirect.port.or_else(|| if redirect.scheme.is_none() { request.port() } else { None });
    let port = match (scheme, port) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => String::new(),
        (_, Some(port)) => format!(":{port}"),
    };
    let changed = redirect.path.as_ref().and_then(|to| change::path(request.path(), prefix, to));
    let path = changed.as_deref().unwrap_or_else(|| request.path());
    let query = request.query().map_or_else(String::new, |query| format!("?{query}"));
    format!("{scheme}://{host}{port}{path}{query}")
}
