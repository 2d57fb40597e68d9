//! The server name of an application's own TLS: the bytes of a connection go in as they come, the name of its
//! `ClientHello` comes out. Takes a `ClientHello` in any number of records (RFC 8446 §5.1) and pieces, holds at most
//! [`LONGEST`] bytes of it, reads each byte once, and refuses what two programs could read in two ways.
//!
//! Nothing is decrypted. With Encrypted Client Hello the outer name counts: it is the one that a network can see.

use crate::http::canonical_host;

/// A `ClientHello` that is still arriving.
#[derive(Debug, Default)]
pub struct ClientHello {
    /// The header of the record that is being read.
    header: Vec<u8>,
    /// Bytes of that record that are still to come.
    left: usize,
    /// The handshake message without its records.
    message: Vec<u8>,
}

/// Why bytes are no `ClientHello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHello {
    /// They do not begin a TLS handshake: another protocol, perhaps.
    #[error("not a TLS handshake")]
    NotTls,
    /// They begin one and break its rules.
    #[error("a broken ClientHello: {0}")]
    Broken(&'static str),
    /// It is longer than any client's.
    #[error("a ClientHello of more than {LONGEST} bytes")]
    TooLong,
}

impl ClientHello {
    /// Takes the next bytes of the connection. `None` while the message is incomplete; then the name, in the form of
    /// a request's host, or `None` in its place if the client sends none. Bytes after the message are not looked at,
    /// and after an answer there is nothing more to ask.
    pub fn read(&mut self, mut bytes: &[u8]) -> Option<Result<Option<String>, BadHello>> {
        while let Some((byte, after)) = bytes.split_first() {
            if self.left == 0 {
                self.header.push(*byte);
                bytes = after;
                if let Err(bad) = self.begin_record() {
                    return Some(Err(bad));
                }
                continue;
            }
            let (payload, after) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= payload.len();
            self.message.extend_from_slice(payload);
            bytes = after;
            match self.complete() {
                Ok(None) => {}
                Ok(Some(body)) => return Some(server_name(body)),
                Err(bad) => return Some(Err(bad)),
            }
        }
        None
    }

    /// Reads the header of a record as far as it has come.
    fn begin_record(&mut self) -> Result<(), BadHello> {
        let is_first = self.message.is_empty();
        match *self.header {
            [kind, ..] if kind != HANDSHAKE && is_first => Err(BadHello::NotTls),
            [kind, ..] if kind != HANDSHAKE => Err(BadHello::Broken("a record of another kind within it")),
            [_, major, ..] if major != 3 && is_first => Err(BadHello::NotTls),
            [_, major, ..] if major != 3 => Err(BadHello::Broken("a record of another version within it")),
            [_, _, _, high, low] => {
                self.left = usize::from(u16::from_be_bytes([high, low]));
                self.header.clear();
                match self.left {
                    // Without this, empty records without end would be one unfinished message.
                    0 => Err(BadHello::Broken("an empty record")),
                    1..=LONGEST_RECORD => Ok(()),
                    _ => Err(BadHello::Broken("a record that is too long")),
                }
            }
            _ => Ok(()),
        }
    }

    /// The body of the message, once it is all there.
    fn complete(&self) -> Result<Option<&[u8]>, BadHello> {
        let [kind, high, middle, low, body @ ..] = self.message.as_slice() else {
            return match self.message.first() {
                Some(&kind) if kind != CLIENT_HELLO => Err(BadHello::Broken("another message")),
                _ => Ok(None),
            };
        };
        if *kind != CLIENT_HELLO {
            return Err(BadHello::Broken("another message"));
        }
        let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
        if length > LONGEST {
            return Err(BadHello::TooLong);
        }
        Ok(body.get(..length))
    }
}

/// RFC 8446 §4.1.2. Cipher suites and extensions that nobody knows (RFC 8701) are as good as any.
fn server_name(body: &[u8]) -> Result<Option<String>, BadHello> {
    let mut hello = Reader(body);
    hello.take(VERSION_AND_RANDOM)?;
    hello.short_list()?; // The session id,
    hello.list()?; // cipher suites
    hello.short_list()?; // and compression methods.
    if hello.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = hello.list()?;
    hello.end()?;
    let mut name = None;
    while !extensions.0.is_empty() {
        let (kind, body) = (extensions.number()?, extensions.list()?);
        if kind == SERVER_NAME && name.replace(host_name(body)?).is_some() {
            return Err(BadHello::Broken("two server names"));
        }
    }
    Ok(name)
}

/// RFC 6066 §3: a list that may hold one name of each kind, and there is one kind.
fn host_name(mut extension: Reader<'_>) -> Result<String, BadHello> {
    let mut list = extension.list()?;
    extension.end()?;
    if list.take(1)? != [HOST_NAME] {
        return Err(BadHello::Broken("a server name of another kind"));
    }
    let name = list.list()?;
    if !list.0.is_empty() {
        return Err(BadHello::Broken("two server names"));
    }
    let name = std::str::from_utf8(name.0).ok().filter(|name| !name.starts_with('['));
    name.and_then(canonical_host).ok_or(BadHello::Broken("a server name that is no host"))
}

/// What is left to read of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BadHello> {
        let (taken, left) = self.0.split_at_checked(count).ok_or(BadHello::Broken("it ends too early"))?;
        self.0 = left;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u16, BadHello> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What follows its length of two bytes.
    fn list(&mut self) -> Result<Self, BadHello> {
        let length = self.number()?;
        self.take(length.into()).map(Self)
    }

    /// What follows its length of one byte.
    fn short_list(&mut self) -> Result<Self, BadHello> {
        let length = self.take(1)?[0];
        self.take(length.into()).map(Self)
    }

    fn end(&self) -> Result<(), BadHello> {
        if self.0.is_empty() { Ok(()) } else { Err(BadHello::Broken("bytes after its end")) }
    }
}

/// The most bytes of a message. Post-quantum key shares take less than 2 KiB, and stacks that take more than this are
/// not known.
pub const LONGEST: usize = 16 * 1024;
/// Of a record without encryption (RFC 8446 §5.1).
const LONGEST_RECORD: usize = 1 << 14;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const VERSION_AND_RANDOM: usize = 2 + 32;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

#[cfg(test)]
mod tests;
