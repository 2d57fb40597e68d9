//! The head of a request: parsed by httparse, and what of it matters to its connection.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderValue, Method, Request, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE},
};
use httparse::{Header, ParserConfig};

use crate::{
    http::expect,
    message::{Broken, Framing, Most, complete, keeps_alive, map, plain_length, version, with_room},
};

/// What a request asks of its connection.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the head, and none depends on another")]
pub(super) struct Asked {
    pub(super) version: Version,
    pub(super) framing: Framing,
    pub(super) is_head: bool,
    is_connect: bool,
    /// A CONNECT, or a request with `Upgrade`.
    pub(super) may_become_tunnel: bool,
    pub(super) expects_continue: bool,
    pub(super) wants_trailers: bool,
    pub(super) keeps_alive: bool,
}

/// What cannot be read asks for nothing more.
impl Default for Asked {
    fn default() -> Self {
        Self {
            version: Version::HTTP_11,
            framing: Framing::Length(0),
            is_head: false,
            is_connect: false,
            may_become_tunnel: false,
            expects_continue: false,
            wants_trailers: false,
            keeps_alive: false,
        }
    }
}

impl Asked {
    /// By this head, and where it says that its body ends.
    fn by(head: &Request<()>, framing: Framing) -> Self {
        let (fields, version) = (head.headers(), head.version());
        let is_connect = head.method() == Method::CONNECT;
        Self {
            version,
            framing,
            is_head: head.method() == Method::HEAD,
            is_connect,
            may_become_tunnel: is_connect || fields.contains_key(UPGRADE),
            // Whatever else is expected is refused by whoever judges the request.
            expects_continue: version > Version::HTTP_10 && expect::is_expected(fields).unwrap_or(false),
            wants_trailers: fields.get_all(TE).iter().any(|value| {
                value
                    .as_bytes()
                    .split(|byte| *byte == b',')
                    .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
            }),
            keeps_alive: keeps_alive(fields, version),
        }
    }

    /// Whether an answer of this status makes a tunnel of the connection.
    pub(super) fn is_switched_by(self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || (self.is_connect && status.is_success())
    }
}

/// A head, and what it asks.
pub(super) type Head = (Request<()>, Asked);

/// Takes a head off the front of `bytes`; `None` if it is not complete.
pub(super) fn take(bytes: &mut BytesMut, most: Most) -> Result<Option<Head>, Broken> {
    let parsed = with_room(most, |fields| parse(bytes, fields, most))?;
    let Some((head, length)) = parsed else { return Ok(None) };
    bytes.advance(length);
    let asked = Asked::by(&head, framing(&head)?);
    Ok(Some((head, asked)))
}

fn parse<'b>(
    bytes: &'b [u8],
    fields: &mut [MaybeUninit<Header<'b>>],
    most: Most,
) -> Result<Option<(Request<()>, usize)>, Broken> {
    let mut parsed = httparse::Request::new(&mut []);
    let parser = ParserConfig::default();
    let result = parser.parse_request_with_uninit_headers(&mut parsed, bytes, fields);
    let Some(length) = complete(result, bytes.len(), most)? else { return Ok(None) };
    let mut head = Request::new(());
    *head.method_mut() = parsed
        .method
        .and_then(|method| Method::from_bytes(method.as_bytes()).ok())
        .ok_or(Broken::Framing("a method that cannot be read"))?;
    *head.uri_mut() = parsed
        .path
        .and_then(|target| Uri::from_maybe_shared(Bytes::copy_from_slice(target.as_bytes())).ok())
        .ok_or(Broken::Framing("a target that cannot be read"))?;
    *head.version_mut() = version(parsed.version);
    *head.headers_mut() = map(parsed.headers, bytes, length, most)?;
    Ok(Some((head, length)))
}

/// RFC 9112 §6.3, without what a request could be read by in another way: the guard has refused that before.
fn framing(head: &Request<()>) -> Result<Framing, Broken> {
    let fields = head.headers();
    let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter();
    match (codings.next(), codings.next(), lengths.next(), lengths.next()) {
        (None, _, None, _) => Ok(Framing::Length(0)),
        (None, _, Some(length), None) => plain_length(length)
            .map(Framing::Length)
            .ok_or(Broken::Framing("Content-Length is not one number")),
        (Some(coding), None, None, _) if is_chunked(coding) && head.version() > Version::HTTP_10 => {
            Ok(Framing::Chunked)
        }
        _ => Err(Broken::Framing("more than one framing, or one that is not known")),
    }
}

fn is_chunked(coding: &HeaderValue) -> bool {
    coding.as_bytes().eq_ignore_ascii_case(b"chunked")
}
