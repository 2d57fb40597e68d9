//! The ClientHello of an application's own TLS: whatever the pieces it comes in, the same name or the same refusal, and a
//! name that a request could have as its host.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidegate_proxy::{
    detect::client_hello::{BadHello, ClientHello},
    http::authority::Authority,
};

fuzz_target!(|bytes: &[u8]| {
    let whole = ClientHello::default().read(bytes);
    let mut hello = ClientHello::default();
    let by_bytes = bytes.chunks(1).find_map(|byte| hello.read(byte));
    assert_eq!(whole, by_bytes, "the pieces make a difference");
    let at = usize::from(bytes.first().copied().unwrap_or_default()).min(bytes.len());
    let (one, two) = bytes.split_at(at);
    let mut hello = ClientHello::default();
    assert_eq!(whole, hello.read(one).or_else(|| hello.read(two)), "the pieces make a difference");
    match whole {
        Some(Ok(Some(name))) => {
            let authority = Authority::agree(Some(&name), []).expect("a name is a host");
            assert_eq!(authority.to_string(), name, "and is canonical");
        }
        Some(Err(BadHello::NotTls)) => assert!(!bytes.starts_with(&[22, 3]), "this may still be TLS"),
        _ => {}
    }
});
