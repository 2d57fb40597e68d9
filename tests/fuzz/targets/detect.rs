//! The first bytes of a connection: whatever the split, the same answer, and never an answer that more bytes flip.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidegate_proxy::detect::{Detected, classify};

fuzz_target!(|bytes: &[u8]| {
    let answers: Vec<_> = (0..=bytes.len()).map(|length| classify(&bytes[..length])).collect();
    let Some(first) = answers.iter().position(Option::is_some) else {
        return;
    };
    assert!(answers[first..].iter().all(|answer| *answer == answers[first]), "more bytes flip the answer");
    let seen = &bytes[..first];
    match answers[first] {
        Some(Detected::Http2) => assert_eq!(seen, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        Some(Detected::Http1) => {
            let line = seen.trim_ascii_end();
            assert!(line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0"), "{}", seen.escape_ascii());
        }
        _ => {}
    }
});
