//! Request paths: what is accepted is canonical, so it is accepted again unchanged, whoever reads it next.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidegate_proxy::{config::PathMode, http::path::normalize};

fuzz_target!(|path: &str| {
    let strict = normalize(path, PathMode::Strict).ok();
    let compatible = normalize(path, PathMode::Compatible).ok();
    for (mode, result) in [(PathMode::Strict, &strict), (PathMode::Compatible, &compatible)] {
        let Some(result) = result else { continue };
        assert_eq!(normalize(result, mode).as_deref(), Ok(&**result), "not its own normal form");
        assert!(result.starts_with('/') && !result.contains("//"), "{result}");
        assert!(
            result.bytes().all(|byte| matches!(byte, 0x21..=0x7E) && !b"\\?#".contains(&byte)),
            "{result}"
        );
        assert!(result.split('/').all(|segment| !matches!(segment, "." | "..")), "{result}");
        assert!(!decodes_to_more(result), "a second decoding finds another path: {result}");
    }
    if let Some(strict) = strict {
        assert_eq!(compatible, Some(strict), "strict and compatible read it differently");
    }
});

/// Whether decoding `path` once shows a control character, a backslash, or something that is encoded again.
fn decodes_to_more(path: &str) -> bool {
    let mut decoded = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit =
                    |byte: &u8| char::from(*byte).to_digit(16).expect("a digit follows each percent sign");
                let byte = digit(high) * 16 + digit(low);
                assert!(!high.is_ascii_lowercase() && !low.is_ascii_lowercase(), "not in upper case: {path}");
                decoded.push(u8::try_from(byte).expect("two digits"));
                rest = after;
            }
            _ => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    let text = std::str::from_utf8(&decoded).expect("what is encoded is UTF-8");
    let again = text
        .as_bytes()
        .windows(3)
        .any(|window| window[0] == b'%' && window[1].is_ascii_hexdigit() && window[2].is_ascii_hexdigit());
    again || text.bytes().any(|byte| byte < 0x20 || byte == 0x7F || byte == b'\\')
}
