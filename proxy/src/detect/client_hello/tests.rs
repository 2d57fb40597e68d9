use std::sync::Arc;

use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};

use super::*;

/// A message with these extensions, each as kind and body.
fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]); // random
    body.extend([0]); // session id
    body.extend([0, 4, 0x1a, 0x1a, 0x13, 0x01]); // cipher suites, one of them GREASE
    body.extend([1, 0]); // compression
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &counted(body)].concat())
        .collect();
    body.extend(counted(&extensions));
    message(&body)
}

fn message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, length[1], length[2], length[3]], body].concat()
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn named(name: &str) -> (u16, Vec<u8>) {
    (0, counted(&[&[0][..], &counted(name.as_bytes())].concat()))
}

/// `message` in records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|piece| [&[22, 3, 1][..], &counted(piece)].concat()).collect()
}

fn read(bytes: &[u8]) -> Option<Result<Option<String>, BadHello>> {
    ClientHello::default().read(bytes)
}

fn read_in_pieces(bytes: &[u8], size: usize) -> Option<Result<Option<String>, BadHello>> {
    let mut hello = ClientHello::default();
    bytes.chunks(size).find_map(|piece| hello.read(piece))
}

/// As a real client writes it, with a post-quantum key share.
fn real(name: &'static str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_name_of_a_real_client_is_read() {
    assert_eq!(read(&real("Payments.Shop")), Some(Ok(Some("payments.shop".to_owned()))));
    assert_eq!(read(&real("127.0.0.1")), Some(Ok(None)), "addresses are not sent");
}

#[test]
fn every_split_and_every_size_of_records_gives_the_same_name() {
    let message =
        hello(&[(0x2a2a, vec![]), (10, vec![0, 2, 0x0a, 0x0a]), named("payments"), (0xfe0d, vec![9; 40])]);
    let want = Some(Ok(Some("payments".to_owned())));
    for size in 1..=message.len() {
        let bytes = records(&message, size);
        assert_eq!(read(&bytes), want, "records of {size}");
        assert_eq!(read_in_pieces(&bytes, 1), want, "records of {size}");
        assert_eq!(read_in_pieces(&records(&message, 40), size), want, "pieces of {size}");
    }
    for end in 0..records(&message, 40).len() {
        assert_eq!(read(&records(&message, 40)[..end]), None, "{end} bytes are not all");
    }
}

#[test]
fn what_follows_the_message_is_not_looked_at() {
    let bytes = [records(&hello(&[named("a")]), 50), vec![23, 3, 3, 0, 9]].concat();
    assert_eq!(read(&bytes), Some(Ok(Some("a".to_owned()))));
}

#[test]
fn a_client_that_names_nobody_is_told_from_one_that_is_broken() {
    assert_eq!(read(&records(&hello(&[]), 99)), Some(Ok(None)));
    let without_extensions = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 0x01], &[1, 0]].concat();
    assert_eq!(read(&records(&message(&without_extensions), 99)), Some(Ok(None)));
}

#[test]
fn only_what_begins_a_handshake_is_taken_for_tls() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n"[..], b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"\x16\x16", b"\x17\x03\x03"]
    {
        assert_eq!(read(bytes), Some(Err(BadHello::NotTls)), "{}", bytes.escape_ascii());
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let list = |names: &[u8]| (0, counted(names));
    let one = |kind: u8, name: &[u8]| [&[kind][..], &counted(name)].concat();
    let two = [one(0, b"a"), one(0, b"b")].concat();
    for extensions in [
        vec![named("a"), named("b")],
        vec![named("a"), named("a")],
        vec![list(&two)],
        vec![list(&one(1, b"a"))],
        vec![list(&[])],
        vec![(0, vec![])],
        vec![(0, [counted(&one(0, b"a")), vec![0]].concat())],
        vec![named("")],
        vec![named("a b")],
        vec![named("a\0.evil")],
        vec![named("[::1]")],
        vec![named("a:443")],
        vec![list(&one(0, &[0xff, 0xfe]))],
    ] {
        let seen = read(&records(&hello(&extensions), 1_000));
        assert!(matches!(seen, Some(Err(BadHello::Broken(_)))), "{extensions:?}: {seen:?}");
    }
    let mut longer = hello(&[named("a")]);
    longer.push(0);
    longer[3] += 1;
    assert_eq!(read(&records(&longer, 99)), Some(Err(BadHello::Broken("bytes after its end"))));
}

#[test]
fn a_broken_record_is_refused_at_once() {
    let first = records(&hello(&[named("a")])[..9], 9);
    for (next, why) in [
        (&[23][..], "a record of another kind within it"),
        (&[22, 2], "a record of another version within it"),
        (&[22, 3, 3, 0, 0], "an empty record"),
        (&[22, 3, 3, 0x40, 1], "a record that is too long"),
    ] {
        assert_eq!(read(&[&first, next].concat()), Some(Err(BadHello::Broken(why))));
    }
    assert_eq!(read(&records(&[2, 0, 0, 1, 0], 9)), Some(Err(BadHello::Broken("another message"))));
    assert_eq!(read(&records(&[2], 9)), Some(Err(BadHello::Broken("another message"))));
}

#[test]
fn a_message_longer_than_any_is_refused_before_it_is_held() {
    let padded = |count: usize| records(&hello(&[named("a"), (21, vec![0; count])]), LONGEST_RECORD);
    assert_eq!(read(&padded(LONGEST - 100)), Some(Ok(Some("a".to_owned()))));
    assert_eq!(read(&padded(LONGEST)), Some(Err(BadHello::TooLong)));
    assert_eq!(read(&[22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff]), Some(Err(BadHello::TooLong)));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
        let _ = server_name(&bytes);
    }

    #[test]
    fn a_damaged_hello_gives_one_answer_however_it_is_split(
        damage in prop::collection::vec((0_usize..400, any::<u8>()), 0..6),
        record in 1_usize..200,
        piece in 1_usize..50,
    ) {
        let mut bytes = records(&hello(&[(0x2a2a, vec![1; 20]), named("payments.shop"), (21, vec![0; 30])]), record);
        for (at, value) in damage {
            let length = bytes.len();
            bytes[at % length] = value;
        }
        prop_assert_eq!(read_in_pieces(&bytes, piece), read(&bytes));
    }
}
