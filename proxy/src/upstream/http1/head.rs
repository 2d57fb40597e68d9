//! The head of an answer, and how its body ends (RFC 9112 §6.3).

use std::mem::MaybeUninit;

use bytes::{Buf, BytesMut};
use http::{
    HeaderValue, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use httparse::{Header, ParserConfig};

use crate::message::{Broken, Framing, Most, complete, keeps_alive, map, plain_length, version, with_room};

/// A head that is complete.
#[derive(Debug)]
pub(super) struct Head(Response<()>);

impl Head {
    /// Takes a head off the front of `bytes`; `None` if it is not complete.
    pub(super) fn take(bytes: &mut BytesMut, most: Most) -> Result<Option<Self>, Broken> {
        let parsed = with_room(most, |fields| Self::parse(bytes, fields, most))?;
        let Some((head, length)) = parsed else { return Ok(None) };
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
        let result = parser.parse_response_with_uninit_headers(&mut parsed, bytes, fields);
        let Some(length) = complete(result, bytes.len(), most)? else { return Ok(None) };
        let mut response = Response::new(());
        *response.version_mut() = version(parsed.version);
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
        let mut lengths = fields.get_all(CONTENT_LENGTH).iter().map(plain_length);
        match lengths.next() {
            None => Ok(Framing::Close),
            Some(Some(length)) if lengths.all(|other| other == Some(length)) => Ok(Framing::Length(length)),
            Some(_) => Err(Broken::Framing("Content-Length is not one number")),
        }
    }

    /// Whether the connection may serve another request.
    pub(super) fn keeps_alive(&self) -> bool {
        keeps_alive(self.0.headers(), self.0.version())
    }

    pub(super) fn into_response<B>(self, body: B) -> Response<B> {
        self.0.map(|()| body)
    }
}

fn is_chunked(coding: &HeaderValue) -> bool {
    let last = coding.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default();
    last.trim_ascii().eq_ignore_ascii_case(b"chunked")
}
