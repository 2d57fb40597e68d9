//! Reads a request path: the bytes of the request target before `?` in, one canonical path out, or a refusal.
//! Pure and idempotent. Policy judges the result and the application receives exactly the result.
//!
//! In both modes: only visible ASCII, no backslash, well-formed percent-encoding of UTF-8, no encoded NUL, control
//! character or backslash, nothing encoded twice; encoded unreserved characters are decoded and the remaining
//! triplets upper-cased (RFC 3986 §6.2.2). `strict` refuses dot segments, empty segments, `;` parameters and encoded
//! slashes; `compatible` resolves dot segments and doubled slashes and keeps the rest as bytes of their
//! segment, unless a backend that cuts parameters or decodes slashes would find another dot segment there.

use std::borrow::Cow;

use crate::config::PathMode;

/// Why a path has no single reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// `*` and absolute forms among them: what may be said so is the caller's to know.
    #[error("it does not begin with a slash")]
    NotAbsolute,
    /// One that RFC 3986 keeps out of paths, or a backslash.
    #[error("byte {0:#04x} does not belong in a path")]
    Byte(u8),
    /// Cut short, or not hexadecimal.
    #[error("a percent sign without two hexadecimal digits")]
    Percent,
    /// NUL, another control character, a backslash; in `strict` a slash.
    #[error("%{0:02X} is not carried in a path")]
    Encoded(u8),
    /// A second decoding would find another path.
    #[error("something is percent-encoded twice")]
    Twice,
    /// Overlong sequences among them.
    #[error("the percent-encoded bytes are not UTF-8")]
    NotUtf8,
    /// In `strict` any; in `compatible` one that hides behind `;` or `%2F`.
    #[error("a dot segment")]
    DotSegment,
    /// `compatible` resolves the others.
    #[error("a dot segment that leads above the root")]
    AboveRoot,
    /// In `strict` any but the last; in `compatible` one that hides.
    #[error("an empty segment")]
    EmptySegment,
    /// `strict` alone refuses it.
    #[error("a path parameter (;)")]
    Parameter,
}

/// The one path that `path` means.
pub fn normalize(path: &str, mode: PathMode) -> Result<Cow<'_, str>, BadPath> {
    if !path.starts_with('/') {
        return Err(BadPath::NotAbsolute);
    }
    let decoded = decode(path, mode)?;
    check_utf8(&decoded)?;
    match mode {
        PathMode::Strict => {
            refuse_ambiguous_segments(&decoded)?;
            Ok(decoded)
        }
        PathMode::Compatible => resolve_segments(decoded),
    }
}

/// Decodes encoded unreserved characters, upper-cases the other triplets and checks every byte.
fn decode(path: &str, mode: PathMode) -> Result<Cow<'_, str>, BadPath> {
    check_bytes(path, mode)?;
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let mut canonical = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        canonical.push_str(before);
        let byte = triplet(after).ok_or(BadPath::Percent)?;
        rest = after.get(2..).ok_or(BadPath::Percent)?;
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                canonical.push(char::from(byte));
            }
            0..=0x1F | 0x7F | b'\\' => return Err(BadPath::Encoded(byte)),
            b'/' if mode == PathMode::Strict => return Err(BadPath::Encoded(byte)),
            _ => {
                canonical.push('%');
                canonical.push(HEX[usize::from(byte >> 4)]);
                canonical.push(HEX[usize::from(byte & 0xF)]);
            }
        }
    }
    canonical.push_str(rest);
    if is_encoded_twice(&canonical) {
        return Err(BadPath::Twice);
    }
    Ok(Cow::Owned(canonical))
}

/// Of the decoded path: in `%25%32%65` the digits behind the percent sign appear only by decoding.
fn is_encoded_twice(decoded: &str) -> bool {
    decoded.split("%25").skip(1).any(|after| triplet(after).is_some())
}

fn check_bytes(path: &str, mode: PathMode) -> Result<(), BadPath> {
    for byte in path.bytes() {
        match byte {
            b';' if mode == PathMode::Strict => return Err(BadPath::Parameter),
            b'\\' | b'#' | b'?' => return Err(BadPath::Byte(byte)),
            0x21..=0x7E => {}
            _ => return Err(BadPath::Byte(byte)),
        }
    }
    Ok(())
}

/// Overlong and broken sequences are how `%c0%af` became a slash in others' decoders.
fn check_utf8(canonical: &str) -> Result<(), BadPath> {
    if !canonical.contains('%') {
        return Ok(());
    }
    let mut bytes = Vec::with_capacity(canonical.len());
    let mut rest = canonical;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(triplet(after).ok_or(BadPath::Percent)?);
        rest = after.get(2..).ok_or(BadPath::Percent)?;
    }
    bytes.extend_from_slice(rest.as_bytes());
    std::str::from_utf8(&bytes).map(|_| ()).map_err(|_| BadPath::NotUtf8)
}

fn refuse_ambiguous_segments(path: &str) -> Result<(), BadPath> {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => return Err(BadPath::DotSegment),
            // The empty last segment is a trailing slash; it stays.
            "" if segments.peek().is_some() => return Err(BadPath::EmptySegment),
            _ => {}
        }
    }
    Ok(())
}

/// RFC 3986 §5.2.4 with doubled slashes merged first; never above the root.
fn resolve_segments(path: Cow<'_, str>) -> Result<Cow<'_, str>, BadPath> {
    path.split('/').skip(1).try_for_each(refuse_hidden_segments)?;
    if refuse_ambiguous_segments(&path).is_ok() {
        return Ok(path);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut is_folder = false;
    for segment in path.split('/').skip(1) {
        is_folder = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop().ok_or(BadPath::AboveRoot)?;
            }
            _ => kept.push(segment),
        }
    }
    let mut resolved = String::with_capacity(path.len());
    for segment in &kept {
        resolved.push('/');
        resolved.push_str(segment);
    }
    if is_folder || kept.is_empty() {
        resolved.push('/');
    }
    Ok(Cow::Owned(resolved))
}

/// Backends that cut parameters off (Tomcat, Spring) or decode slashes would find a dot or empty segment in these.
fn refuse_hidden_segments(segment: &str) -> Result<(), BadPath> {
    if !segment.contains(';') && !segment.contains("%2F") {
        return Ok(());
    }
    for part in segment.split("%2F") {
        match part.split(';').next().unwrap_or_default() {
            "." | ".." => return Err(BadPath::DotSegment),
            "" => return Err(BadPath::EmptySegment),
            _ => {}
        }
    }
    Ok(())
}

/// The byte that the two hexadecimal digits at the start of `text` mean.
fn triplet(text: &str) -> Option<u8> {
    let digits = text.get(..2)?;
    // `from_str_radix` also takes a sign.
    if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        u8::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strict(path: &str) -> Result<String, BadPath> {
        normalize(path, PathMode::Strict).map(Cow::into_owned)
    }

    fn compatible(path: &str) -> Result<String, BadPath> {
        normalize(path, PathMode::Compatible).map(Cow::into_owned)
    }

    #[test]
    fn plain_paths_stay_as_they_are_in_both_modes() {
        for path in
            ["/", "/a", "/a/", "/a/b.c/~d", "/...", "/a..b", "/a:b@c!$&'()*+,=", "/%C3%A9", "/%20", "/a{b}"]
        {
            assert_eq!(strict(path).as_deref(), Ok(path));
            assert_eq!(compatible(path).as_deref(), Ok(path));
        }
    }

    #[test]
    fn encoded_letters_are_decoded_before_policy_sees_them() {
        assert_eq!(strict("/%61dmin").as_deref(), Ok("/admin"));
        assert_eq!(strict("/caf%c3%a9").as_deref(), Ok("/caf%C3%A9"));
    }

    #[test]
    fn strict_refuses_what_two_programs_could_read_in_two_ways() {
        for (path, why) in [
            ("", BadPath::NotAbsolute),
            ("a", BadPath::NotAbsolute),
            ("*", BadPath::NotAbsolute),
            ("/a/../b", BadPath::DotSegment),
            ("/a/.", BadPath::DotSegment),
            ("/a/%2e%2E/b", BadPath::DotSegment),
            ("/.%2e/b", BadPath::DotSegment),
            ("//a", BadPath::EmptySegment),
            ("/a//b", BadPath::EmptySegment),
            ("/a//", BadPath::EmptySegment),
            ("/a\\b", BadPath::Byte(b'\\')),
            ("/a%5cb", BadPath::Encoded(b'\\')),
            ("/a%2fb", BadPath::Encoded(b'/')),
            ("/a%2Fb", BadPath::Encoded(b'/')),
            ("/a%00", BadPath::Encoded(0)),
            ("/a%0d%0a", BadPath::Encoded(b'\r')),
            ("/a;b=c", BadPath::Parameter),
            ("/..;/admin", BadPath::Parameter),
            ("/a#b", BadPath::Byte(b'#')),
            ("/a b", BadPath::Byte(b' ')),
            ("/é", BadPath::Byte(0xC3)),
            ("/a%", BadPath::Percent),
            ("/a%2", BadPath::Percent),
            ("/a%zz", BadPath::Percent),
            ("/a%+1", BadPath::Percent),
            ("/%252e%252e/admin", BadPath::Twice),
            ("/%25%32%65%25%32%65/admin", BadPath::Twice),
            ("/%252%65/admin", BadPath::Twice),
            ("/%c0%af", BadPath::NotUtf8),
            ("/%c0%ae%c0%ae/admin", BadPath::NotUtf8),
            ("/%ff", BadPath::NotUtf8),
        ] {
            assert_eq!(strict(path), Err(why), "{path}");
        }
    }

    #[test]
    fn compatible_resolves_segments_and_keeps_parameters() {
        for (path, want) in [
            ("/a/../b", "/b"),
            ("/a/./b", "/a/b"),
            ("/a/b/..", "/a/"),
            ("/a//b", "/a/b"),
            ("//", "/"),
            ("/a//../b", "/b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/a%2fb", "/a%2Fb"),
        ] {
            assert_eq!(compatible(path).as_deref(), Ok(want), "{path}");
        }
    }

    #[test]
    fn compatible_still_refuses_what_attacks() {
        for (path, why) in [
            ("/..", BadPath::AboveRoot),
            ("/a/../../b", BadPath::AboveRoot),
            ("/a\\..\\b", BadPath::Byte(b'\\')),
            ("/a%5cb", BadPath::Encoded(b'\\')),
            ("/a%00", BadPath::Encoded(0)),
            ("/%252e%252e/admin", BadPath::Twice),
            ("/%c0%af", BadPath::NotUtf8),
            ("/public/..;/admin", BadPath::DotSegment),
            ("/public/.;x=1/admin", BadPath::DotSegment),
            ("/public/..%2fadmin", BadPath::DotSegment),
            ("/public/a%2f..;x%2fadmin", BadPath::DotSegment),
            ("/;/admin", BadPath::EmptySegment),
            ("/public/%2fadmin", BadPath::EmptySegment),
        ] {
            assert_eq!(compatible(path), Err(why), "{path}");
        }
    }

    /// Pieces that attacks are made of, in any order.
    fn paths() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "//", ".", "..", "a", "Admin", "%2e", "%2E", "%2f", "%5c", "%25", "%32", "%65", "%41",
            "%c3%a9", "%c0", ";x", "\\", "%00", "%", "#", " ", "*", "{x}", "é", "2e",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn a_normalized_path_is_its_own_normal_form(path in paths()) {
            for mode in [PathMode::Strict, PathMode::Compatible] {
                if let Ok(once) = normalize(&path, mode) {
                    let twice = normalize(&once, mode).map(Cow::into_owned);
                    prop_assert_eq!(twice, Ok(once.into_owned()), "{}", path);
                }
            }
        }

        #[test]
        fn no_result_holds_a_dot_or_empty_segment(path in paths()) {
            for mode in [PathMode::Strict, PathMode::Compatible] {
                if let Ok(result) = normalize(&path, mode) {
                    let inner: Vec<&str> = result.split('/').skip(1).collect();
                    prop_assert!(inner.iter().all(|segment| !matches!(*segment, "." | "..")), "{} -> {}", path, result);
                    prop_assert!(!result.contains("//"), "{} -> {}", path, result);
                }
            }
        }

        #[test]
        fn what_strict_takes_compatible_reads_the_same(path in paths()) {
            if let Ok(result) = strict(&path) {
                prop_assert_eq!(compatible(&path), Ok(result));
            }
        }

        #[test]
        fn no_input_panics(path in any::<String>()) {
            let _ = strict(&path);
            let _ = compatible(&path);
        }
    }
}
