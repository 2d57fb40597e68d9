//! The head of an answer: parsed by httparse into fields that share the bytes they came in, and how its body ends
//! (RFC 9112 §6.3).

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};
use httparse::{Header, ParserConfig, Status};

use super::{Broken, Most};

/// A head that is complete.
#[derive(Debug)]
pub(super) struct Head(Response<()>);

/// How the body behind a head ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

impl Head {
    /// Takes a head off the front of `bytes`; `None` if it is not complete.
    pub(super) fn take(bytes: &mut BytesMut, most: Most) -> Result<Option<Self>, Broken> {
        // One more than there may be, so that what is over is known as that.
        let parsed = if most.fields < USUAL {
            Self::parse(bytes, &mut [const { MaybeUninit::uninit() }; USUAL], most)
        } else {
            Self::parse(bytes, &mut vec![MaybeUninit::uninit(); most.fields.saturating_add(1)], most)
        };
        let Some((head, length)) = parsed? else { return Ok(None) };
        bytes.advance(length);
        Ok(Some(head))
    }

    fn parse<'b>(
        bytes: &'b [u8],
        fields: &mut [MaybeUninit<Header<'b>>],
        most: Most,
    ) -> Result<Option<(Self, usize)>, Broken> {
        let mut parsed = httparse::Response::new(&mut []);
        let parser = ParserConfig::default();
        let length = match parser.parse_response_with_uninit_headers(&mut parsed, bytes, fields) {
            Ok(Status::Complete(length)) if length <= most.bytes => length,
            Ok(Status::Partial) if bytes.len() <= most.bytes => return Ok(None),
            Ok(_) => return Err(Broken::TooLarge),
            Err(error) => return Err(broken(error)),
        };
        let mut response = Response::new(());
        *response.version_mut() = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
        *response.status_mut() = parsed
            .code
            .and_then(|code| StatusCode::from_u16(code).ok())
            .ok_or(Broken::Head(httparse::Error::Status))?;
        *response.headers_mut() = map(parsed.headers, bytes, length, most)?;
        Ok(Some((Self(response), length)))
    }

    pub(super) fn status(&self) -> StatusCode {
        self.0.status()
    }

    /// Whether the answer itself is still to come (RFC 9110 §15.2).
    pub(super) fn is_interim(&self) -> bool {
        self.status().is_informational() && self.status() != StatusCode::SWITCHING_PROTOCOLS
    }

    /// How its body ends. `is_head`: it answers a HEAD.
    pub(super) fn framing(&self, is_head: bool) -> Result<Framing, Broken> {
        let has_none = self.status().is_informational()
            || matches!(self.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if is_head || has_none {
            return Ok(Framing::Length(0));
        }
        let fields = self.0.headers();
        if let Some(coding) = fields.get_all(TRANSFER_ENCODING).iter().next_back() {
            if self.0.version() == Version::HTTP_10 {
                return Err(Broken::Framing("a Transfer-Encoding in HTTP/1.0"));
            }
            // Of several the last decides; whoever passes the answer on refuses what is not this one alone.
            return Ok(if is_chunked(coding) { Framing::Chunked } else { Framing::Close });
        }
        let mut lengths = fields.get_all(CONTENT_LENGTH).iter().map(length);
        match lengths.next() {
            None => Ok(Framing::Close),
            Some(Some(length)) if lengths.all(|other| other == Some(length)) => Ok(Framing::Length(length)),
            Some(_) => Err(Broken::Framing("Content-Length is not one number")),
        }
    }

    /// Whether the connection may serve another request (RFC 9112 §9.3).
    pub(super) fn keeps_alive(&self) -> bool {
        let says = |option: &str| {
            let values = self.0.headers().get_all(CONNECTION);
            let mut options = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
            options.any(|said| said.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
        };
        if self.0.version() == Version::HTTP_10 {
            says("keep-alive") && !says("close")
        } else {
            !says("close")
        }
    }

    pub(super) fn into_response<B>(self, body: B) -> Response<B> {
        self.0.map(|()| body)
    }
}

/// Takes trailers off the front of `bytes`; `None` if they are not complete.
pub(super) fn take_trailers(bytes: &mut BytesMut, most: Most) -> Result<Option<HeaderMap>, Broken> {
    let mut fields = vec![httparse::EMPTY_HEADER; most.fields.saturating_add(1)];
    let (trailers, length) = match httparse::parse_headers(bytes, &mut fields) {
        Ok(Status::Complete((length, fields))) if length <= most.bytes => {
            (map(fields, bytes, length, most)?, length)
        }
        Ok(Status::Partial) if bytes.len() <= most.bytes => return Ok(None),
        Ok(_) => return Err(Broken::TooLarge),
        Err(error) => return Err(broken(error)),
    };
    drop(fields);
    bytes.advance(length);
    Ok(Some(trailers))
}

/// The `fields` of the first `length` of `bytes`. Their values share one copy of these.
fn map(fields: &[Header<'_>], bytes: &[u8], length: usize, most: Most) -> Result<HeaderMap, Broken> {
    if fields.len() > most.fields {
        return Err(Broken::TooLarge);
    }
    let shared = Bytes::copy_from_slice(&bytes[..length]);
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let at = field.value.as_ptr().addr().saturating_sub(bytes.as_ptr().addr());
        let value = HeaderValue::from_maybe_shared(match field.value {
            [] => Bytes::new(),
            value => shared.slice(at..at + value.len()),
        });
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Broken::Framing("a field that cannot be sent on"));
        };
        map.append(name, value);
    }
    Ok(map)
}

fn broken(error: httparse::Error) -> Broken {
    match error {
        httparse::Error::TooManyHeaders => Broken::TooLarge,
        error => Broken::Head(error),
    }
}

fn is_chunked(coding: &HeaderValue) -> bool {
    let last = coding.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default();
    last.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

/// Digits alone, and no list of them.
fn length(value: &HeaderValue) -> Option<u64> {
    let digits = value.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Fields for which there is room on the stack.
const USUAL: usize = 128;
