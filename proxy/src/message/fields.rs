//! Fields of heads and trailers, from bytes and to bytes.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Version, header::CONNECTION};
use httparse::{Header, Status};

use super::{Broken, Most};

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
pub(crate) fn map(
    fields: &[Header<'_>],
    bytes: &[u8],
    length: usize,
    most: Most,
) -> Result<HeaderMap, Broken> {
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

/// Whether a `Connection` field has this option.
pub(crate) fn says(fields: &HeaderMap, option: &str) -> bool {
    let values = fields.get_all(CONNECTION);
    let mut options = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    options.any(|said| said.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
}

/// Whether the connection may carry another message (RFC 9112 §9.3).
pub(crate) fn keeps_alive(fields: &HeaderMap, version: Version) -> bool {
    !says(fields, "close") && (version > Version::HTTP_10 || says(fields, "keep-alive"))
}

/// A length that is digits alone, and no list of them.
pub(crate) fn plain_length(value: &HeaderValue) -> Option<u64> {
    let digits = value.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// RFC 9112 §5.
pub(crate) fn write_fields(out: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Lends `parse` room for one field more than there may be, so that what is over is known as that.
pub(crate) fn with_room<'b, T>(most: Most, parse: impl FnOnce(&mut [MaybeUninit<Header<'b>>]) -> T) -> T {
    if most.fields < USUAL {
        parse(&mut [const { MaybeUninit::uninit() }; USUAL])
    } else {
        parse(&mut vec![MaybeUninit::uninit(); most.fields.saturating_add(1)])
    }
}

/// The length of a head of which `read` bytes were parsed; `None` if it is not complete.
pub(crate) fn complete(
    parsed: httparse::Result<usize>,
    read: usize,
    most: Most,
) -> Result<Option<usize>, Broken> {
    match parsed {
        Ok(Status::Complete(length)) if length <= most.bytes => Ok(Some(length)),
        Ok(Status::Partial) if read <= most.bytes => Ok(None),
        Ok(_) => Err(Broken::TooLarge),
        Err(error) => Err(broken(error)),
    }
}

/// As a head that is complete says it.
pub(crate) fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 }
}

fn broken(error: httparse::Error) -> Broken {
    match error {
        httparse::Error::TooManyHeaders => Broken::TooLarge,
        error => Broken::Head(error),
    }
}

/// Fields for which there is room on the stack.
const USUAL: usize = 128;
