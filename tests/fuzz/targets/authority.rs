//! `:authority`, the target and `Host`: one `host[:port]` or a refusal. The first line of the input is the target, if it
//! is not empty; each further line is one `Host`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidegate_proxy::http::authority::Authority;

fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Ok(target) = std::str::from_utf8(lines.next().unwrap_or_default()) else {
        return;
    };
    let target = Some(target).filter(|target| !target.is_empty());
    let hosts: Vec<&[u8]> = lines.collect();
    let Ok(authority) = Authority::agree(target, hosts.iter().copied()) else {
        return;
    };
    assert!(hosts.len() <= 1, "of several Host fields none is the one");
    let canonical = authority.to_string();
    assert_eq!(canonical, canonical.to_ascii_lowercase());
    assert!(
        canonical.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte)),
        "{canonical}"
    );
    // Read again, from either place, it is the same.
    for (target, host) in [(Some(&*canonical), None), (None, Some(canonical.as_bytes()))] {
        let again = Authority::agree(target, host).expect("what was accepted is accepted again");
        assert_eq!(again, authority);
    }
    // What policy compares is what is sent, without the port.
    let port = canonical.strip_prefix(authority.host()).expect("the host comes first");
    assert!(
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()),
        "{canonical}"
    );
});
