//! The rules of framing that a request can break, each with the words and the code by which it is told.

use sidegate_codes::Code;

/// The rule that a request broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No method is a token of this shape.
    #[error("a request line that does not begin with a method")]
    Method,
    /// RFC 9112 §3.2 knows four forms.
    #[error("a request target that is no origin-form, absolute-form, authority-form or *")]
    Target,
    /// Cut by some, carried by others.
    #[error("a request target with a fragment")]
    Fragment,
    /// Not 1.0 or 1.1, or more than one blank before it.
    #[error("a request line that does not end in HTTP/1.1 or HTTP/1.0")]
    Version,
    /// RFC 9112 §2.2.
    #[error("a line that does not end in CR LF")]
    LineEnd,
    /// RFC 9112 §5.2.
    #[error("a field line folded over two lines")]
    Folded,
    /// RFC 9112 §5.1: blanks before the colon among them.
    #[error("a field name with a byte that does not belong there")]
    FieldName,
    /// Which one counts?
    #[error("two Host fields")]
    SecondHost,
    /// Which one counts?
    #[error("two Content-Length fields")]
    SecondLength,
    /// Not a plain number.
    #[error("a Content-Length that is no number")]
    Length,
    /// Anything but `chunked` alone, once.
    #[error("a Transfer-Encoding other than one chunked")]
    Coding,
    /// HTTP/1.0 has none (RFC 9112 §6.1).
    #[error("a Transfer-Encoding in HTTP/1.0")]
    CodingInHttp10,
    /// The mark of request smuggling.
    #[error("both Transfer-Encoding and Content-Length")]
    TwoFramings,
    /// Not hexadecimal digits, or more than a size can have.
    #[error("a chunk size that is no hexadecimal number of 64 bits")]
    ChunkSize,
    /// Nobody needs them, and parsers differ in them.
    #[error("chunk extensions of more than {MOST_EXTENSION_BYTES} bytes, or with control characters")]
    ChunkExtension,
    /// The chunk is longer or shorter than it said.
    #[error("a chunk that does not end where it said")]
    ChunkEnd,
}

impl Fault {
    /// One of the `SG061x`.
    pub fn code(self) -> Code {
        match self {
            Self::Target | Self::Fragment => Code::BadPath,
            Self::SecondHost => Code::BadAuthority,
            _ => Code::BadFraming,
        }
    }
}

pub(super) const MOST_EXTENSION_BYTES: usize = 256;
