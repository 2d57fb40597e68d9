//! HTTP/2 frames by their headers alone, both ways. Bounds what a peer may send that is no part of a request: h2 answers
//! PING, SETTINGS and their like without end. Reads in what h2 sends what it refused by itself. Takes bytes in any
//! split, keeps nine of them, allocates nothing.

use std::time::Instant;

use crate::bucket::Bucket;

/// One connection, as its server sees it.
#[derive(Debug)]
pub(crate) struct Frames {
    incoming: Cutter,
    outgoing: Cutter,
    control: Bucket,
    resets: Bucket,
    /// `WINDOW_UPDATE` frames that the data sent so far may be answered with.
    updates: u64,
    /// The stream that was last answered by a head alone.
    answered: Option<u32>,
}

/// A bound that the peer broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flood {
    /// PING, SETTINGS, PRIORITY, CONTINUATION, empty DATA, unknown frames, `WINDOW_UPDATE` without data.
    #[error("limits.controlFrames: more frames without a request than that")]
    Control,
    /// `RST_STREAM` by the peer (CVE-2023-44487), or by this side for what the peer did (CVE-2025-8671).
    #[error("limits.streamResets: more streams reset than that")]
    Resets,
}

/// What this side said by itself about a stream or the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// DATA of this many bytes.
    Data(u32),
    /// A stream over `limits.streams` was refused.
    StreamRefused,
    /// The fields of a request were more than `limits.headerBytes` allows.
    HeadTooLarge,
    /// A stream broke the protocol.
    StreamBroken,
    /// The connection ends with this error code (RFC 9113 §7).
    GoAway(u32),
}

/// Cuts bytes into frames.
#[derive(Debug)]
struct Cutter {
    /// Of the preface or a payload: not looked at.
    skip: u32,
    frame: Frame,
    /// Of the frame's header, and then of the part of its payload that is looked at.
    read: usize,
    bytes: [u8; HEADER + MOST_PAYLOAD],
}

#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
    /// An error code, for the kinds that have one.
    error: u32,
}

impl Frames {
    /// At the first byte of a connection. Both limits are per second.
    pub(crate) fn new(control: u32, resets: u32, now: Instant) -> Self {
        Self {
            incoming: Cutter::new(PREFACE),
            outgoing: Cutter::new(0),
            control: Bucket::new(control, now),
            resets: Bucket::new(resets, now),
            updates: 0,
            answered: None,
        }
    }

    /// The peer sent these bytes.
    pub(crate) fn received(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Flood> {
        let mut rest = bytes;
        while let Some(frame) = self.incoming.next(&mut rest) {
            match frame.kind {
                HEADERS => {}
                DATA if frame.length > 0 || frame.flags & END_STREAM != 0 => {}
                RST_STREAM => self.resets.take(&now).ok_or(Flood::Resets)?,
                WINDOW_UPDATE if self.updates > 0 => self.updates -= 1,
                _ => self.control.take(&now).ok_or(Flood::Control)?,
            }
        }
        Ok(())
    }

    /// This side sent these bytes. `said` hears what they mean.
    pub(crate) fn sent(
        &mut self,
        bytes: &[u8],
        now: impl Fn() -> Instant,
        mut said: impl FnMut(Said),
    ) -> Result<(), Flood> {
        let mut rest = bytes;
        while let Some(frame) = self.outgoing.next(&mut rest) {
            let answered = self.answered.take();
            match (frame.kind, frame.error) {
                (DATA, _) => {
                    // Clients give back their window in steps, of their own and of the connection's.
                    let updates = 2 + u64::from(frame.length) / LEAST_UPDATE;
                    self.updates = self.updates.saturating_add(updates).min(MOST_UPDATES);
                    said(Said::Data(frame.length));
                }
                (HEADERS, _) if frame.flags & END_STREAM != 0 => self.answered = Some(frame.stream),
                (RST_STREAM, NO_ERROR | CANCEL | INTERNAL_ERROR) => {}
                (RST_STREAM, error) => {
                    said(match error {
                        REFUSED_STREAM => Said::StreamRefused,
                        // h2 answers 431 and breaks the stream off (RFC 9113 §10.5.1).
                        PROTOCOL_ERROR if answered == Some(frame.stream) => Said::HeadTooLarge,
                        _ => Said::StreamBroken,
                    });
                    self.resets.take(&now).ok_or(Flood::Resets)?;
                }
                (GOAWAY, error) if error != NO_ERROR => said(Said::GoAway(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Cutter {
    fn new(skip: u32) -> Self {
        Self { skip, frame: Frame::default(), read: 0, bytes: [0; HEADER + MOST_PAYLOAD] }
    }

    /// The next frame of `rest`, as soon as what is looked at of it is there.
    fn next(&mut self, rest: &mut &[u8]) -> Option<Frame> {
        loop {
            let skipped = rest.len().min(self.skip as usize);
            *rest = &rest[skipped..];
            self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
            if self.skip > 0 || rest.is_empty() {
                return None;
            }
            let wanted = HEADER + if self.read < HEADER { 0 } else { self.frame.looked_at() };
            let taken = rest.len().min(wanted - self.read);
            self.bytes[self.read..self.read + taken].copy_from_slice(&rest[..taken]);
            self.read += taken;
            *rest = &rest[taken..];
            if self.read < wanted {
                return None;
            }
            if wanted == HEADER {
                self.frame = Frame::of(&self.bytes);
                if self.frame.looked_at() > 0 {
                    continue;
                }
            } else {
                self.frame.error = self.frame.error_in(&self.bytes[HEADER..]);
            }
            self.read = 0;
            self.skip = self.frame.length.saturating_sub(u32::try_from(wanted - HEADER).unwrap_or(0));
            return Some(self.frame);
        }
    }
}

impl Frame {
    /// RFC 9113 §4.1.
    fn of(bytes: &[u8; HEADER + MOST_PAYLOAD]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3, ..] = *bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
            error: NO_ERROR,
        }
    }

    /// Bytes of its payload that matter. A frame too short for them is h2's to refuse.
    fn looked_at(&self) -> usize {
        match self.kind {
            RST_STREAM if self.length >= 4 => 4,
            GOAWAY if self.length >= 8 => 8,
            _ => 0,
        }
    }

    fn error_in(&self, payload: &[u8]) -> u32 {
        match (self.kind, payload) {
            (GOAWAY, [_, _, _, _, a, b, c, d]) | (_, [a, b, c, d, ..]) => {
                u32::from_be_bytes([*a, *b, *c, *d])
            }
            _ => NO_ERROR,
        }
    }
}

const PREFACE: u32 = 24;
const HEADER: usize = 9;
/// Of a GOAWAY: its last stream and its error code.
const MOST_PAYLOAD: usize = 8;
/// Less of a window than this is given back by nobody who means well.
const LEAST_UPDATE: u64 = 2_048;
const MOST_UPDATES: u64 = 65_536;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;
const END_STREAM: u8 = 0x1;

/// RFC 9113 §7.
const NO_ERROR: u32 = 0x0;
const PROTOCOL_ERROR: u32 = 0x1;
const INTERNAL_ERROR: u32 = 0x2;
const REFUSED_STREAM: u32 = 0x7;
const CANCEL: u32 = 0x8;
/// This side had enough.
pub(crate) const ENHANCE_YOUR_CALM: u32 = 0xb;

#[cfg(test)]
mod tests;
