//! HTTP/2 frames by the thousand, written by hand: a client library would not send them.

use tokio::io::AsyncWriteExt;
use tokio_rustls::client::TlsStream;

use super::{Stage, until_closed};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Small budgets: ten seconds' worth is 100 frames and 20 resets.
const BUDGETS: &str = "limits: {controlFrames: 10, streamResets: 2, streams: 3}";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET /` to `payments`, with static and literal fields (RFC 7541 §6).
fn get(stream: u32, flags: u8) -> Vec<u8> {
    frame(0x1, flags, stream, &[&[0x82, 0x86, 0x84, 0x01, 8], &b"payments"[..]].concat())
}

fn open() -> Vec<u8> {
    [PREFACE, &frame(0x4, 0, 0, b"")].concat()
}

async fn attack(stage: &Stage, bytes: &[u8]) -> TlsStream<tokio::net::TcpStream> {
    let mut stream = stage.link(b"h2").await;
    // The sidecar may end it in the middle.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    stream
}

#[tokio::test]
async fn a_flood_of_frames_without_a_request_ends_its_connection_and_no_other() {
    let mut stage = Stage::new("http", BUDGETS).await;
    let floods: [(&str, Vec<u8>); 7] = [
        ("ping", frame(0x6, 0, 0, &[7; 8])),
        ("settings", frame(0x4, 0, 0, b"")),
        ("priority", frame(0x2, 0, 5, &[0, 0, 0, 3, 16])),
        ("window update", frame(0x8, 0, 0, &[0, 0, 0, 1])),
        ("unknown", frame(0x77, 0, 0, b"x")),
        ("empty data", frame(0x0, 0, 1, b"")),
        ("continuation", frame(0x9, 0, 1, b"")),
    ];
    for (count, (name, one)) in (1u64..).zip(floods) {
        // The last two need a request that is not complete.
        let begun = if name == "continuation" { get(1, 0) } else { get(1, 0x4) };
        let mut stream = attack(&stage, &[open(), begun, one.repeat(1_000)].concat()).await;
        until_closed(&mut stream).await;
        stage.has_counted("SG0655", count).await;
        stage.serves_others().await;
    }
    let line = stage.sidecar.accessed(|line| line["code"] == "SG0655");
    assert_eq!((&line["protocol"], &line["verdict"]), (&"http2".into(), &"failed".into()));
}

#[tokio::test]
async fn ordinary_frames_are_within_the_budget() {
    let stage = Stage::new("http", BUDGETS).await;
    let ping = frame(0x6, 0, 0, &[7; 8]);
    let mut stream = attack(&stage, &[open(), ping.repeat(50), get(1, 0x5)].concat()).await;
    let served = async {
        while stage.app.seen().is_empty() {
            stage.sidecar.page("/livez").await;
        }
    };
    tokio::time::timeout(crate::mesh::PATIENCE, served).await.expect("the request is not served");
    stream.shutdown().await.unwrap();
    assert_eq!(stage.failed("SG0655").await, 0);
}

#[tokio::test]
async fn resets_are_bounded_whoever_is_made_to_send_them() {
    let mut stage = Stage::new("http", BUDGETS).await;
    let streams = (0..200).map(|n| 2 * n + 1);
    // CVE-2023-44487: a request and its end.
    let rapid = streams.clone().flat_map(|id| [get(id, 0x5), frame(0x3, 0, id, &[0, 0, 0, 8])].concat());
    let mut stream = attack(&stage, &[open(), rapid.collect()].concat()).await;
    until_closed(&mut stream).await;
    stage.sidecar.accessed(|line| line["code"] == "SG0655");
    stage.serves_others().await;

    // CVE-2025-8671: the server is made to reset, by a window update of nothing.
    let mut stage = Stage::new("http", BUDGETS).await;
    let made = streams.flat_map(|id| [get(id, 0x5), frame(0x8, 0, id, &[0; 4])].concat());
    let mut stream = attack(&stage, &[open(), made.collect()].concat()).await;
    until_closed(&mut stream).await;
    stage.sidecar.accessed(|line| line["code"] == "SG0655");
    stage.serves_others().await;
}

#[tokio::test]
async fn a_stream_over_the_limit_and_a_head_over_the_limit_are_recorded_though_h2_refuses_them() {
    let endless = crate::mesh::endless().await;
    let stage =
        Stage::before(endless.address, "http2", "limits: {streams: 3, headerBytes: 8192, headers: 10}").await;
    let requests: Vec<u8> = (0..5).flat_map(|n| get(2 * n + 1, 0x5)).collect();
    let _open = attack(&stage, &[open(), requests].concat()).await;
    stage.has_counted("SG0656", 2).await;
    assert_eq!(stage.sidecar.accessed(|line| line["code"] == "SG0656")["protocol"], "http2");

    // One long field put into the table and then named again and again: an HPACK bomb. Small, our own limit sees it; larger,
    // h2 refuses the request; very large, the connection.
    for (code, count, flags, times) in
        [("SG0613", 1, 0x5, 3), ("SG0613", 2, 0x4, 10), ("SG0655", 1, 0x5, 200)]
    {
        let long = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e], &[b'a'; 4_000][..]].concat();
        let head = [&[0x82, 0x86, 0x84, 0x01, 8], &b"payments"[..], &long, &vec![0xbe; times]].concat();
        let _bomb = attack(&stage, &[open(), frame(0x1, flags, 1, &head)].concat()).await;
        stage.has_counted(code, count).await;
    }
}
