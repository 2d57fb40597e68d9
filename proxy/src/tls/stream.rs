//! TLS over TCP that holds no buffer while nothing is under way. Takes a socket and one side of rustls, does the handshake,
//! and hands on plaintext: a read takes what the socket has at once, a write hands it all its records at once. Refuses what
//! rustls refuses, for good: nothing is read or written after it.

use std::{
    cell::RefCell,
    fmt,
    future::poll_fn,
    io,
    ops::DerefMut,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustls::{
    CommonState,
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedConnectionCommon,
        UnbufferedStatus, WriteTraffic,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

thread_local! {
    /// Where records come in and go out. Lent for one call of the socket's, which asks for no other.
    static RECORDS: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM]);
    /// What was written in pieces, to be encrypted as one.
    static GATHERED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One side of a connection, as rustls keeps it.
pub(crate) trait Session: DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> + Unpin {
    type Data;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

/// A connection whose peer has proven itself.
pub(crate) struct TlsStream<S> {
    tcp: TcpStream,
    session: S,
    /// The beginning of a record, or of a handshake message, whose end has not come.
    incoming: Vec<u8>,
    /// What has come and was not asked for yet: part of a record.
    plaintext: Vec<u8>,
    /// Records that the socket has not taken yet.
    outgoing: Vec<u8>,
    /// The peer says no more.
    has_ended: bool,
    /// This side says no more.
    is_shut: bool,
    /// Why rustls refused to go on.
    refused: Option<rustls::Error>,
}

impl<S: Session> TlsStream<S> {
    /// Speaks TLS over `tcp` until the handshake is done.
    pub(crate) async fn establish(tcp: TcpStream, session: S) -> io::Result<Box<Self>> {
        let mut stream = Box::new(Self {
            tcp,
            session,
            incoming: Vec::new(),
            plaintext: Vec::new(),
            outgoing: Vec::new(),
            has_ended: false,
            is_shut: false,
            refused: None,
        });
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// What was agreed on, and who the peer is.
    pub(crate) fn agreed(&self) -> &CommonState {
        &self.session
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A client speaks first.
        self.turn(|_| Ok(()))?;
        loop {
            ready!(self.poll_send(cx))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_receive(&mut ReadBuf::new(&mut []), cx))? == 0 {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof")));
            }
        }
    }

    /// Takes what the socket has, and decrypts it into `buf` as far as there is room. Gives how much came.
    fn poll_receive(&mut self, buf: &mut ReadBuf<'_>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let result = RECORDS.with_borrow_mut(|room| {
            // Of whoever asks for less than a record, the rest is kept.
            let most = MOST_RECORD.max(buf.remaining() + OVERHEAD);
            let begun = self.incoming.len();
            let end = room.len().min(begun + most);
            let free = room.get_mut(begun..end).filter(|free| !free.is_empty());
            let mut free = ReadBuf::new(free.ok_or_else(|| invalid("a message larger than any may be"))?);
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut free))?;
            let came = free.filled().len();
            room[..begun].copy_from_slice(&self.incoming);
            let records = &mut room[..begun + came];
            let mut plaintext = std::mem::take(&mut self.plaintext);
            let received = |bytes: &[u8]| {
                let (asked_for, more) = bytes.split_at(bytes.len().min(buf.remaining()));
                buf.put_slice(asked_for);
                plaintext.extend_from_slice(more);
            };
            let done = self.process(records, received, |_| Ok(()));
            self.plaintext = plaintext;
            self.incoming = records[done?..].to_vec();
            Poll::Ready(Ok(came))
        });
        if self.refused.is_some() {
            // Why, to the peer, as far as it listens.
            let _ = self.poll_send(cx);
        }
        result
    }

    /// Lets rustls go on without more from the peer.
    fn turn(
        &mut self,
        send: impl FnOnce(&mut WriteTraffic<'_, S::Data>) -> Result<(), EncryptError>,
    ) -> io::Result<()> {
        let mut incoming = std::mem::take(&mut self.incoming);
        let mut plaintext = std::mem::take(&mut self.plaintext);
        let done = self.process(&mut incoming, |bytes| plaintext.extend_from_slice(bytes), send);
        self.plaintext = plaintext;
        forget(&mut incoming, done?);
        self.incoming = incoming;
        Ok(())
    }

    /// Lets rustls go on until it waits for more from the peer; if something may be sent then, asks `send` for it. Gives how
    /// much of `incoming` is done with.
    fn process(
        &mut self,
        incoming: &mut [u8],
        mut received: impl FnMut(&[u8]),
        send: impl FnOnce(&mut WriteTraffic<'_, S::Data>) -> Result<(), EncryptError>,
    ) -> io::Result<usize> {
        self.check()?;
        let mut done = 0;
        let result = loop {
            let UnbufferedStatus { mut discard, state } = self.session.process(&mut incoming[done..]);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        received(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing),
                // As good as transmitted: `outgoing` keeps the order.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => {
                    self.has_ended = true;
                    // What follows is ignored (RFC 8446 §6.1).
                    discard = incoming.len() - done;
                }
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    break send(&mut traffic).map(|()| discard).map_err(|_| rustls::Error::EncryptError);
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => break Ok(discard),
                Ok(_) => break Err(rustls::Error::General("data before the handshake".to_owned())),
                Err(error) => {
                    done += discard;
                    // The alert. Asked for no more than that: rustls would read on behind what it refused.
                    while self.session.wants_write()
                        && let Ok(ConnectionState::EncodeTlsData(alert)) =
                            self.session.process(&mut incoming[done..]).state
                    {
                        encode(alert, &mut self.outgoing);
                    }
                    break Err(error);
                }
            }
            done += discard;
        };
        match result {
            Ok(discard) => Ok(done + discard),
            Err(error) => {
                self.refused = Some(error);
                self.check().map(|()| done)
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        self.refused.clone().map_or(Ok(()), |error| Err(io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    /// Hands the socket what waits for it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        let result = loop {
            if sent == self.outgoing.len() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.tcp).poll_write(cx, &self.outgoing[sent..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => sent += count,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        forget(&mut self.outgoing, sent);
        result
    }
}

impl<S: Session> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            if !this.plaintext.is_empty() {
                let count = this.plaintext.len().min(buf.remaining());
                buf.put_slice(&this.plaintext[..count]);
                forget(&mut this.plaintext, count);
                return Poll::Ready(Ok(()));
            }
            this.check()?;
            if this.has_ended || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let came = ready!(this.poll_receive(buf, cx));
            if buf.filled().len() > before {
                // A failure is told to whoever reads on.
                return Poll::Ready(Ok(()));
            }
            if came? == 0 {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, TRUNCATED)));
            }
        }
    }
}

impl<S: Session> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        ready!(this.poll_send(cx))?;
        if this.is_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let buf = &buf[..buf.len().min(MOST_WRITTEN)];
        RECORDS.with_borrow_mut(|room| {
            let mut length = 0;
            this.turn(|traffic| encrypt(traffic, buf, room).map(|records| length = records))?;
            let mut records = &room[..length];
            // What rustls had to say goes before them.
            while !records.is_empty() && this.outgoing.is_empty() {
                match Pin::new(&mut this.tcp).poll_write(cx, records)? {
                    Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(count) => records = &records[count..],
                    Poll::Pending => break,
                }
            }
            this.outgoing.extend_from_slice(records);
            if let Poll::Ready(Err(error)) = this.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            Poll::Ready(Ok(buf.len()))
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        GATHERED.with_borrow_mut(|gathered| {
            gathered.clear();
            for buf in bufs {
                let count = buf.len().min(MOST_WRITTEN - gathered.len());
                gathered.extend_from_slice(&buf[..count]);
            }
            self.poll_write(cx, gathered)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_shut && this.refused.is_none() {
            let (mut record, mut length) = ([0; OVERHEAD], 0);
            this.turn(|traffic| traffic.queue_close_notify(&mut record).map(|count| length = count))?;
            this.outgoing.extend_from_slice(&record[..length]);
        }
        this.is_shut = true;
        ready!(this.poll_send(cx))?;
        match ready!(Pin::new(&mut this.tcp).poll_shutdown(cx)) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl Session for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Session for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl<S> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

/// Appends what rustls has to say to `outgoing`.
fn encode<D>(mut data: EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) {
    let begin = outgoing.len();
    while let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut outgoing[begin..]) {
        outgoing.resize(begin + size.required_size, 0);
    }
}

/// Encrypts `plaintext` into `room`, and gives the length of the records.
fn encrypt<D>(
    traffic: &mut WriteTraffic<'_, D>,
    plaintext: &[u8],
    room: &mut Vec<u8>,
) -> Result<usize, EncryptError> {
    match traffic.encrypt(plaintext, room) {
        Err(EncryptError::InsufficientSize(size)) => {
            room.resize(size.required_size, 0);
            traffic.encrypt(plaintext, room)
        }
        encrypted => encrypted,
    }
}

/// Drops the first `count` of `bytes`, and their place with the last.
fn forget(bytes: &mut Vec<u8>, count: usize) {
    bytes.drain(..count);
    if bytes.is_empty() {
        *bytes = Vec::new();
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

const TRUNCATED: &str = "the peer closed the connection without TLS close_notify";

/// The header, and what a ciphertext may be longer than its plaintext (RFC 8446 §5.2).
const MOST_RECORD: usize = 5 + 16 * 1024 + 256;

/// What is encrypted at once.
const MOST_WRITTEN: usize = 64 * 1024;

/// What records need beside as much plaintext, four of them and what goes before.
const OVERHEAD: usize = 1024;

/// For what was begun and as much as is asked for at once, or a handshake message.
const ROOM: usize = MOST_RECORD + MOST_WRITTEN + OVERHEAD;

#[cfg(test)]
mod tests;
