//! Patterns of request paths. Matching is by whole segments and byte for byte: nothing in a request's path has a
//! meaning here, and nothing in a pattern but `{name}` and a last `/**`.

use std::{fmt, str::FromStr, sync::Arc};

use super::{GrpcMethod, GrpcService, InvalidValue};
use crate::limits;

/// `/charge`, `/charge/{id}` or `/refund/**`. Matched against a path that is already normalised and has no query.
#[derive(Clone, Debug)]
pub struct PathPattern {
    text: Arc<str>,
    segments: Arc<[Segment]>,
    /// Ends in `/**`: whatever follows matches too, and so does nothing.
    open: bool,
}

/// What one segment of a path must be.
#[derive(Debug)]
pub(crate) enum Segment {
    Literal(Arc<str>),
    /// Any one segment that is not empty.
    Any,
}

impl PathPattern {
    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern matches a normalised path.
    pub fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else {
            return false;
        };
        let mut rest = path.split('/');
        for segment in &*self.segments {
            match rest.next() {
                Some(seen) if segment.matches(seen) => {}
                _ => return false,
            }
        }
        self.open || rest.next().is_none()
    }

    /// Whether the pattern matches every path that another matches.
    pub(crate) fn covers(&self, narrow: &Self) -> bool {
        let mut rest = narrow.segments.iter();
        // An open end may be empty, so what this pattern asks for must stand in the other's segments.
        let begins_alike = self.segments.iter().all(|segment| match (segment, rest.next()) {
            (Segment::Any, Some(Segment::Literal(literal))) => !literal.is_empty(),
            (Segment::Any, Some(Segment::Any)) => true,
            (Segment::Literal(wide), Some(Segment::Literal(narrow))) => wide == narrow,
            (Segment::Literal(_), Some(Segment::Any)) | (_, None) => false,
        });
        begins_alike && (self.open || !narrow.open && rest.next().is_none())
    }

    /// Whether no path is matched by both.
    pub(crate) fn is_apart(&self, other: &Self) -> bool {
        let differs = |(one, other): (&Segment, &Segment)| match (one, other) {
            (Segment::Literal(one), Segment::Literal(other)) => one != other,
            // An empty segment, at the end of `/a/`, is no named one.
            (Segment::Any, Segment::Literal(literal)) | (Segment::Literal(literal), Segment::Any) => {
                literal.is_empty()
            }
            (Segment::Any, Segment::Any) => false,
        };
        let (one, two) = (self.segments.len(), other.segments.len());
        self.segments.iter().zip(&*other.segments).any(differs)
            || one < two && !self.open
            || two < one && !other.open
    }

    /// The path of a gRPC method, or of every method of a service.
    pub(crate) fn of_grpc(service: &GrpcService, method: Option<&GrpcMethod>) -> Self {
        let method = method.map(GrpcMethod::shared);
        let last = method.map_or(Segment::Any, |method| Segment::Literal(Arc::clone(method)));
        Self {
            text: format!("/{service}/{}", method.map_or("{method}", |method| method)).into(),
            segments: [Segment::Literal(Arc::clone(service.shared())), last].into(),
            open: false,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<str> {
        &self.text
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether it ends in `/**`.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }
}

impl Segment {
    pub(crate) fn literal(&self) -> Option<&Arc<str>> {
        match self {
            Self::Literal(literal) => Some(literal),
            Self::Any => None,
        }
    }

    fn matches(&self, seen: &str) -> bool {
        match self {
            Self::Literal(literal) => **literal == *seen,
            Self::Any => !seen.is_empty(),
        }
    }
}

impl FromStr for PathPattern {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.len() > limits::PATTERN_BYTES {
            return Err(format!("longer than {} bytes", limits::PATTERN_BYTES).into());
        }
        let path = text.strip_prefix('/').ok_or(InvalidValue::because("a path begins with `/`"))?;
        let (closed, open) = match path.strip_suffix("**") {
            Some("") => (None, true),
            // Without the slash it is `/a**`, which the segment refuses.
            Some(before) if before.ends_with('/') => (before.strip_suffix('/'), true),
            _ => (Some(path), false),
        };
        let segments = closed.map(|path| parse_segments(path, open)).transpose()?.unwrap_or_default().into();
        Ok(Self { text: text.into(), segments, open })
    }
}

fn parse_segments(path: &str, open: bool) -> Result<Vec<Segment>, InvalidValue> {
    let mut names = Vec::new();
    let mut segments = Vec::new();
    let mut rest = path.split('/').peekable();
    while let Some(text) = rest.next() {
        // Only the very last segment may be empty: `/` and `/a/` are paths, `/a//b` never is after normalisation.
        if text.is_empty() && (rest.peek().is_some() || open) {
            return Err(InvalidValue::because("has an empty segment; a normalised path never has one"));
        }
        segments.push(parse_segment(text, &mut names)?);
    }
    Ok(segments)
}

fn parse_segment<'t>(text: &'t str, names: &mut Vec<&'t str>) -> Result<Segment, InvalidValue> {
    if let Some(name) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || !name.bytes().all(inner) {
            return Err(InvalidValue::because("`{name}` needs a name of letters, digits, `-` or `_`"));
        }
        if names.contains(&name) {
            return Err(format!("`{{{name}}}` stands twice; name the segments apart").into());
        }
        names.push(name);
        return Ok(Segment::Any);
    }
    check_literal(text)?;
    Ok(Segment::Literal(text.into()))
}

/// Refuses what a normalised path never holds: such a pattern would match nothing, and its author believes otherwise.
fn check_literal(text: &str) -> Result<(), InvalidValue> {
    if text == "." || text == ".." {
        return Err(InvalidValue::because("has a dot segment; a normalised path never has one"));
    }
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'*' => {
                return Err(InvalidValue::because(
                    "`*` stands only in a last `/**`; one segment is `{name}`",
                ));
            }
            b'{' | b'}' => return Err(InvalidValue::because("`{name}` must be a whole segment")),
            b'%' => check_escape(rest.next(), rest.next())?,
            b'?' | b'#' => return Err(InvalidValue::because("a path has no query and no fragment")),
            b'\\' | b';' => {
                return Err(format!("`{}` never stands in a normalised path", char::from(byte)).into());
            }
            byte if !byte.is_ascii_graphic() => {
                return Err(InvalidValue::because("a path is printable ASCII; write other bytes as %XX"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_escape(high: Option<u8>, low: Option<u8>) -> Result<(), InvalidValue> {
    let digit = |byte: Option<u8>| {
        byte.filter(|byte| !byte.is_ascii_lowercase())
            .and_then(|byte| char::from(byte).to_digit(16))
            .and_then(|digit| u8::try_from(digit).ok())
            .ok_or(InvalidValue::because("`%` is followed by two hexadecimal digits in upper case"))
    };
    let byte = digit(high)? << 4 | digit(low)?;
    match byte {
        0 | b'/' | b'\\' => {
            Err(InvalidValue::because("an escaped NUL, `/` or `\\` never stands in a normalised path"))
        }
        b'-' | b'.' | b'_' | b'~' => Err(plain(byte)),
        byte if byte.is_ascii_alphanumeric() => Err(plain(byte)),
        _ => Ok(()),
    }
}

fn plain(byte: u8) -> InvalidValue {
    format!("write `{0}` plainly, not as %{byte:02X}", char::from(byte)).into()
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for PathPattern {}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        pattern.parse::<PathPattern>().unwrap().matches(path)
    }

    #[test]
    fn an_exact_pattern_matches_that_path_alone() {
        assert!(matches("/charge", "/charge"));
        for other in ["/charge/", "/charges", "/Charge", "/charge/1", "/", "", "charge", "/x/charge"] {
            assert!(!matches("/charge", other), "{other:?}");
        }
        assert!(matches("/", "/"));
        assert!(!matches("/", "*"));
        assert!(matches("/a/", "/a/"));
        assert!(!matches("/a/", "/a"));
    }

    #[test]
    fn a_named_segment_is_one_segment_that_is_not_empty() {
        assert!(matches("/charge/{id}", "/charge/1"));
        assert!(matches("/charge/{id}/lines", "/charge/1/lines"));
        for other in ["/charge", "/charge/", "/charge/1/", "/charge/1/2"] {
            assert!(!matches("/charge/{id}", other), "{other:?}");
        }
    }

    #[test]
    fn an_open_end_takes_the_rest_or_nothing_on_a_segment_boundary() {
        for path in ["/refund", "/refund/", "/refund/1", "/refund/1/2"] {
            assert!(matches("/refund/**", path), "{path:?}");
        }
        for other in ["/refunds", "/refund-all/1", "/", "refund/1"] {
            assert!(!matches("/refund/**", other), "{other:?}");
        }
        assert!(matches("/**", "/"));
        assert!(matches("/**", "/a/b"));
        assert!(!matches("/**", "*"));
        assert!(matches("/u/{id}/**", "/u/1"));
        assert!(!matches("/u/{id}/**", "/u/"));
    }

    #[test]
    fn signs_of_a_pattern_mean_nothing_in_a_request() {
        assert!(!matches("/refund", "/**"));
        assert!(!matches("/charge/1", "/charge/{id}"));
        assert!(matches("/charge/{id}", "/charge/{id}"));
        assert!(!matches("/a.c", "/abc"));
    }

    #[test]
    fn patterns_that_could_never_match_or_mean_two_things_are_refused() {
        for bad in [
            "",
            "charge",
            "**",
            "/a//b",
            "//",
            "/a/../b",
            "/a/./b",
            "/*",
            "/a*",
            "/a**",
            "/**/b",
            "/a/**/",
            "/{}",
            "/{a}{b}",
            "/x{a}",
            "/{a",
            "/a}",
            "/{a}/{a}",
            "/{a b}",
            "/a?b",
            "/a#b",
            "/a b",
            "/ä",
            "/a\\b",
            "/a;b",
            "/%",
            "/%2",
            "/%zz",
            "/%2f",
            "/%2F",
            "/%00",
            "/%5C",
            "/%41",
            "/%7E",
            "/a//**",
            "//**",
            &format!("/{}", "a".repeat(1024)),
        ] {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad:?}");
        }
        for good in ["/%20", "/%C3%A4", "/a.b", "/..a", "/~x", "/a:b@c", "/$metadata"] {
            assert!(good.parse::<PathPattern>().is_ok(), "{good:?}");
        }
    }
}
