//! What first bytes say, by themselves: pure, and with the same answer for every split of the bytes.

use super::Detected;

/// What `bytes` begin; `None` while more bytes could decide otherwise.
pub fn classify(bytes: &[u8]) -> Option<Detected> {
    if bytes.starts_with(HTTP2_PREFACE) {
        return Some(Detected::Http2);
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return None;
    }
    classify_http1(bytes)
}

/// RFC 9112 §3: method SP request-target SP HTTP-version CRLF.
fn classify_http1(bytes: &[u8]) -> Option<Detected> {
    // Empty lines before the request line are skipped by servers (RFC 9112 §2.2).
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    if start > MOST_BLANKS {
        return Some(Detected::Opaque);
    }
    let line = &bytes[start..];
    if line.is_empty() {
        return None;
    }
    let method = line.iter().position(|byte| !is_method_byte(*byte)).unwrap_or(line.len());
    if method > LONGEST_METHOD || (method < line.len() && (method == 0 || line[method] != b' ')) {
        return Some(Detected::Opaque);
    }
    match line.iter().position(|byte| *byte == b'\n') {
        None if line.len() >= LONGEST_LINE => Some(Detected::Opaque),
        None => None,
        Some(end) => {
            let line = line[..end].trim_ascii_end();
            let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
            let is_http = matches!(version, b"HTTP/1.1" | b"HTTP/1.0");
            Some(if is_http { Detected::Http1 } else { Detected::Opaque })
        }
    }
}

/// A word and a blank: a longer line could still end in a version.
pub(super) fn begins_like_a_request(line: &[u8]) -> bool {
    let method = line.iter().position(|byte| !is_method_byte(*byte)).unwrap_or(line.len());
    (1..=LONGEST_METHOD).contains(&method) && line.get(method).is_some_and(u8::is_ascii_whitespace)
}

fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_')
}

/// RFC 9113 §3.4.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const LONGEST_METHOD: usize = 24;
/// Two empty lines.
const MOST_BLANKS: usize = 4;
/// As long as a request line may be that is still recognised without a declared protocol.
pub(super) const LONGEST_LINE: usize = 16 * 1024;
