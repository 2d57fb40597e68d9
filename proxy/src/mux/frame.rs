//! The header that every frame begins with, as yamux has it: version 0, a kind, flags, a stream and a length, big-endian.

use super::Broken;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) flags: u16,
    /// 0: the link itself.
    pub(super) stream: u32,
    /// Of the payload of DATA. Of the others: by how much the window grows, what a ping says, why a side goes away.
    pub(super) length: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Window,
    Ping,
    GoAway,
}

impl Header {
    pub(super) fn new(kind: Kind, flags: u16, stream: u32, length: u32) -> Self {
        Self { kind, flags, stream, length }
    }

    pub(super) fn of(bytes: [u8; HEADER]) -> Result<Self, Broken> {
        let [version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = bytes;
        if version != VERSION {
            return Err(Broken::Protocol("a version other than 0"));
        }
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Window,
            2 => Kind::Ping,
            3 => Kind::GoAway,
            _ => return Err(Broken::Protocol("a frame of no known kind")),
        };
        let flags = u16::from_be_bytes([f0, f1]);
        if flags & !(SYN | ACK | FIN | RST) != 0 {
            return Err(Broken::Protocol("a flag that nobody knows"));
        }
        let (stream, length) = (u32::from_be_bytes([s0, s1, s2, s3]), u32::from_be_bytes([l0, l1, l2, l3]));
        let is_of_link = matches!(kind, Kind::Ping | Kind::GoAway);
        if is_of_link != (stream == 0) {
            return Err(Broken::Protocol("a frame with a stream that its kind does not have"));
        }
        Ok(Self { kind, flags, stream, length })
    }

    pub(super) fn bytes(self) -> [u8; HEADER] {
        let kind = match self.kind {
            Kind::Data => 0,
            Kind::Window => 1,
            Kind::Ping => 2,
            Kind::GoAway => 3,
        };
        let [f0, f1] = self.flags.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        [VERSION, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3]
    }

    pub(super) fn has(self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

pub(super) const HEADER: usize = 12;
/// Opens a stream.
pub(super) const SYN: u16 = 1;
/// Takes it.
pub(super) const ACK: u16 = 2;
/// Nothing more comes from this side.
pub(super) const FIN: u16 = 4;
/// The stream is over, in whatever state.
pub(super) const RST: u16 = 8;

/// Why a side goes away.
pub(super) const NORMAL: u32 = 0;
pub(super) const PROTOCOL_ERROR: u32 = 1;

const VERSION: u8 = 0;
