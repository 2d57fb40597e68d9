//! The head of an answer as it goes downstream: where its body ends, whether the connection goes on, and what a server has to say
//! in each answer.

use std::{
    cell::RefCell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{
    HeaderMap, HeaderValue, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING},
    response::Parts,
};
use http_body::Body;

use super::{Asked, Ends};
use crate::message::{plain_length, says, write_fields};

/// Where the `body` of an answer to such a request ends, said in its fields, and whether the connection goes on if it `is_open`.
pub(super) fn framed(asked: Asked, parts: &mut Parts, body: &impl Body, is_open: bool) -> (Ends, bool) {
    let ends = ends(asked, parts, body);
    let fields = &mut parts.headers;
    let keeps_alive = is_open && asked.keeps_alive && ends != Ends::Close && !says(fields, "close");
    if asked.is_switched_by(parts.status) {
        return (ends, keeps_alive);
    }
    if !keeps_alive {
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
    } else if asked.version == Version::HTTP_10 {
        fields.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
    }
    (ends, keeps_alive)
}

/// RFC 9112 §6.3 and RFC 9110 §8.6.
fn ends(asked: Asked, parts: &mut Parts, body: &impl Body) -> Ends {
    let fields = &mut parts.headers;
    fields.remove(TRANSFER_ENCODING);
    if parts.status.is_informational()
        || parts.status == StatusCode::NO_CONTENT
        || asked.is_switched_by(parts.status)
    {
        fields.remove(CONTENT_LENGTH);
        return Ends::Length(0);
    }
    if asked.is_head || parts.status == StatusCode::NOT_MODIFIED {
        // What it says is the length of what it would have been.
        say_once(fields, None);
        return Ends::Length(0);
    }
    if let Some(length) = body.size_hint().exact() {
        say_once(fields, Some(length));
        return Ends::Length(length);
    }
    fields.remove(CONTENT_LENGTH);
    if asked.version == Version::HTTP_10 {
        return Ends::Close;
    }
    fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    Ends::Chunked { with_trailers: asked.wants_trailers }
}

/// One Content-Length, which is `length` or else the first that there is.
fn say_once(fields: &mut HeaderMap, length: Option<u64>) {
    let mut said = fields.get_all(CONTENT_LENGTH).iter();
    let (first, is_doubled) = (said.next().and_then(plain_length), said.next().is_some());
    if let Some(length) = length.or(first).filter(|length| is_doubled || first != Some(*length)) {
        fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// RFC 9112 §4, with the date that an origin server must say (RFC 9110 §6.6.1) where it has not.
pub(super) fn head(version: Version, parts: &Parts) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD);
    out.extend_from_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(parts.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(parts.status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    write_fields(&mut out, &parts.headers);
    if !parts.headers.contains_key(DATE) && !parts.status.is_informational() {
        out.extend_from_slice(b"date: ");
        write_date(&mut out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Now, as it was written first in this second.
fn write_date(out: &mut Vec<u8>) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    DATE_NOW.with_borrow_mut(|(second, date)| {
        if *second != since.as_secs() || date.is_empty() {
            *second = since.as_secs();
            *date = httpdate::fmt_http_date(UNIX_EPOCH + since);
        }
        out.extend_from_slice(date.as_bytes());
    });
}

thread_local! {
    static DATE_NOW: RefCell<(u64, String)> = RefCell::default();
}

/// Room for most heads.
const HEAD: usize = 512;
