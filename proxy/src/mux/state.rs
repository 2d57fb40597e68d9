//! What a link and its streams share. Takes the bytes that came and cuts them into frames, each of which goes to its stream or is
//! answered; gathers what goes out. Refuses, with the whole link, whatever breaks the protocol or its bounds.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice},
    rc::Rc,
    task::Waker,
    time::Instant,
};

use hashbrown::HashMap;

use super::{
    Bounds, Broken, Side,
    channel::{Channel, WINDOW},
    frame::{ACK, FIN, HEADER, Header, Kind, NORMAL, PROTOCOL_ERROR, RST, SYN},
};
use crate::bucket::Bucket;

#[derive(Debug)]
pub(super) struct State {
    side: Side,
    /// Those that are open, or of which somebody here holds on to the end.
    streams: HashMap<u32, Rc<RefCell<Channel>>>,
    /// What the other side has opened and nobody has taken yet.
    arrived: VecDeque<(u32, Rc<RefCell<Channel>>)>,
    /// What this side opens next, and what the other side opened last.
    next: u32,
    last: u32,
    /// Of the frame that comes in: as much of its header as came.
    header: [u8; HEADER],
    came: usize,
    payload: Option<Payload>,
    /// What goes out, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    /// Whoever drives the link.
    driver: Option<Waker>,
    /// This side has said that it takes no more streams, or the other side has.
    has_gone: bool,
    has_left: bool,
    broken: Option<io::ErrorKind>,
    control: Bucket,
    resets: Bucket,
    /// Frames that the other side may give a window back with, for what it was sent.
    updates: u64,
    /// Pings of this side that were not answered.
    pings: u32,
    /// By how much the windows of all streams are larger than at their beginning.
    grown: u32,
}

/// The rest of a DATA frame.
#[derive(Debug)]
struct Payload {
    left: usize,
    /// `None`: of a stream that is over here.
    channel: Option<Rc<RefCell<Channel>>>,
    /// It is the stream's last.
    ends: bool,
}

impl State {
    pub(super) fn new(side: Side, bounds: Bounds) -> Self {
        let now = Instant::now();
        Self {
            side,
            streams: HashMap::new(),
            arrived: VecDeque::new(),
            next: side.first(),
            last: 0,
            header: [0; HEADER],
            came: 0,
            payload: None,
            out: Vec::new(),
            sent: 0,
            driver: None,
            has_gone: false,
            has_left: false,
            broken: None,
            control: Bucket::new(bounds.control_frames, now),
            resets: Bucket::new(bounds.stream_resets, now),
            updates: 0,
            pings: 0,
            grown: 0,
        }
    }

    /// Opens a stream, unless either side takes no more.
    pub(super) fn open(&mut self) -> Option<(u32, Rc<RefCell<Channel>>)> {
        if !self.is_open() {
            return None;
        }
        let id = self.next;
        let Some(next) = self.next.checked_add(2) else {
            // No number is used twice.
            self.go_away();
            return None;
        };
        self.next = next;
        // At once: streams are opened in the order of their numbers, whichever is used first.
        self.put(Header::new(Kind::Window, SYN, id, 0));
        Some((id, self.insert(id, 0)))
    }

    pub(super) fn is_open(&self) -> bool {
        !self.has_gone && !self.has_left && self.broken.is_none()
    }

    /// Whether the other side takes no more streams.
    pub(super) fn is_left(&self) -> bool {
        self.has_left
    }

    pub(super) fn count(&self) -> usize {
        self.streams.len()
    }

    /// What the other side has opened.
    pub(super) fn arrived(&mut self) -> Option<(u32, Rc<RefCell<Channel>>)> {
        self.arrived.pop_front()
    }

    fn insert(&mut self, id: u32, greeting: u16) -> Rc<RefCell<Channel>> {
        let channel = Rc::new(RefCell::new(Channel::new(greeting)));
        self.streams.insert(id, Rc::clone(&channel));
        channel
    }

    /// Takes what came.
    pub(super) fn receive(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        self.pings = 0;
        if self.out.len() - self.sent >= MOST_UNANSWERED {
            return Err(Broken::Deaf);
        }
        while !bytes.is_empty() {
            if let Some(payload) = &mut self.payload {
                let (now, later) = bytes.split_at(bytes.len().min(payload.left));
                bytes = later;
                payload.left -= now.len();
                if let Some(channel) = &payload.channel {
                    channel.borrow_mut().came(now);
                }
                self.end_payload();
                continue;
            }
            let taken = bytes.len().min(HEADER - self.came);
            self.header[self.came..self.came + taken].copy_from_slice(&bytes[..taken]);
            self.came += taken;
            bytes = &bytes[taken..];
            if self.came == HEADER {
                self.came = 0;
                self.take(Header::of(self.header)?)?;
            }
        }
        Ok(())
    }

    fn end_payload(&mut self) {
        if let Some(payload) = self.payload.take_if(|payload| payload.left == 0)
            && payload.ends
            && let Some(channel) = payload.channel
        {
            channel.borrow_mut().end();
        }
    }

    fn take(&mut self, header: Header) -> Result<(), Broken> {
        match header.kind {
            Kind::Ping if header.has(ACK) => Ok(()),
            Kind::Ping => {
                self.control()?;
                self.put(Header::new(Kind::Ping, ACK, 0, header.length));
                Ok(())
            }
            Kind::GoAway => {
                self.control()?;
                self.has_left = true;
                Ok(())
            }
            Kind::Data | Kind::Window => self.take_of_stream(header),
        }
    }

    fn take_of_stream(&mut self, header: Header) -> Result<(), Broken> {
        if header.has(SYN) {
            self.take_stream(header.stream)?;
        } else if header.stream
            > if self.is_own(header.stream) { self.next.saturating_sub(1) } else { self.last }
        {
            return Err(Broken::Protocol("a frame of a stream that was not opened"));
        }
        let channel = self.streams.get(&header.stream).cloned();
        if header.has(RST) {
            self.reset()?;
            if let Some(channel) = &channel {
                channel.borrow_mut().fail(io::ErrorKind::ConnectionReset);
            }
        }
        if header.kind == Kind::Data {
            return self.take_data(header, channel);
        }
        let grows = header.length > 0;
        if grows && self.updates > 0 {
            self.updates -= 1;
        } else if !header.has(SYN | FIN | RST) || channel.is_none() {
            self.control()?;
        }
        if let Some(channel) = &channel {
            let mut channel = channel.borrow_mut();
            if grows {
                channel.widen(header.length)?;
            }
            if header.has(FIN) {
                channel.end();
            }
        }
        Ok(())
    }

    fn take_data(&mut self, header: Header, channel: Option<Rc<RefCell<Channel>>>) -> Result<(), Broken> {
        if channel.is_none() || header.length == 0 && !header.has(SYN | FIN | RST) {
            self.control()?;
        }
        if let Some(channel) = &channel {
            channel.borrow_mut().expect(header.length)?;
        }
        let left = usize::try_from(header.length).unwrap_or(usize::MAX);
        self.payload = Some(Payload { left, channel, ends: header.has(FIN) });
        self.end_payload();
        Ok(())
    }

    fn is_own(&self, stream: u32) -> bool {
        stream % 2 == self.side.first() % 2
    }

    /// The other side opens a stream. One too many is refused at once.
    fn take_stream(&mut self, stream: u32) -> Result<(), Broken> {
        if self.side == Side::Client || self.is_own(stream) || stream <= self.last {
            return Err(Broken::Protocol("a stream that it may not open"));
        }
        self.last = stream;
        if self.has_gone || self.streams.len() >= MOST_STREAMS {
            self.reset()?;
            self.put(Header::new(Kind::Window, RST, stream, 0));
            return Ok(());
        }
        let channel = self.insert(stream, ACK);
        self.arrived.push_back((stream, channel));
        Ok(())
    }

    /// The other side has reset a stream, or opened one too many. Whoever does that too often opens no more, and those of others that
    /// share the link go on; whoever does not heed that is left.
    fn reset(&mut self) -> Result<(), Broken> {
        if self.resets.take(&Instant::now).is_some() {
            return Ok(());
        }
        if self.has_gone {
            return Err(Broken::Resets);
        }
        self.resets.refill();
        self.go_away();
        Ok(())
    }

    fn control(&mut self) -> Result<(), Broken> {
        self.control.take(&Instant::now).ok_or(Broken::Control)
    }

    fn put(&mut self, header: Header) {
        self.out.extend_from_slice(&header.bytes());
        self.wake();
    }

    /// Whoever drives the link has something to do.
    pub(super) fn wake(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    pub(super) fn driven_by(&mut self, driver: &Waker) {
        self.driver = Some(driver.clone());
    }

    /// Gathers as much of `bufs` as may go now. `None`: nothing may.
    pub(super) fn send(&mut self, id: u32, channel: &mut Channel, bufs: &[IoSlice<'_>]) -> Option<usize> {
        let asked = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        let window = channel.window.min(MOST_PAYLOAD);
        if window == 0 || self.is_full() {
            return None;
        }
        let length = u32::try_from(asked).unwrap_or(u32::MAX).min(window);
        let flags = std::mem::take(&mut channel.greeting);
        channel.window -= length;
        self.updates = self.updates.saturating_add(1 + u64::from(length / LEAST_UPDATE)).min(MOST_UPDATES);
        self.put(Header::new(Kind::Data, flags, id, length));
        let mut left = length as usize;
        for buf in bufs {
            let part = &buf[..buf.len().min(left)];
            self.out.extend_from_slice(part);
            left -= part.len();
        }
        Some(length as usize)
    }

    /// `count` bytes of a stream were read. The other side is told in large steps.
    pub(super) fn read(&mut self, id: u32, channel: &mut Channel, count: usize) {
        channel.taken = channel.taken.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        channel.read = channel.read.saturating_add(count as u64);
        if channel.taken < channel.limit / 2 || channel.has_ended || channel.broken.is_some() {
            return;
        }
        let more = std::mem::take(&mut channel.taken) + self.grow(channel);
        channel.due += more;
        let flags = std::mem::take(&mut channel.greeting);
        self.put(Header::new(Kind::Window, flags, id, more));
    }

    /// Gives more room to a stream that carries much: over a long way, its window bounds its throughput.
    fn grow(&mut self, channel: &mut Channel) -> u32 {
        let wanted = u32::try_from(channel.read / 2).unwrap_or(u32::MAX).min(MOST_WINDOW);
        let more = wanted.saturating_sub(channel.limit).min(MOST_GROWN - self.grown);
        channel.limit += more;
        self.grown += more;
        more
    }

    /// This side has said all that it has to say on a stream.
    pub(super) fn shut(&mut self, id: u32, channel: &mut Channel) {
        if !channel.is_shut && channel.broken.is_none() {
            let flags = std::mem::take(&mut channel.greeting);
            self.put(Header::new(Kind::Window, flags | FIN, id, 0));
        }
        channel.is_shut = true;
    }

    /// Nobody holds on to a stream any more. What was not ended is reset.
    pub(super) fn forget(&mut self, id: u32, channel: &Channel) {
        let is_over = channel.has_ended && channel.is_shut || channel.broken.is_some();
        if !is_over {
            self.put(Header::new(Kind::Window, channel.greeting | RST, id, 0));
        }
        self.streams.remove(&id);
        self.grown -= channel.limit - WINDOW;
        // It may have been the last.
        self.wake();
    }

    /// Takes no more streams.
    pub(super) fn go_away(&mut self) {
        if !self.has_gone {
            self.has_gone = true;
            self.put(Header::new(Kind::GoAway, 0, 0, NORMAL));
        }
    }

    /// The last word to a side that breaks the protocol.
    pub(super) fn refuse(&mut self) {
        self.put(Header::new(Kind::GoAway, 0, 0, PROTOCOL_ERROR));
    }

    pub(super) fn is_over(&self) -> bool {
        (self.has_gone || self.has_left) && self.streams.is_empty()
    }

    /// Asks whether the other side is still there. Gives how often it has not said anything since it was asked.
    pub(super) fn ping(&mut self) -> u32 {
        let silent = self.pings;
        self.pings += 1;
        self.put(Header::new(Kind::Ping, SYN, 0, self.pings));
        silent
    }

    /// What goes out.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// So much of it is gone. The room is kept: a link that is used gathers as much again.
    pub(super) fn sent(&mut self, count: usize) {
        let was_full = self.is_full();
        self.sent += count;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        if was_full && !self.is_full() {
            for channel in self.streams.values() {
                channel.borrow_mut().wake_writer();
            }
        }
    }

    /// Whether so much waits to go out that nothing more is taken on.
    pub(super) fn is_full(&self) -> bool {
        self.out.len() - self.sent >= MOST_UNSENT
    }

    /// Gives back what room there is beyond what waits.
    pub(super) fn rest(&mut self) {
        self.out.shrink_to_fit();
    }

    /// The link is over, and with it all its streams.
    pub(super) fn end(&mut self, kind: io::ErrorKind) {
        self.broken.get_or_insert(kind);
        self.arrived.clear();
        self.payload = None;
        for channel in self.streams.values() {
            channel.borrow_mut().fail(kind);
        }
    }
}

/// What one stream may grow to, and all of them together.
const MOST_WINDOW: u32 = 4 * 1024 * 1024;
const MOST_GROWN: u32 = 16 * 1024 * 1024;
/// Of one frame, so that a large body leaves room for others.
const MOST_PAYLOAD: u32 = 64 * 1024;
/// A stream asks for no more to be gathered from here on.
const MOST_UNSENT: usize = 128 * 1024;
/// Streams ask for less; the rest are answers to frames that are no part of one.
const MOST_UNANSWERED: usize = 2 * MOST_UNSENT;
/// That the other side may have open at once.
const MOST_STREAMS: usize = 256;
/// Less of a window than this is given back by nobody who means well.
const LEAST_UPDATE: u32 = 2_048;
const MOST_UPDATES: u64 = 65_536;
