//! What was answered: an OK with changes that the configuration allows, or an objection. An answer without a status, one that
//! contradicts itself, and one that asks for a change that is not allowed, or not made here, are refused whole: half an answer
//! is another answer.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sidegate_proto::external_authorization::{
    CheckResponse, DeniedHttpResponse, HeaderValueOption, OkHttpResponse, check_response::HttpResponse,
};

use super::{Objection, Outcome, shortened};
use crate::{config::ExternalAuthorization, http::hyphenated};

/// What an OK changes in the request.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    set: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

impl Changes {
    pub(super) fn of(
        answer: CheckResponse,
        config: &ExternalAuthorization,
        is_http: bool,
    ) -> Result<Self, Objection> {
        // Envoy takes this for an OK, as protocol buffers cannot tell it from one in the oldest versions.
        let status = answer.status.ok_or_else(|| bad("it has no status"))?;
        match (status.code, answer.http_response) {
            (0, Some(HttpResponse::OkResponse(ok))) => Self::allowed(ok, config, is_http),
            (0, None) => Ok(Self::default()),
            (0, Some(HttpResponse::DeniedResponse(_))) => {
                Err(bad("its status is OK and its response a denial"))
            }
            (code, response) => Err(denied(code, &status.message, response.as_ref())),
        }
    }

    /// Puts them into the request, from which everything that may be set has been taken.
    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        for name in self.remove {
            headers.remove(name);
        }
        for (name, value) in self.set {
            headers.append(name, value);
        }
    }

    fn allowed(ok: OkHttpResponse, config: &ExternalAuthorization, is_http: bool) -> Result<Self, Objection> {
        let asks = |what: &str| bad(format!("it asks to {what}, which is not done here"));
        if !ok.response_headers_to_add.is_empty() {
            return Err(asks("change the answer"));
        }
        if !ok.query_parameters_to_set.is_empty() || !ok.query_parameters_to_remove.is_empty() {
            return Err(asks("change the query"));
        }
        let changes_nothing = ok.headers.is_empty() && ok.headers_to_remove.is_empty();
        if !is_http && !changes_nothing {
            return Err(asks("change header fields of an opaque connection"));
        }
        let set = ok.headers.into_iter().map(|option| field(option, &config.set_headers));
        let remove =
            ok.headers_to_remove.iter().map(|name| named(name, &config.remove_headers, "removeHeaders"));
        Ok(Self { set: set.collect::<Result<_, _>>()?, remove: remove.collect::<Result<_, _>>()? })
    }
}

/// Takes off of a request what nobody but the server says, in every spelling.
pub(crate) fn take_off(headers: &mut HeaderMap, names: &[HeaderName]) {
    let is_set =
        |name: &HeaderName| names.iter().any(|set| hyphenated(set.as_str()) == hyphenated(name.as_str()));
    let sent: Vec<HeaderName> = headers.keys().filter(|name| is_set(name)).cloned().collect();
    for name in sent {
        headers.remove(name);
    }
}

fn field(option: HeaderValueOption, allowed: &[HeaderName]) -> Result<(HeaderName, HeaderValue), Objection> {
    let header = option.header.ok_or_else(|| bad("it sets a field without a name"))?;
    let name = named(&header.key, allowed, "setHeaders")?;
    if !matches!(option.append_action, ADD | OVERWRITE) {
        return Err(bad(format!("it sets {name} on a condition")));
    }
    let value = match (header.value, header.raw_value) {
        (text, raw) if raw.is_empty() => text.into_bytes(),
        (text, raw) if text.is_empty() => raw,
        _ => return Err(bad(format!("it sets {name} to two values"))),
    };
    let is_clean = value.trim_ascii() == value;
    match HeaderValue::try_from(value) {
        Ok(value) if is_clean => Ok((name, value)),
        _ => Err(bad(format!("the value that it sets {name} to is none"))),
    }
}

fn named(name: &str, allowed: &[HeaderName], list: &str) -> Result<HeaderName, Objection> {
    // HTTP does not tell cases apart.
    let parsed = HeaderName::try_from(name).ok().filter(|parsed| allowed.contains(parsed));
    parsed.ok_or_else(|| bad(format!("it changes {:?}, which is not in {list}", shortened(name))))
}

fn denied(code: i32, message: &str, response: Option<&HttpResponse>) -> Objection {
    let mut detail = format!("denied with status {code}");
    if !message.is_empty() {
        detail = format!("{detail}: {}", shortened(message));
    }
    let status = match response {
        Some(HttpResponse::DeniedResponse(DeniedHttpResponse { status: Some(status) })) => {
            u16::try_from(status.code).ok().and_then(|code| StatusCode::from_u16(code).ok())
        }
        _ => None,
    };
    // A success or a redirect would say that something else happened.
    Objection { outcome: Outcome::Denied, detail, status: status.filter(StatusCode::is_client_error) }
}

fn bad(detail: impl Into<String>) -> Objection {
    Objection::new(Outcome::BadAnswer, format!("its answer cannot be followed: {}", detail.into()))
}

/// `APPEND_IF_EXISTS_OR_ADD` and `OVERWRITE_IF_EXISTS_OR_ADD`: the same, as what the caller sent has been taken off.
const ADD: i32 = 0;
const OVERWRITE: i32 = 2;
