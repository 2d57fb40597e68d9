//! What the guard of one connection tells whoever serves it. The two never run at the same time, but hyper wants to
//! send a connection between threads, so these are atomics, which nobody contends for.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
};

use sidegate_codes::Code;

use super::framing::{Fault, Framing, Scanner};
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
    /// Whether the last request that asked for a tunnel got one: `NOT_DECIDED`, `NO_TUNNEL`, `TUNNEL`.
    tunnel: AtomicU8,
}

/// Why the guard let nothing more through.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    code: Code,
    detail: String,
    /// hyper answers it by itself.
    is_answered: bool,
}

impl Refusal {
    /// Of a request's bytes.
    pub(super) fn of(fault: Fault, is_in_head: bool) -> Self {
        Self { code: fault.code(), detail: fault.to_string(), is_answered: is_in_head }
    }

    /// As it is recorded.
    pub(crate) fn error(&self) -> Error {
        Error::bad_request(self.code, self.detail.clone())
    }

    /// Whether the downstream is told by hyper.
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

    /// Whether the guard read the request that hyper hands out as the `nth` one, from 1 on, with the same framing. A
    /// guard that has read further (the client pipelines) has at least read as many.
    pub(crate) fn agrees(&self, nth: u64, length: Option<u64>) -> bool {
        let heads = self.heads.load(Relaxed);
        heads > nth || (heads == nth && self.framing.load(Relaxed) == length.unwrap_or(CHUNKED))
    }

    /// A request that could have opened a tunnel is answered, and did or did not.
    pub(crate) fn decide(&self, is_tunnel: bool) {
        self.tunnel.store(if is_tunnel { TUNNEL } else { NO_TUNNEL }, Relaxed);
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
        self.is_in_head.store(scanner.is_in_head(), Relaxed);
        let framing = match scanner.framing() {
            Framing::Length(length) => length,
            Framing::Chunked => CHUNKED,
        };
        self.framing.store(framing, Relaxed);
    }

    /// The first reason is the reason.
    pub(super) fn refuse(&self, refusal: Refusal) {
        let _ = self.refusal.set(refusal);
    }
}

/// No length: hyper refuses one as large.
const CHUNKED: u64 = u64::MAX;

const NOT_DECIDED: u8 = 0;
const NO_TUNNEL: u8 = 1;
const TUNNEL: u8 = 2;
