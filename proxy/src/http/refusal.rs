//! How a refusal is told: to the downstream a status, one word and the request id; everything else goes into the record.

use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};

use super::{body::ResponseBody, headers};
use crate::{error::Error, telemetry::Record};

/// What the downstream reads of a refusal: one word and the id under which the log explains it. The record is written
/// and the place among the requests is free at once, however slowly the refusal is read.
pub(super) fn refuse(
    error: &Error,
    is_grpc: bool,
    id: &HeaderValue,
    mut record: Record,
) -> Response<ResponseBody> {
    let shown = id.to_str().unwrap_or_default();
    let (status, kind, text) = if is_grpc {
        (StatusCode::OK, "application/grpc", String::new())
    } else {
        (error.status(), "text/plain; charset=utf-8", format!("{} (request id {shown})\n", error.public()))
    };
    record.answered(status);
    record.failed(error);
    drop(record);
    let mut response = Response::new(ResponseBody::text(text));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(headers::REQUEST_ID, id.clone());
    if error.status() == StatusCode::UNAUTHORIZED {
        // RFC 6750 §3.1, and no more than that.
        fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""));
    }
    if let Some(seconds) = error.retry_after() {
        fields.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if is_grpc {
        fields.insert("grpc-status", HeaderValue::from(grpc_status(error.status())));
        fields.insert("grpc-message", HeaderValue::from_static(error.public()));
    }
    response
}

/// <https://grpc.io/docs/guides/status-codes/>
pub(super) fn grpc_status(status: StatusCode) -> u16 {
    match status {
        StatusCode::FORBIDDEN => 7,
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::GATEWAY_TIMEOUT => 4,
        StatusCode::TOO_MANY_REQUESTS => 8,
        StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => 12,
        StatusCode::BAD_REQUEST
        | StatusCode::EXPECTATION_FAILED
        | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => 13,
        _ => 14,
    }
}
