use std::{
    cell::Cell,
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, future::join_all};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::{LocalSet, spawn_local},
};
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::{
    frame::{FIN, HEADER, Header, Kind, RST, SYN},
    *,
};

const BOUNDS: Bounds = Bounds { control_frames: 10, stream_resets: 10, idle: Duration::from_secs(30) };
const PIPE: usize = 64 * 1024;

/// Drives a server's side to its end, and serves each stream with `serve`.
async fn drive<T, F>(transport: T, serve: impl Fn(Stream) -> F) -> Result<(), Broken>
where
    T: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = ()> + 'static,
{
    let mut link = Link::new(transport, Side::Server, BOUNDS);
    while let Some(stream) = link.next().await? {
        spawn_local(serve(stream));
    }
    Ok(())
}

/// The client's side of a link, driven by a task of its own.
fn client<T: AsyncRead + AsyncWrite + Unpin + 'static>(transport: T) -> Opener {
    let mut link = Link::new(transport, Side::Client, BOUNDS);
    let opener = link.opener();
    spawn_local(async move { link.next().await.map(|stream| assert!(stream.is_none())) });
    opener
}

/// The client's side of a link whose server says back what it hears.
fn echoing() -> Opener {
    let (near, far) = duplex(PIPE);
    spawn_local(drive(far, echo));
    client(near)
}

/// The server's side of a link, and both ends of a stream on which `request` was said.
async fn opened() -> (Link<DuplexStream>, Stream, Opener, Stream) {
    let (near, far) = duplex(PIPE);
    let mut server = Link::new(far, Side::Server, BOUNDS);
    let opener = client(near);
    let mut stream = opener.open().unwrap();
    stream.write_all(b"request").await.unwrap();
    let taken = server.next().await.unwrap().unwrap();
    (server, taken, opener, stream)
}

/// Says back what it hears, until the other side has said all.
async fn echo(stream: Stream) {
    let (mut read, mut write) = tokio::io::split(stream);
    // Whoever resets it has heard enough.
    if tokio::io::copy(&mut read, &mut write).await.is_ok() {
        let _ = write.shutdown().await;
    }
}

/// What a link says of `frames`, which its peer sends and then waits.
async fn said_of(side: Side, frames: &[u8]) -> Result<Option<Stream>, Broken> {
    let (near, mut far) = duplex(PIPE);
    far.write_all(frames).await.unwrap();
    let mut link = Link::new(near, side, BOUNDS);
    // Taken, and held: the stream is not over.
    let mut taken = Vec::new();
    loop {
        tokio::select! {
            biased;
            next = link.next() => match next? {
                Some(stream) => taken.push(stream),
                None => return Ok(None),
            },
            () = tokio::task::yield_now() => return Ok(taken.pop()),
        }
    }
}

fn frame(kind: Kind, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    Header::new(kind, flags, stream, length).bytes().to_vec()
}

fn data(flags: u16, stream: u32, payload: &[u8]) -> Vec<u8> {
    [frame(Kind::Data, flags, stream, u32::try_from(payload.len()).unwrap()), payload.to_vec()].concat()
}

#[tokio::test(start_paused = true)]
async fn each_of_many_streams_hears_what_was_said_on_it_and_its_end() {
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(1024);
            spawn_local(drive(far, echo));
            let opener = client(near);
            let calls = (0..50_usize).map(|n| {
                let mut stream = opener.open().unwrap();
                async move {
                    let said = vec![u8::try_from(n).unwrap(); 1000 * n];
                    let mut heard = Vec::new();
                    let (mut read, mut write) = tokio::io::split(&mut stream);
                    let saying = async {
                        write.write_all(&said).await.unwrap();
                        write.shutdown().await.unwrap();
                    };
                    let ((), count) = tokio::join!(saying, read.read_to_end(&mut heard));
                    assert_eq!(count.unwrap(), said.len());
                    assert!(heard == said);
                }
            });
            join_all(calls).await;
            assert_eq!(opener.count(), 0, "none is kept");
        })
        .await;
}

/// Counts what is written at once.
struct Counted {
    stream: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn what_many_say_in_one_turn_is_one_write() {
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(PIPE);
            spawn_local(drive(far, echo));
            let writes = Arc::default();
            let opener = client(Counted { stream: near, writes: Arc::clone(&writes) });
            let mut streams: Vec<_> = (0..32).map(|_| opener.open().unwrap()).collect();
            for round in 1..=3 {
                let calls = streams.iter_mut().map(async |stream| {
                    stream.write_all(b"request").await.unwrap();
                    stream.read_exact(&mut [0; 7]).await.unwrap();
                });
                join_all(calls).await;
                assert_eq!(writes.load(Relaxed), round);
            }
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_dropped_before_its_end_is_reset_at_the_other_side() {
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(PIPE);
            let seen = Rc::new(Cell::new(None));
            let ended = Rc::clone(&seen);
            let serve = move |mut stream: Stream| {
                let ended = Rc::clone(&ended);
                async move {
                    let mut heard = Vec::new();
                    let end = stream.read_to_end(&mut heard).await.unwrap_err();
                    assert_eq!(heard, b"half a requ");
                    ended.set(Some(end.kind()));
                }
            };
            spawn_local(drive(far, serve));
            let opener = client(near);
            let mut stream = opener.open().unwrap();
            stream.write_all(b"half a requ").await.unwrap();
            drop(stream);
            while seen.get().is_none() {
                tokio::task::yield_now().await;
            }
            assert_eq!(seen.get(), Some(io::ErrorKind::ConnectionReset));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_reads_takes_no_more_than_its_window_and_holds_up_no_other() {
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(PIPE);
            let is_first = Cell::new(true);
            let serve = move |stream: Stream| {
                let is_deaf = is_first.replace(false);
                async move {
                    if is_deaf {
                        std::future::pending::<()>().await;
                    }
                    echo(stream).await;
                }
            };
            spawn_local(drive(far, serve));
            let opener = client(near);
            let mut deaf = opener.open().unwrap();
            let mut sent = 0;
            let endless = async {
                loop {
                    sent += deaf.write(&[0; 4096]).await.unwrap();
                }
            };
            let other = async {
                let mut stream = opener.open().unwrap();
                for _ in 0..1000 {
                    stream.write_all(&[7; 1000]).await.unwrap();
                    stream.read_exact(&mut [0; 1000]).await.unwrap();
                }
            };
            tokio::select! {
                biased;
                () = endless => unreachable!(),
                () = other => {}
            }
            assert_eq!(sent, 256 * 1024);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_large_body_passes_with_a_window_that_grows_with_it() {
    const LENGTH: usize = 40 * 1024 * 1024;
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(PIPE);
            let serve = |mut stream: Stream| async move {
                let piece = vec![1; 1024 * 1024];
                for _ in 0..LENGTH / piece.len() {
                    stream.write_all(&piece).await.unwrap();
                }
                stream.shutdown().await.unwrap();
                let mut none = Vec::new();
                stream.read_to_end(&mut none).await.unwrap();
            };
            spawn_local(drive(far, serve));
            let opener = client(near);
            let mut stream = opener.open().unwrap();
            let copied = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
            assert_eq!(copied, LENGTH as u64);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_away_takes_no_more_streams_and_finishes_those_that_are_open() {
    LocalSet::new()
        .run_until(async {
            let (mut server, taken, opener, mut stream) = opened().await;
            server.go_away();
            spawn_local(echo(taken));
            let ended = spawn_local(async move { server.next().await });
            stream.read_exact(&mut [0; 7]).await.unwrap();
            assert!(opener.open().is_none());
            assert!(!opener.is_open());
            stream.shutdown().await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
            drop(stream);
            assert!(ended.await.unwrap().unwrap().is_none(), "it ends in order");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_ends_under_its_streams_breaks_them() {
    LocalSet::new()
        .run_until(async {
            let (mut server, mut taken, opener, mut stream) = opened().await;
            taken.write_all(b"half an ans").await.unwrap();
            // Sent, with the rest of the turn.
            tokio::select! {
                biased;
                _ = server.next() => unreachable!(),
                () = tokio::task::yield_now() => {}
            }
            drop(server);
            let mut heard = Vec::new();
            let end = stream.read_to_end(&mut heard).await.unwrap_err();
            assert_eq!(heard, b"half an ans");
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof, "and not as if the answer were complete");
            assert!(stream.write(b"more").await.is_err());
            assert!(taken.read(&mut [0; 8]).await.unwrap() > 0, "what has come by then is there");
            assert!(taken.read(&mut [0; 8]).await.is_err());
            assert!(opener.open().is_none());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_behind_a_cut() {
    LocalSet::new()
        .run_until(async {
            let (server, mut taken, _opener, _stream) = opened().await;
            server.state.borrow_mut().end(io::ErrorKind::ConnectionAborted);
            let cut = taken.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(cut.kind(), io::ErrorKind::ConnectionAborted);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_link_without_streams_ends_after_a_time_and_one_with_a_stream_does_not() {
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(PIPE);
            let ended = spawn_local(drive(far, echo));
            let opener = client(near);
            let begun = Instant::now();
            let mut stream = opener.open().unwrap();
            stream.write_all(b"hello").await.unwrap();
            tokio::time::sleep(BOUNDS.idle * 5).await;
            stream.read_exact(&mut [0; 5]).await.unwrap();
            assert!(opener.is_open());
            drop(stream);
            ended.await.unwrap().unwrap();
            let idle = begun.elapsed().saturating_sub(BOUNDS.idle * 5);
            assert!((BOUNDS.idle..BOUNDS.idle + PULSE * 2).contains(&idle), "{idle:?}");
            assert!(!opener.is_open());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_side_that_has_fallen_silent_is_noticed() {
    let (near, _far) = duplex(PIPE);
    let mut link = Link::new(near, Side::Client, BOUNDS);
    let _stream = link.opener().open().unwrap();
    let begun = Instant::now();
    assert!(matches!(link.next().await, Err(Broken::Silent)));
    assert!(begun.elapsed() <= PULSE * 4, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn whatever_breaks_the_protocol_ends_the_link() {
    let window = u32::try_from(PIPE).unwrap();
    let first = data(SYN, 1, b"hello");
    let then = |next: Vec<u8>| [first.clone(), next].concat();
    let cases = [
        ("a version other than 0", Side::Server, [vec![1], vec![0; HEADER - 1]].concat()),
        ("a frame of no known kind", Side::Server, [vec![0, 4], vec![0; HEADER - 2]].concat()),
        ("a flag that nobody knows", Side::Server, frame(Kind::Data, 16 | SYN, 1, 0)),
        ("a frame with a stream that its kind does not have", Side::Server, frame(Kind::Ping, SYN, 1, 0)),
        ("a frame with a stream that its kind does not have", Side::Server, data(SYN, 0, b"x")),
        ("a frame of a stream that was not opened", Side::Server, data(0, 1, b"x")),
        ("a frame of a stream that was not opened", Side::Server, frame(Kind::Window, 0, 2, 1)),
        ("a frame of a stream that was not opened", Side::Client, frame(Kind::Window, 0, 1, 1)),
        ("a stream that it may not open", Side::Server, data(SYN, 2, b"x")),
        ("a stream that it may not open", Side::Client, data(SYN, 2, b"x")),
        ("a stream that it may not open", Side::Server, then(data(SYN, 1, b"x"))),
        ("a stream that it may not open", Side::Server, [data(SYN, 3, b"x"), data(SYN, 1, b"x")].concat()),
        ("more data than its window takes", Side::Server, then(frame(Kind::Data, 0, 1, 256 * 1024))),
        ("more data than its window takes", Side::Server, frame(Kind::Data, SYN, 1, window * 4 + 1)),
        ("a window beyond 32 bits", Side::Server, then(frame(Kind::Window, 0, 1, u32::MAX - 256 * 1024 + 1))),
        (
            "data behind the end of its stream",
            Side::Server,
            then([data(FIN, 1, b""), data(0, 1, b"x")].concat()),
        ),
    ];
    for (why, side, frames) in cases {
        match said_of(side, &frames).await {
            Err(Broken::Protocol(said)) => assert_eq!(said, why, "{frames:?}"),
            other => panic!("{why}: {other:?}"),
        }
    }
    assert!(
        said_of(Side::Server, &then(data(0, 1, b"x"))).await.unwrap().is_some(),
        "and what keeps it does not"
    );
}

#[tokio::test(start_paused = true)]
async fn frames_that_are_no_part_of_a_stream_are_bounded() {
    let most = usize::try_from(BOUNDS.control_frames).unwrap() * 10;
    let opened = data(SYN, 1, b"x");
    for flood in [
        frame(Kind::Ping, SYN, 0, 1),
        frame(Kind::GoAway, 0, 0, 0),
        data(0, 1, b""),
        frame(Kind::Window, 0, 1, 0),
        frame(Kind::Window, 0, 1, 1),
    ] {
        let frames = [opened.clone(), flood.repeat(most)].concat();
        assert!(said_of(Side::Server, &frames).await.is_ok(), "{flood:?}");
        let frames = [opened.clone(), flood.repeat(most + 1)].concat();
        assert!(matches!(said_of(Side::Server, &frames).await, Err(Broken::Control)), "{flood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_without_end_and_takes_no_answers_is_left() {
    let (near, mut far) = duplex(1024);
    let mut link = Link::new(near, Side::Server, Bounds { control_frames: 1_000_000, ..BOUNDS });
    let asking = async {
        let pings = frame(Kind::Ping, SYN, 0, 1).repeat(1000);
        while far.write_all(&pings).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = link.next() => assert!(matches!(ended, Err(Broken::Deaf)), "{ended:?}"),
        () = asking => unreachable!(),
    }
}

/// So many streams that are opened and reset at once.
fn opened_and_reset(count: u32) -> Vec<u8> {
    let one = |n: u32| [data(SYN, 2 * n + 1, b"x"), frame(Kind::Window, RST, 2 * n + 1, 0)].concat();
    (0..count).flat_map(one).collect()
}

#[tokio::test(start_paused = true)]
async fn whoever_resets_too_many_streams_opens_no_more_and_those_that_are_open_go_on() {
    LocalSet::new()
        .run_until(async {
            let most = BOUNDS.stream_resets * 10;
            let opener = echoing();
            let mut open = opener.open().unwrap();
            open.write_all(b"x").await.unwrap();
            open.read_exact(&mut [0; 1]).await.unwrap();
            for n in 0..=most {
                assert!(opener.is_open(), "after {n}");
                let mut stream = opener.open().unwrap();
                stream.write_all(b"x").await.unwrap();
                stream.read_exact(&mut [0; 1]).await.unwrap();
                drop(stream);
            }
            while opener.is_open() {
                tokio::task::yield_now().await;
            }
            open.write_all(b"y").await.unwrap();
            open.read_exact(&mut [0; 1]).await.unwrap();
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn streams_that_are_opened_and_reset_at_once_are_bounded() {
    let most = BOUNDS.stream_resets * 10;
    assert!(said_of(Side::Server, &opened_and_reset(most)).await.is_ok());
    // Once it has been told to open no more, a stream counts twice: it is refused, and reset.
    let heedless = said_of(Side::Server, &opened_and_reset(most + 1 + most)).await;
    assert!(matches!(heedless, Err(Broken::Resets)), "{heedless:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_over_the_limit_is_reset_and_the_others_go_on() {
    LocalSet::new()
        .run_until(async {
            let opener = echoing();
            let mut streams: Vec<_> = (0..257).map(|_| opener.open().unwrap()).collect();
            let mut over = streams.pop().unwrap();
            for stream in &mut streams {
                stream.write_all(b"x").await.unwrap();
            }
            over.write_all(b"x").await.unwrap();
            let refused = over.read(&mut [0; 1]).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionReset);
            for stream in &mut streams {
                stream.read_exact(&mut [0; 1]).await.unwrap();
            }
        })
        .await;
}

#[tokio::test]
async fn another_implementation_of_yamux_opens_streams_of_ours() {
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(PIPE);
            spawn_local(drive(far, echo));
            let mut theirs =
                yamux::Connection::new(near.compat(), yamux::Config::default(), yamux::Mode::Client);
            let mut streams = Vec::new();
            for _ in 0..8 {
                streams.push(poll_fn(|cx| theirs.poll_new_outbound(cx)).await.unwrap());
            }
            let driving = async { while poll_fn(|cx| theirs.poll_next_inbound(cx)).await.is_some() {} };
            let calls = join_all(streams.into_iter().enumerate().map(async |(n, stream)| {
                let said = vec![u8::try_from(n).unwrap(); 1_000_000];
                let (mut read, mut write) = stream.split();
                let saying = async {
                    write.write_all(&said).await.unwrap();
                    write.close().await.unwrap();
                };
                let mut heard = Vec::new();
                let ((), count) = futures_util::join!(saying, read.read_to_end(&mut heard));
                assert_eq!(count.unwrap(), said.len());
                assert!(heard == said);
            }));
            tokio::select! {
                () = driving => panic!("their side has ended"),
                _ = calls => {}
            }
        })
        .await;
}

#[tokio::test]
async fn another_implementation_of_yamux_serves_streams_of_ours() {
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(PIPE);
            spawn_local(async move {
                let mut theirs =
                    yamux::Connection::new(far.compat(), yamux::Config::default(), yamux::Mode::Server);
                while let Some(Ok(stream)) = poll_fn(|cx| theirs.poll_next_inbound(cx)).await {
                    spawn_local(async move {
                        let (read, mut write) = stream.split();
                        futures_util::io::copy(read, &mut write).await.unwrap();
                        write.close().await.unwrap();
                    });
                }
            });
            let opener = client(near);
            join_all((0..8_u8).map(|n| {
                let stream = opener.open().unwrap();
                async move {
                    let said = vec![n; 1_000_000];
                    let (mut read, mut write) = tokio::io::split(stream);
                    let saying = async {
                        write.write_all(&said).await.unwrap();
                        write.shutdown().await.unwrap();
                    };
                    let mut heard = Vec::new();
                    let ((), count) = tokio::join!(saying, read.read_to_end(&mut heard));
                    assert_eq!(count.unwrap(), said.len());
                    assert!(heard == said);
                }
            }))
            .await;
        })
        .await;
}

fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let header = (0_u8..5, 0_u16..16, 0_u32..6, prop_oneof![0_u32..40, any::<u32>()]);
    (header, prop::collection::vec(any::<u8>(), 0..40)).prop_map(
        |((kind, flags, stream, length), payload)| {
            let [f0, f1] = flags.to_be_bytes();
            let mut bytes = vec![0, kind, f0, f1];
            bytes.extend(stream.to_be_bytes());
            bytes.extend(length.to_be_bytes());
            bytes.extend(payload);
            bytes
        },
    )
}

proptest! {
    #[test]
    fn whatever_comes_in_whatever_pieces_is_taken_or_refused_alike(
        frames in prop::collection::vec(some_frame(), 0..30),
        at in 1_usize..50,
    ) {
        let bytes = frames.concat();
        let (mut whole, mut pieces) = (State::new(Side::Server, BOUNDS), State::new(Side::Server, BOUNDS));
        let of_whole = whole.receive(&bytes).map_err(|broken| broken.to_string());
        let of_pieces = bytes.chunks(at).try_for_each(|piece| pieces.receive(piece));
        prop_assert_eq!(of_whole, of_pieces.map_err(|broken| broken.to_string()));
        prop_assert_eq!(whole.unsent(), pieces.unsent());
        prop_assert_eq!(whole.count(), pieces.count());
    }
}
