//! One stream as either side of a link sees it: what came of it and was not read, how much may come and go, and how it ended. Wakes
//! whoever waits for that, and refuses what comes beyond its window or its end.

use std::{io, task::Waker};

use bytes::BytesMut;

use super::Broken;

/// One stream.
#[derive(Debug)]
pub(super) struct Channel {
    /// What came and nobody has read yet.
    pub(super) incoming: BytesMut,
    /// Bytes that the other side may still send, of `limit` at most, and those that were read since it was last told.
    pub(super) due: u32,
    pub(super) taken: u32,
    pub(super) limit: u32,
    /// Bytes that were read.
    pub(super) read: u64,
    /// Bytes that this side may still send.
    pub(super) window: u32,
    /// What the first frame that goes out says beside: that the stream is taken.
    pub(super) greeting: u16,
    /// Nothing more comes; nothing more goes.
    pub(super) has_ended: bool,
    pub(super) is_shut: bool,
    /// The stream or its link is broken.
    pub(super) broken: Option<io::ErrorKind>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Channel {
    /// Of which nothing was said. `greeting`: what its first frame says beside.
    pub(super) fn new(greeting: u16) -> Self {
        Self {
            incoming: BytesMut::new(),
            due: WINDOW,
            taken: 0,
            limit: WINDOW,
            read: 0,
            window: WINDOW,
            greeting,
            has_ended: false,
            is_shut: false,
            broken: None,
            reader: None,
            writer: None,
        }
    }

    pub(super) fn came(&mut self, bytes: &[u8]) {
        if self.broken.is_none() && !bytes.is_empty() {
            self.incoming.extend_from_slice(bytes);
            self.wake_reader();
        }
    }

    /// This many bytes are about to come.
    pub(super) fn expect(&mut self, length: u32) -> Result<(), Broken> {
        if self.has_ended && length > 0 {
            return Err(Broken::Protocol("data behind the end of its stream"));
        }
        self.due = self.due.checked_sub(length).ok_or(Broken::Protocol("more data than its window takes"))?;
        Ok(())
    }

    pub(super) fn widen(&mut self, by: u32) -> Result<(), Broken> {
        self.window = self.window.checked_add(by).ok_or(Broken::Protocol("a window beyond 32 bits"))?;
        self.wake_writer();
        Ok(())
    }

    /// What was reset does not end in order any more.
    pub(super) fn end(&mut self) {
        self.has_ended |= self.broken.is_none();
        self.wake_reader();
    }

    pub(super) fn fail(&mut self, kind: io::ErrorKind) {
        self.broken.get_or_insert(kind);
        self.wake_reader();
        self.wake_writer();
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

/// What each side may send on a stream before it hears of the other (yamux, "Flow Control").
pub(super) const WINDOW: u32 = 256 * 1024;
