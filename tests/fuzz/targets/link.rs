//! What a peer sends on a shared link, against a reader here that knows no leniency: whatever the pieces it comes in, each stream hears
//! what was said on it and nothing else, its end is an end only if the peer has said so, and a peer that breaks the protocol is refused.
#![no_main]

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use libfuzzer_sys::fuzz_target;
use sidegate_proxy::{
    config::Limits,
    mux::{Bounds, Broken, Link, Side, Stream},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    runtime::Builder,
    task::{LocalSet, spawn_local},
};

fuzz_target!(|bytes: &[u8]| {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let said = Said::read(bytes);
    if said.streams.len() > MOST_STREAMS {
        return;
    }
    let (heard, ended) = LocalSet::new().block_on(&runtime, serve(bytes));
    for (number, heard) in heard.into_iter().enumerate() {
        let (id, said) = said.streams.iter().nth(number).expect("a stream that nobody has opened");
        let shown = bytes.escape_ascii();
        assert!(said.bytes.starts_with(&heard.bytes), "{id} hears what was not said on it: {shown}");
        if heard.has_ended {
            assert!(said.has_ended && heard.bytes == said.bytes, "{id} hears an end too early: {shown}");
        }
    }
    match ended {
        // Bounds that the reader here does not know.
        Err(Broken::Control | Broken::Resets | Broken::Deaf | Broken::Silent) => {}
        Err(Broken::Protocol(why)) => {
            assert!(said.is_broken || said.is_doubtful, "refused, {why}: {}", bytes.escape_ascii());
        }
        Ok(()) | Err(Broken::Truncated | Broken::Io(_)) => {
            assert!(!said.is_broken || said.has_left, "not refused: {}", bytes.escape_ascii());
        }
    }
});

/// What one stream has heard, in the order in which they were taken.
#[derive(Debug, Default)]
struct Heard {
    bytes: Vec<u8>,
    has_ended: bool,
}

/// Serves a link on which a peer says `bytes`, in pieces whose sizes they choose, and leaves.
async fn serve(bytes: &[u8]) -> (Vec<Heard>, Result<(), Broken>) {
    let (near, mut far) = duplex(1 << 20);
    let bounds = Bounds::of(&Limits::default(), Duration::from_secs(30));
    let mut link = Link::new(near, Side::Server, bounds);
    let heard: Rc<RefCell<Vec<Heard>>> = Rc::default();
    let mut hearing = Vec::new();
    let said = bytes.to_vec();
    let saying = spawn_local(async move {
        let (mut at, mut sizes) = (0, said.iter().rev().map(|byte| usize::from(*byte % 64) + 1).cycle());
        while at < said.len() {
            let end = (at + sizes.next().unwrap_or(1)).min(said.len());
            if far.write_all(&said[at..end]).await.is_err() {
                return;
            }
            at = end;
            tokio::task::yield_now().await;
        }
    });
    let ended = loop {
        match link.next().await {
            Ok(Some(stream)) => {
                let number = heard.borrow().len();
                heard.borrow_mut().push(Heard::default());
                hearing.push(spawn_local(hear(stream, number, Rc::clone(&heard))));
            }
            Ok(None) => break Ok(()),
            Err(broken) => break Err(broken),
        }
    };
    drop(link);
    saying.await.expect("the peer");
    for stream in hearing {
        stream.await.expect("a stream");
    }
    (heard.take(), ended)
}

async fn hear(mut stream: Stream, number: usize, heard: Rc<RefCell<Vec<Heard>>>) {
    let mut piece = [0; 100];
    while let Ok(count) = stream.read(&mut piece).await {
        if count == 0 {
            heard.borrow_mut()[number].has_ended = true;
            break;
        }
        heard.borrow_mut()[number].bytes.extend_from_slice(&piece[..count]);
    }
}

/// What the bytes say, up to the first of them that nobody may say.
#[derive(Debug, Default)]
struct Said {
    streams: BTreeMap<u32, Stated>,
    is_broken: bool,
    /// Something was said that is refused, unless nobody listens to its stream any more.
    is_doubtful: bool,
    /// The peer has said that it opens no more: the link may be over before the rest is read.
    has_left: bool,
}

#[derive(Debug)]
struct Stated {
    bytes: Vec<u8>,
    has_ended: bool,
    is_reset: bool,
    /// What the peer may still send, of which so little is ever read that it is given no more; and what it may be sent.
    due: u32,
    window: u64,
}

impl Said {
    fn read(bytes: &[u8]) -> Self {
        let (mut said, mut rest) = (Self::default(), bytes);
        while let Some((header, behind)) = rest.split_first_chunk::<12>() {
            let number =
                |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let (kind, flags) = (header[1], u16::from_be_bytes([header[2], header[3]]));
            let (stream, length) = (number(4), number(8));
            let is_of_link = kind > 1;
            let is_known = header[0] == 0 && kind < 4 && flags < 16 && is_of_link == (stream == 0);
            if !is_known || !is_of_link && !said.is_in_order(flags, stream) {
                said.is_broken = true;
                return said;
            }
            rest = behind;
            said.has_left |= kind == 3;
            if is_of_link {
                continue;
            }
            let payload = if kind == 0 { rest.len().min(length as usize) } else { 0 };
            let (now, later) = rest.split_at(payload);
            rest = later;
            said.take(kind, flags, stream, length, now);
        }
        said
    }

    fn is_in_order(&self, flags: u16, stream: u32) -> bool {
        let last = self.streams.last_key_value().map_or(0, |(last, _)| *last);
        stream % 2 == 1 && (stream > last) == (flags & SYN != 0)
    }

    fn take(&mut self, kind: u8, flags: u16, stream: u32, length: u32, now: &[u8]) {
        if flags & SYN != 0 {
            self.streams.insert(stream, Stated::new());
        }
        let Some(open) = self.streams.get_mut(&stream) else { return };
        open.is_reset |= flags & RST != 0;
        let mut ends = flags & FIN != 0;
        if kind == 1 {
            open.window += u64::from(length);
            self.is_doubtful |= open.window > u64::from(u32::MAX);
        } else if length > open.due || length > 0 && open.has_ended {
            self.is_doubtful = true;
            return;
        } else {
            open.due -= length;
            if !open.is_reset {
                open.bytes.extend_from_slice(now);
            }
            ends &= now.len() == length as usize;
        }
        open.has_ended |= ends && !open.is_reset;
    }
}

impl Stated {
    fn new() -> Self {
        Self { bytes: Vec::new(), has_ended: false, is_reset: false, due: WINDOW, window: u64::from(WINDOW) }
    }
}

const WINDOW: u32 = 256 * 1024;
const SYN: u16 = 1;
const FIN: u16 = 4;
const RST: u16 = 8;
/// More at once are refused, in whatever order.
const MOST_STREAMS: usize = 256;
