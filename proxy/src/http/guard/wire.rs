//! What the guard of one connection tells whoever serves it. The two never run at the same time, but hyper, which reads HTTP/2, wants to
//! send a connection between threads, so these are atomics, which nobody contends for.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use sidegate_codes::Code;

use super::{
    frames::{ENHANCE_YOUR_CALM, Flood, Said},
    framing::{Fault, Framing, Scanner},
};
use crate::error::Error;

/// One connection, seen from the guard.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    refusal: OnceLock<Refusal>,
    is_told: AtomicBool,
    /// Complete request heads so far.
    heads: AtomicU64,
    /// The framing of the last one: its length, or `CHUNKED`.
    framing: AtomicU64,
    is_in_head: AtomicBool,
    /// The last request was read to its end.
    is_between: AtomicBool,
    /// Whether the last request that asked for a tunnel got one: `NOT_DECIDED`, `NO_TUNNEL`, `TUNNEL`.
    tunnel: AtomicU8,
    /// Bytes of it came before that.
    is_early: AtomicBool,
    /// Requests handed out so far.
    requests: AtomicU64,
    /// Bytes of answers taken by the downstream so far.
    progress: AtomicU64,
    /// The downstream takes no bytes just now.
    is_blocked: AtomicBool,
    /// Everything that was written is on its way.
    is_flushed: AtomicBool,
    /// It only waits for the other side to close.
    is_closing: AtomicBool,
    /// What h2 refused by itself and nobody has recorded yet.
    streams_refused: AtomicU64,
    streams_broken: AtomicU64,
    heads_too_large: AtomicU64,
    /// The error of a GOAWAY that h2 sent.
    goaway: AtomicU32,
}

/// Why the guard let nothing more through.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    code: Code,
    detail: String,
    /// Whoever parses messages answers it.
    is_answered: bool,
}

impl Refusal {
    /// Of a request's bytes.
    pub(super) fn of(fault: Fault, is_in_head: bool) -> Self {
        Self { code: fault.code(), detail: fault.to_string(), is_answered: is_in_head }
    }

    /// Of too many frames.
    pub(super) fn flood(flood: Flood) -> Self {
        Self { code: Code::Http2Flood, detail: flood.to_string(), is_answered: false }
    }

    /// As it is recorded.
    pub(crate) fn error(&self) -> Error {
        Error::bad_request(self.code, self.detail.clone())
    }

    /// Whether the downstream is told by whoever parses messages.
    pub(crate) fn is_answered(&self) -> bool {
        self.is_answered
    }
}

impl Wire {
    /// The reason why nothing more is read, for whoever records it first.
    pub(crate) fn untold(&self) -> Option<&Refusal> {
        let refusal = self.refusal.get()?;
        (!self.is_told.swap(true, Relaxed)).then_some(refusal)
    }

    /// The same, if it is of the body of a request that is being served.
    pub(crate) fn untold_of_body(&self) -> Option<&Refusal> {
        self.refusal.get().filter(|refusal| !refusal.is_answered)?;
        self.untold()
    }

    /// Whether a request head has begun and not ended.
    pub(crate) fn is_in_head(&self) -> bool {
        self.is_in_head.load(Relaxed)
    }

    /// Complete request heads so far, of HTTP/1.
    pub(crate) fn heads(&self) -> u64 {
        self.heads.load(Relaxed)
    }

    /// Requests handed out so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Another request is handed out: the how manyth.
    pub(crate) fn request(&self) -> u64 {
        self.requests.fetch_add(1, Relaxed) + 1
    }

    /// Bytes of answers that the downstream has taken.
    pub(crate) fn progress(&self) -> u64 {
        self.progress.load(Relaxed)
    }

    /// Whether the downstream takes no bytes.
    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked.load(Relaxed)
    }

    /// Whether the connection is between two requests of HTTP/1: each that came was handed out and read to its end, and what
    /// was written is on its way.
    pub(crate) fn is_at_rest(&self) -> bool {
        let is_read = self.is_between.load(Relaxed) && self.heads() == self.requests();
        is_read && self.is_flushed.load(Relaxed) && !self.is_closing() && self.refusal.get().is_none()
    }

    /// Whether it only waits for the other side to close.
    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing.load(Relaxed)
    }

    /// What h2 refused by itself since this was asked last, one by one.
    pub(crate) fn refused_by_h2(&self) -> impl Iterator<Item = Error> {
        let kinds = [
            (&self.streams_refused, Code::StreamRefused, "limits.streams reached"),
            (&self.streams_broken, Code::BadFraming, "a stream that broke HTTP/2"),
            (&self.heads_too_large, Code::HeadersTooLarge, "limits.headerBytes"),
        ];
        kinds.into_iter().flat_map(|(count, code, detail)| {
            (0..count.swap(0, Relaxed)).map(move |_| Error::bad_request(code, detail))
        })
    }

    /// Why h2 ended the connection, if it was the peer's fault.
    pub(crate) fn ended_by_h2(&self, detail: &str) -> Option<Error> {
        match self.goaway.load(Relaxed) {
            0 => None,
            ENHANCE_YOUR_CALM => Some(Error::bad_request(Code::Http2Flood, detail)),
            _ => Some(Error::bad_request(Code::BadFraming, detail)),
        }
    }

    /// Whether the guard read the request that is handed out as the `nth` one, from 1 on, with the same framing. A
    /// guard that has read further (the client pipelines) has at least read as many.
    pub(crate) fn agrees(&self, nth: u64, length: Option<u64>) -> bool {
        let heads = self.heads.load(Relaxed);
        heads > nth || (heads == nth && self.framing.load(Relaxed) == length.unwrap_or(CHUNKED))
    }

    /// A request that could have opened a tunnel is answered, and did or did not.
    pub(crate) fn decide(&self, is_tunnel: bool) {
        self.tunnel.store(if is_tunnel { TUNNEL } else { NO_TUNNEL }, Relaxed);
    }

    /// Whether bytes that nobody has read follow a request that could have opened a tunnel.
    pub(crate) fn is_early(&self) -> bool {
        self.is_early.load(Relaxed)
    }

    /// What was decided of the last request that could have opened a tunnel.
    pub(super) fn decision(&self) -> Option<bool> {
        match self.tunnel.swap(NOT_DECIDED, Relaxed) {
            TUNNEL => Some(true),
            NO_TUNNEL => Some(false),
            _ => None,
        }
    }

    /// Notes how far the guard has read.
    pub(super) fn see(&self, scanner: &Scanner) {
        self.heads.store(scanner.heads(), Relaxed);
        self.is_early.store(scanner.is_early(), Relaxed);
        self.is_in_head.store(scanner.is_in_head(), Relaxed);
        self.is_between.store(scanner.is_between(), Relaxed);
        let framing = match scanner.framing() {
            Framing::Length(length) => length,
            Framing::Chunked => CHUNKED,
        };
        self.framing.store(framing, Relaxed);
    }

    /// The downstream took `bytes` of answers, or took none just now.
    pub(super) fn wrote(&self, bytes: Option<u64>) {
        self.is_blocked.store(bytes.is_none(), Relaxed);
        self.progress.fetch_add(bytes.unwrap_or(0), Relaxed);
    }

    /// Nothing more is to be sent, or something is.
    pub(super) fn flushed(&self, is_flushed: bool) {
        self.is_flushed.store(is_flushed, Relaxed);
    }

    /// This side is closed.
    pub(super) fn close(&self) {
        self.is_closing.store(true, Relaxed);
    }

    /// Notes what h2 said by itself.
    pub(super) fn hear(&self, said: Said) {
        match said {
            Said::Data(bytes) => _ = self.progress.fetch_add(u64::from(bytes), Relaxed),
            Said::StreamRefused => _ = self.streams_refused.fetch_add(1, Relaxed),
            Said::StreamBroken => _ = self.streams_broken.fetch_add(1, Relaxed),
            Said::HeadTooLarge => _ = self.heads_too_large.fetch_add(1, Relaxed),
            Said::GoAway(error) => self.goaway.store(error, Relaxed),
        }
    }

    /// The first reason is the reason.
    pub(super) fn refuse(&self, refusal: Refusal) {
        let _ = self.refusal.set(refusal);
    }
}

/// As large as no length can be.
const CHUNKED: u64 = u64::MAX;

const NOT_DECIDED: u8 = 0;
const NO_TUNNEL: u8 = 1;
const TUNNEL: u8 = 2;
