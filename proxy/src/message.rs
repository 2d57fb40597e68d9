//! HTTP/1 messages as bytes (RFC 9112), the same for both sides of the path: heads as httparse reads them, bodies as their
//! framing says, both ways. Neither reads further than a message reaches nor writes other than its head says; what can be read
//! in two ways is refused.

mod broken;
mod fields;
mod incoming;
mod outgoing;

use crate::config::Limits;

pub(crate) use broken::Broken;
pub(crate) use fields::{complete, keeps_alive, map, plain_length, says, version, with_room, write_fields};
pub(crate) use incoming::Incoming;
pub(crate) use outgoing::{Ends, Outgoing};

/// What a head may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Most {
    /// Of bytes; trailers may have as many.
    pub(crate) bytes: usize,
    pub(crate) fields: usize,
}

/// How a body that comes in ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

impl Most {
    pub(crate) fn of(limits: &Limits) -> Self {
        Self { bytes: limits.header_bytes, fields: limits.headers }
    }
}

#[cfg(test)]
mod tests;
