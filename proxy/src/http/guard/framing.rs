//! The framing of HTTP/1 requests as their raw bytes say it: where each message begins and ends, and whether anybody
//! could read that in another way. Takes the bytes of one connection in any split, keeps nothing of them, and refuses
//! what a parser would repair in silence: a fragment, two framings, bare line ends (RFC 9112 §11.2). Pure, without
//! allocation.

mod fault;
mod word;

pub use fault::Fault;

use fault::MOST_EXTENSION_BYTES;
use word::{TARGET, TOKEN, Word, is_target_byte, is_token_byte};

/// Reads one connection, byte after byte.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    head: Head,
    /// The line being read: a word of the request line, or a field's name.
    word: Word,
    value: Value,
    /// Of the chunk extensions of this message so far.
    extension_bytes: usize,
    /// Of the trailers of this message rather than of its head.
    is_trailer: bool,
    heads: u64,
    framing: Framing,
    /// Bytes came behind a request that may open a tunnel, before its answer.
    is_early: bool,
}

/// How a request says where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes follow its head; none if it does not say.
    Length(u64),
    /// It ends with the last chunk.
    Chunked,
}

/// The byte at which a request broke a rule, and the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Of the bytes given to [`Scanner::read`].
    pub at: usize,
    /// Which rule.
    pub fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a request line. Empty lines are skipped (RFC 9112 §2.2).
    Start,
    StartLf,
    Method,
    Target,
    Version,
    RequestLineLf,
    /// At the first byte of a field line, or of the empty line.
    Field,
    Name,
    Value,
    ValueLf,
    EndLf,
    Body(u64),
    /// The size so far and its digits.
    Size(u64, u8),
    Extension(u64),
    SizeLf(u64),
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    /// Behind the head of a request that may turn the connection into a tunnel.
    Undecided,
    /// The connection is a tunnel: its bytes are of no concern here.
    Tunnel,
}

/// What matters of a request head.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    is_http10: bool,
    /// `CONNECT`, or a field `Upgrade`.
    may_become_tunnel: bool,
    has_host: bool,
    /// As far as it says.
    framing: Option<Framing>,
}

/// The value being read, if its field matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Other,
    Length { digits: Option<u64>, is_over: bool },
    Coding { letters: usize, is_over: bool },
}

impl Scanner {
    /// At the first byte of a connection.
    pub fn new() -> Self {
        Self {
            state: State::Start,
            head: Head::default(),
            word: Word::EMPTY,
            value: Value::Other,
            extension_bytes: 0,
            is_trailer: false,
            heads: 0,
            framing: Framing::Length(0),
            is_early: false,
        }
    }

    /// Reads on. After a refusal nothing more may be read.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let mut at = 0;
        while at < bytes.len() {
            let skipped = self.skip(&bytes[at..]);
            at += skipped;
            let Some(byte) = bytes.get(at) else { break };
            self.state = self.step(*byte).map_err(|fault| Refused { at, fault })?;
            at += 1;
        }
        Ok(())
    }

    /// Request heads that are complete.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Of the last complete head.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether a head has begun and not ended.
    pub fn is_in_head(&self) -> bool {
        match self.state {
            State::Method | State::Target | State::Version | State::RequestLineLf => true,
            State::Field | State::Name | State::Value | State::ValueLf | State::EndLf => !self.is_trailer,
            _ => false,
        }
    }

    /// Whether the next byte belongs to no message yet.
    pub fn is_between(&self) -> bool {
        matches!(self.state, State::Start | State::StartLf)
    }

    /// Whether the last request has to be answered before its connection can be read further.
    pub fn is_undecided(&self) -> bool {
        self.state == State::Undecided
    }

    /// Whether bytes came before that, which nobody has read: if they are not a tunnel's they must not be read at all.
    pub fn is_early(&self) -> bool {
        self.is_early
    }

    /// The last request was answered, with or without a tunnel.
    pub fn decide(&mut self, is_tunnel: bool) {
        if self.is_undecided() {
            self.state = if is_tunnel || self.is_early { State::Tunnel } else { State::Start };
        }
    }

    /// How many of `bytes` do not change what comes next: bodies, values of fields that do not matter, words.
    fn skip(&mut self, bytes: &[u8]) -> usize {
        match &mut self.state {
            State::Tunnel => bytes.len(),
            // Of the tunnel, if there will be one. Until then they are kept.
            State::Undecided => {
                self.is_early |= !bytes.is_empty();
                bytes.len()
            }
            State::Body(left) | State::Chunk(left) => {
                let skipped = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= skipped as u64;
                if *left == 0 {
                    self.state = if matches!(self.state, State::Chunk(_)) {
                        State::ChunkCr
                    } else {
                        self.head.after()
                    };
                }
                skipped
            }
            State::Value if self.value == Value::Other => {
                memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len())
            }
            State::Target => self.word.take(bytes, &TARGET),
            State::Method | State::Name => self.word.take(bytes, &TOKEN),
            _ => 0,
        }
    }

    fn step(&mut self, byte: u8) -> Result<State, Fault> {
        Ok(match (self.state, byte) {
            // `skip` has taken all of it.
            (State::Undecided | State::Tunnel | State::Body(_) | State::Chunk(_), _) => self.state,

            (State::StartLf, b'\n') => State::Start,
            (State::RequestLineLf | State::ValueLf, b'\n') => State::Field,
            (State::EndLf, b'\n') => self.after_fields(),
            (State::SizeLf(0), b'\n') => {
                self.is_trailer = true;
                State::Field
            }
            (State::SizeLf(size), b'\n') => State::Chunk(size),
            (State::StartLf | State::RequestLineLf | State::ValueLf | State::EndLf | State::SizeLf(_), _)
            | (State::Start | State::Version | State::Field | State::Name | State::Value, b'\n') => {
                return Err(Fault::LineEnd);
            }

            (State::Start, b'\r') => State::StartLf,
            (State::Start, byte) if is_token_byte(byte) => self.begin(byte),
            (State::Method, b' ') => self.after_method(),
            (State::Method, byte) if is_token_byte(byte) => self.push(byte),
            (State::Start | State::Method, _) => return Err(Fault::Method),

            (State::Target, b'#') => return Err(Fault::Fragment),
            (State::Target, b' ') => self.after_target()?,
            (State::Target, byte) if is_target_byte(byte) => self.push(byte),
            (State::Target, _) => return Err(Fault::Target),

            (State::Version, b'\r') => self.after_version()?,
            (State::Version, byte) if byte.is_ascii_graphic() => self.push(byte),
            (State::Version, _) => return Err(Fault::Version),

            (State::Field, b'\r') => State::EndLf,
            (State::Field, b' ' | b'\t') => return Err(Fault::Folded),
            (State::Field, byte) if is_token_byte(byte) => {
                self.word = Word::EMPTY;
                self.state = State::Name;
                self.push(byte)
            }
            (State::Name, b':') => self.after_name()?,
            (State::Name, byte) if is_token_byte(byte) => self.push(byte),
            (State::Field | State::Name, _) => return Err(Fault::FieldName),
            (State::Value, b'\r') => self.after_value()?,
            (State::Value, byte) => self.push_value(byte)?,

            (State::Size(size, digits), byte) => size_step(size, digits, byte)?,
            (State::Extension(size), b'\r') => State::SizeLf(size),
            (State::Extension(size), byte) => self.push_extension(size, byte)?,
            (State::ChunkCr, b'\r') => State::ChunkLf,
            (State::ChunkLf, b'\n') => State::Size(0, 0),
            (State::ChunkCr | State::ChunkLf, _) => return Err(Fault::ChunkEnd),
        })
    }

    fn begin(&mut self, byte: u8) -> State {
        self.head = Head::default();
        self.word = Word::EMPTY;
        self.is_trailer = false;
        self.extension_bytes = 0;
        self.state = State::Method;
        self.push(byte)
    }

    fn push(&mut self, byte: u8) -> State {
        self.word.push(byte);
        self.state
    }

    /// The method's first letter stays in front of the target: it tells which forms there may be.
    fn after_method(&mut self) -> State {
        let method = self.word;
        self.head.may_become_tunnel = method.is(b"connect");
        self.word = Word::EMPTY;
        self.word.push(if method.is(b"connect") {
            b'c'
        } else if method.is(b"options") {
            b'o'
        } else {
            b'-'
        });
        State::Target
    }

    fn after_target(&mut self) -> Result<State, Fault> {
        let is_form = match self.word.as_slice() {
            [b'c', first, ..] => *first != b'/' && *first != b'*',
            [b'o', b'*'] | [_, b'/', ..] => true,
            [_, absolute @ ..] => absolute.starts_with(b"http://") || absolute.starts_with(b"https://"),
            [] => false,
        };
        self.word = Word::EMPTY;
        if is_form { Ok(State::Version) } else { Err(Fault::Target) }
    }

    fn after_version(&mut self) -> Result<State, Fault> {
        self.head.is_http10 = self.word.is(b"http/1.0");
        if self.head.is_http10 || self.word.is(b"http/1.1") {
            Ok(State::RequestLineLf)
        } else {
            Err(Fault::Version)
        }
    }

    /// Only fields of the head frame a message; whoever merges trailers in has them without these (`headers`).
    fn after_name(&mut self) -> Result<State, Fault> {
        self.value = Value::Other;
        if self.is_trailer || self.word.is_long() {
            return Ok(State::Value);
        }
        let head = &mut self.head;
        match self.word.as_slice() {
            b"host" if head.has_host => return Err(Fault::SecondHost),
            b"host" => head.has_host = true,
            b"upgrade" => head.may_become_tunnel = true,
            b"content-length" => {
                match head.framing {
                    None => {}
                    Some(Framing::Length(_)) => return Err(Fault::SecondLength),
                    Some(Framing::Chunked) => return Err(Fault::TwoFramings),
                }
                self.value = Value::Length { digits: None, is_over: false };
            }
            b"transfer-encoding" => {
                match head.framing {
                    None if head.is_http10 => return Err(Fault::CodingInHttp10),
                    None => {}
                    Some(Framing::Chunked) => return Err(Fault::Coding),
                    Some(Framing::Length(_)) => return Err(Fault::TwoFramings),
                }
                self.value = Value::Coding { letters: 0, is_over: false };
            }
            _ => {}
        }
        Ok(State::Value)
    }

    /// Blanks around a value are none of it (RFC 9112 §5.1); within it they are not what these two may hold.
    fn push_value(&mut self, byte: u8) -> Result<State, Fault> {
        match (&mut self.value, byte) {
            (Value::Length { digits, is_over }, b' ' | b'\t') => *is_over = digits.is_some(),
            (Value::Length { digits, is_over: false }, b'0'..=b'9') => {
                let length = digits.unwrap_or(0).checked_mul(10);
                *digits = length.and_then(|length| length.checked_add(u64::from(byte - b'0')));
                if digits.is_none() {
                    return Err(Fault::Length);
                }
            }
            (Value::Length { .. }, _) => return Err(Fault::Length),
            (Value::Coding { letters, is_over }, b' ' | b'\t') => *is_over = *letters > 0,
            (Value::Coding { letters, is_over: false }, _)
                if CHUNKED.get(*letters) == Some(&byte.to_ascii_lowercase()) =>
            {
                *letters += 1;
            }
            (Value::Coding { .. }, _) => return Err(Fault::Coding),
            (Value::Other, _) => {}
        }
        Ok(State::Value)
    }

    fn after_value(&mut self) -> Result<State, Fault> {
        match self.value {
            Value::Other => {}
            Value::Length { digits: None, .. } => return Err(Fault::Length),
            Value::Length { digits: Some(length), .. } => self.head.framing = Some(Framing::Length(length)),
            Value::Coding { letters, .. } if letters < CHUNKED.len() => return Err(Fault::Coding),
            Value::Coding { .. } => self.head.framing = Some(Framing::Chunked),
        }
        Ok(State::ValueLf)
    }

    fn after_fields(&mut self) -> State {
        if self.is_trailer {
            self.is_trailer = false;
            return self.head.after();
        }
        self.heads += 1;
        self.framing = self.head.framing.unwrap_or(Framing::Length(0));
        match self.framing {
            Framing::Chunked => State::Size(0, 0),
            Framing::Length(0) => self.head.after(),
            Framing::Length(length) => State::Body(length),
        }
    }

    fn push_extension(&mut self, size: u64, byte: u8) -> Result<State, Fault> {
        self.extension_bytes += 1;
        let is_clean = byte == b'\t' || byte == b' ' || byte.is_ascii_graphic();
        if !is_clean || self.extension_bytes > MOST_EXTENSION_BYTES {
            return Err(Fault::ChunkExtension);
        }
        Ok(State::Extension(size))
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

fn size_step(size: u64, digits: u8, byte: u8) -> Result<State, Fault> {
    match byte {
        b'\r' if digits > 0 => Ok(State::SizeLf(size)),
        b';' if digits > 0 => Ok(State::Extension(size)),
        _ => match char::from(byte).to_digit(16) {
            Some(digit) if digits < MOST_SIZE_DIGITS => {
                Ok(State::Size((size << 4) | u64::from(digit), digits + 1))
            }
            _ => Err(Fault::ChunkSize),
        },
    }
}

impl Head {
    /// Where the message of this head has ended.
    fn after(&self) -> State {
        if self.may_become_tunnel { State::Undecided } else { State::Start }
    }
}

const CHUNKED: &[u8] = b"chunked";
/// Sixteen digits are 64 bits; leading zeros count, since some parsers cut there.
const MOST_SIZE_DIGITS: u8 = 16;

#[cfg(test)]
mod tests;
