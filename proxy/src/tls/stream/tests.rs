//! Each against another implementation of the same, which keeps buffers.

use std::sync::Arc;

use rustls::{
    ClientConfig, ServerConfig,
    pki_types::{ServerName, UnixTime},
};
use sidegate_identity::{
    SpiffeId, TrustBundle, TrustBundles, TrustDomain,
    tls::{ClientAuth, Credentials, Expected, client_config, server_config},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;
use crate::test_authority::Root;

type Served = Box<TlsStream<UnbufferedServerConnection>>;
type Called = Box<TlsStream<UnbufferedClientConnection>>;

const ID: &str = "spiffe://shop.test/ns/shop/sa/payments";

/// Of both sides, which have the same identity.
fn configs() -> (ClientConfig, Arc<ServerConfig>) {
    configs_with(true)
}

fn configs_with(client_has_credentials: bool) -> (ClientConfig, Arc<ServerConfig>) {
    let root = Root::new();
    let bundle = TrustBundle::from_der(TrustDomain::parse("shop.test").unwrap(), [root.der()]).unwrap();
    let trust: Arc<TrustBundles> = Arc::new([bundle].into_iter().collect());
    let (chain, key) = root.svid(ID).pkcs8();
    let own = Credentials::new(chain, key, &trust, UnixTime::now()).unwrap();
    let expected = Expected::OneOf([SpiffeId::parse(ID).unwrap()].into());
    let client =
        client_config(client_has_credentials.then_some(&own), Arc::clone(&trust), expected, &[b"tcp"]);
    ((*client).clone(), server_config(&own, trust, ClientAuth::Required, &[b"tcp"]))
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

fn name() -> ServerName<'static> {
    "unused.test".try_into().unwrap()
}

/// Called by the other implementation.
async fn served() -> (client::TlsStream<TcpStream>, Served) {
    served_to(|_| {}).await
}

async fn served_to(change: impl FnOnce(&mut ClientConfig)) -> (client::TlsStream<TcpStream>, Served) {
    let ((mut client, server), (near, far)) = (configs(), sockets().await);
    change(&mut client);
    let session = UnbufferedServerConnection::new(server).unwrap();
    tokio::try_join!(
        TlsConnector::from(Arc::new(client)).connect(name(), near),
        TlsStream::establish(far, session)
    )
    .unwrap()
}

/// Calls the other implementation.
async fn called() -> (Called, server::TlsStream<TcpStream>) {
    let ((client, server), (near, far)) = (configs(), sockets().await);
    let session = UnbufferedClientConnection::new(Arc::new(client), name()).unwrap();
    tokio::try_join!(TlsStream::establish(near, session), TlsAcceptor::from(server).accept(far)).unwrap()
}

fn many() -> Vec<u8> {
    (0..1_000_000_u32).map(|at| at.to_le_bytes()[at as usize % 3]).collect()
}

/// Sends, ends, and gives what came.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, sent: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let writing = async {
        writer.write_all(sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let reading = async { reader.read_to_end(&mut heard).await.unwrap() };
    tokio::join!(writing, reading);
    heard
}

#[tokio::test]
async fn bytes_pass_both_ways_at_once_and_each_half_ends_by_itself() {
    let (request, answer) = (many(), many().into_iter().rev().collect::<Vec<_>>());
    let (theirs, ours) = served().await;
    let (heard, asked) = tokio::join!(exchange(theirs, &request), exchange(ours, &answer));
    assert!(heard == answer && asked == request);

    let (ours, theirs) = called().await;
    let (heard, asked) = tokio::join!(exchange(ours, &request), exchange(theirs, &answer));
    assert!(heard == answer && asked == request);
}

#[tokio::test]
async fn the_other_half_goes_on_after_the_end_of_one() {
    let (mut theirs, mut ours) = served().await;
    theirs.write_all(b"all").await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut asked = Vec::new();
    ours.read_to_end(&mut asked).await.unwrap();
    assert_eq!(asked, b"all");
    ours.write_all(&many()).await.unwrap();
    ours.shutdown().await.unwrap();
    let failed = ours.write_all(b"more").await.unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::BrokenPipe);
    let mut heard = Vec::new();
    theirs.read_to_end(&mut heard).await.unwrap();
    assert!(heard == many());
}

#[tokio::test]
async fn both_sides_of_this_one_understand_each_other() {
    let ((client, server), (near, far)) = (configs(), sockets().await);
    let client = UnbufferedClientConnection::new(Arc::new(client), name()).unwrap();
    let server = UnbufferedServerConnection::new(server).unwrap();
    let (near, far) =
        tokio::try_join!(TlsStream::establish(near, client), TlsStream::establish(far, server)).unwrap();
    assert_eq!(near.agreed().alpn_protocol(), Some(&b"tcp"[..]));
    assert!(far.agreed().peer_certificates().is_some_and(|chain| chain.len() == 1));
    let request = many();
    let (heard, asked) = tokio::join!(exchange(near, &request), exchange(far, b"heard"));
    assert!(heard == b"heard" && asked == request);
}

#[tokio::test]
async fn a_handshake_in_small_records_is_put_together() {
    let (mut theirs, mut ours) = served_to(|client| client.max_fragment_size = Some(64)).await;
    theirs.write_all(&many()).await.unwrap();
    let mut asked = vec![0; many().len()];
    ours.read_exact(&mut asked).await.unwrap();
    assert!(asked == many());
}

#[tokio::test]
async fn a_reader_that_asks_for_little_gets_all_of_it() {
    let (mut theirs, mut ours) = served().await;
    theirs.write_all(&many()[..100_000]).await.unwrap();
    let mut asked = Vec::new();
    while asked.len() < 100_000 {
        let mut some = [0; 777];
        let count = ours.read(&mut some).await.unwrap();
        assert!(count > 0 && ours.plaintext.len() < MOST_RECORD, "{count}, {}", ours.plaintext.len());
        asked.extend_from_slice(&some[..count]);
    }
    assert!(asked == many()[..100_000]);
}

#[tokio::test]
async fn what_is_written_in_pieces_arrives_in_order() {
    let (mut theirs, mut ours) = served().await;
    let (first, body) = (b"first".as_slice(), many());
    let pieces = [io::IoSlice::new(first), io::IoSlice::new(&[]), io::IoSlice::new(&body)];
    let count = ours.write_vectored(&pieces).await.unwrap();
    assert_eq!(count, MOST_WRITTEN);
    ours.flush().await.unwrap();
    let mut heard = vec![0; count];
    theirs.read_exact(&mut heard).await.unwrap();
    assert!(heard == [first, &body[..count - first.len()]].concat());
}

#[tokio::test]
async fn a_writer_whose_peer_does_not_read_waits_with_one_write_and_loses_nothing() {
    let (mut theirs, mut ours) = served().await;
    let (sent, chunk) = (std::cell::Cell::new(0_usize), many());
    // The peer listens only after the socket has been full.
    let mut writing = Box::pin(async {
        loop {
            ours.write_all(&chunk).await.unwrap();
            sent.set(sent.get() + 1);
        }
    });
    while futures_util::poll!(&mut writing).is_pending() && sent.get() == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..1_000 {
        let _ = futures_util::poll!(&mut writing);
        tokio::task::yield_now().await;
    }
    let mut heard = vec![0; chunk.len()];
    for _ in 0..20 {
        tokio::select! {
            () = &mut writing => unreachable!("it writes on and on"),
            read = theirs.read_exact(&mut heard) => { read.unwrap(); }
        }
        assert!(heard == chunk);
    }
    drop(writing);
    assert!(ours.outgoing.len() <= MOST_WRITTEN + OVERHEAD, "{}", ours.outgoing.len());
}

#[tokio::test]
async fn a_silent_connection_holds_no_buffer() {
    let (mut theirs, mut ours) = served().await;
    theirs.write_all(&many()).await.unwrap();
    let mut asked = vec![0; many().len()];
    ours.read_exact(&mut asked).await.unwrap();
    ours.write_all(b"heard").await.unwrap();
    ours.flush().await.unwrap();
    theirs.read_exact(&mut [0; 5]).await.unwrap();
    let held = [&ours.incoming, &ours.plaintext, &ours.outgoing].map(Vec::capacity);
    assert_eq!(held, [0; 3]);
    let size = size_of_val(&*ours);
    assert!(size < 1_400, "{size}");
}

#[tokio::test]
async fn keys_are_renewed_under_way() {
    let (mut theirs, mut ours) = served().await;
    for _ in 0..3 {
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        theirs.write_all(b"under new keys").await.unwrap();
        theirs.flush().await.unwrap();
        let mut asked = [0; 14];
        ours.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"under new keys");
        ours.write_all(b"and so is this").await.unwrap();
        ours.flush().await.unwrap();
        theirs.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"and so is this");
    }
    theirs.get_mut().1.refresh_traffic_keys().unwrap();
    let request = many();
    let (heard, asked) = tokio::join!(exchange(theirs, &request), exchange(ours, b"heard"));
    assert!(heard == b"heard" && asked == request);
}

#[tokio::test]
async fn an_end_without_close_notify_is_no_end() {
    let (mut theirs, mut ours) = served().await;
    theirs.write_all(b"part").await.unwrap();
    theirs.flush().await.unwrap();
    let (tcp, _) = theirs.into_inner();
    drop(tcp);
    let mut asked = Vec::new();
    let failed = ours.read_to_end(&mut asked).await.unwrap_err();
    assert_eq!((failed.kind(), asked.as_slice()), (io::ErrorKind::UnexpectedEof, &b"part"[..]));
    let again = ours.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn half_a_record_is_no_end_either() {
    let (mut theirs, mut ours) = served().await;
    theirs.get_mut().0.write_all(&[23, 3, 3, 1, 0, 7]).await.unwrap();
    theirs.get_mut().0.shutdown().await.unwrap();
    let failed = ours.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_damaged_record_is_refused_for_good_and_the_peer_is_told() {
    let (mut theirs, mut ours) = served().await;
    theirs.write_all(b"before").await.unwrap();
    theirs.flush().await.unwrap();
    let mut damaged = vec![23, 3, 3, 0, 40];
    damaged.extend([7; 40]);
    theirs.get_mut().0.write_all(&damaged).await.unwrap();
    let mut asked = Vec::new();
    let failed = ours.read_to_end(&mut asked).await.unwrap_err();
    assert_eq!(asked, b"before", "what came before it was whole");
    let refusal = |error: &io::Error| error.get_ref()?.downcast_ref::<rustls::Error>().cloned();
    assert_eq!(refusal(&failed), Some(rustls::Error::DecryptError));
    for again in [ours.read(&mut [0; 9]).await.unwrap_err(), ours.write(b"after").await.unwrap_err()] {
        assert_eq!(refusal(&again), Some(rustls::Error::DecryptError));
    }
    let told = theirs.read(&mut [0; 9]).await.unwrap_err();
    let alert = rustls::AlertDescription::BadRecordMac;
    assert_eq!(refusal(&told), Some(rustls::Error::AlertReceived(alert)));
}

#[tokio::test]
async fn nothing_is_read_after_the_peers_end() {
    let (mut theirs, mut ours) = served().await;
    theirs.get_mut().1.send_close_notify();
    theirs.flush().await.unwrap();
    theirs.get_mut().0.write_all(b"not even a record").await.unwrap();
    let mut asked = Vec::new();
    ours.read_to_end(&mut asked).await.unwrap();
    assert!(asked.is_empty());
    ours.write_all(b"heard").await.unwrap();
    ours.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_and_told() {
    let ((client, server), (near, far)) = (configs_with(false), sockets().await);
    let session = UnbufferedServerConnection::new(server).unwrap();
    let calling = async {
        // For the client the handshake is over before the server has seen its certificate.
        let mut theirs = TlsConnector::from(Arc::new(client)).connect(name(), near).await.unwrap();
        theirs.read(&mut [0; 1]).await.unwrap_err()
    };
    let (told, refused) = tokio::join!(calling, TlsStream::establish(far, session));
    let refused = refused.unwrap_err();
    let cause = refused.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    assert!(matches!(cause, Some(rustls::Error::NoCertificatesPresented)), "{refused:?}");
    assert!(told.to_string().contains("CertificateRequired"), "{told}");
}

#[tokio::test]
async fn who_ends_within_the_handshake_has_none() {
    let ((_, server), (near, far)) = (configs(), sockets().await);
    drop(near);
    let failed =
        TlsStream::establish(far, UnbufferedServerConnection::new(server).unwrap()).await.unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn what_is_no_tls_is_refused_as_that() {
    let ((_, server), (mut near, far)) = (configs(), sockets().await);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let failed =
        TlsStream::establish(far, UnbufferedServerConnection::new(server).unwrap()).await.unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_handshake_message_of_any_size_is_not_kept() {
    let ((_, server), (mut near, far)) = (configs(), sockets().await);
    let flooding = async {
        // A ClientHello of 16 MiB, as it says.
        let mut message = vec![1, 0xff, 0xff, 0xff];
        message.resize(16 * 1024, 0);
        loop {
            let header = [22, 3, 1, 0x40, 0];
            if near.write_all(&[&header[..], &message].concat()).await.is_err() {
                return;
            }
            message.fill(0);
        }
    };
    let session = UnbufferedServerConnection::new(server).unwrap();
    let failed = tokio::select! {
        () = flooding => unreachable!("the other side is open"),
        failed = TlsStream::establish(far, session) => failed.unwrap_err(),
    };
    assert_eq!(failed.kind(), io::ErrorKind::InvalidData);
}
