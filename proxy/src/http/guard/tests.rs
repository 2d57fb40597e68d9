use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

async fn read(parts: &[&[u8]]) -> (Vec<u8>, io::Result<()>, Arc<Wire>) {
    let (mut client, server) = tokio::io::duplex(4096);
    let mut guarded = Guarded::http1(server);
    let wire = guarded.wire();
    let mut bytes = Vec::new();
    let mut result = Ok(());
    for part in parts {
        client.write_all(part).await.unwrap();
        // Less than the poison is long, so that it comes in parts.
        let mut buf = [0; 3];
        let mut left = part.len();
        while left > 0 {
            match guarded.read(&mut buf).await {
                Ok(0) => break,
                Ok(count) => {
                    bytes.extend_from_slice(&buf[..count]);
                    left = left.saturating_sub(count);
                }
                Err(error) => return (bytes, Err(error), wire),
            }
        }
    }
    drop(client);
    if let Err(error) = guarded.read_to_end(&mut bytes).await {
        result = Err(error);
    }
    (bytes, result, wire)
}

#[tokio::test]
async fn what_is_well_framed_passes_unchanged() {
    let request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let (bytes, result, wire) = read(&[request]).await;
    assert_eq!((bytes.as_slice(), result.is_ok()), (&request[..], true));
    assert!(
        wire.untold().is_none()
            && wire.agrees(1, Some(3))
            && !wire.agrees(1, Some(2))
            && !wire.agrees(2, Some(3))
    );
}

#[tokio::test]
async fn a_refused_head_becomes_one_that_no_parser_takes() {
    let (bytes, result, wire) = read(&[b"GET /a", b"#b HTTP/1.1\r\n\r\nGET /admin HTTP/1.1\r\n\r\n"]).await;
    assert_eq!((bytes.as_slice(), result.is_ok()), (&b"GET /a\0\r\n\r\n"[..], true));
    assert!(wire.untold_of_body().is_none(), "it is hyper's to answer");
    let refusal = wire.untold().unwrap();
    assert_eq!((refusal.error().code().id(), refusal.is_answered()), ("SG0610", true));
    assert!(wire.untold().is_none(), "it is recorded once");
}

#[tokio::test]
async fn a_refused_body_is_an_error_of_its_reader() {
    let (_, result, wire) = read(&[b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\nx"]).await;
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert_eq!(wire.untold_of_body().unwrap().error().code().id(), "SG0612");
}
