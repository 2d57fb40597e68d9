use bytes::Bytes;
use http_body_util::Full;

use super::*;

fn request(method: &str, target: &str, fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut builder = Request::builder().method(method).uri(target);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::new(Bytes::from_static(b"body"))).unwrap()
}

fn check(request: Request<Full<Bytes>>) -> Result<Checked<Full<Bytes>>, Code> {
    let limits = Limits::default();
    let rules = Rules {
        paths: PathMode::Strict,
        upgrades: &Upgrades::default(),
        limits: &limits,
        removes_identity: true,
    };
    Checked::new(request, rules).map_err(|error| error.code())
}

#[test]
fn what_policy_reads_is_what_is_sent() {
    let checked = check(request("POST", "/%61/b?q=%2e%2e", &[("host", "Payments.Shop.")])).unwrap();
    assert_eq!((checked.method(), checked.host(), checked.path()), ("POST", "payments.shop", "/a/b"));
    let sent = checked.into_http1();
    assert_eq!(sent.uri(), "/a/b?q=%2e%2e");
    assert_eq!(sent.headers()[HOST], "payments.shop");
    assert_eq!(sent.headers()[CONTENT_LENGTH], "4");
}

#[test]
fn http2_becomes_an_origin_form_request_with_one_host() {
    let mut http2 = request("GET", "http://payments:8080/a", &[("cookie", "a=1"), ("cookie", "b=2")]);
    *http2.version_mut() = Version::HTTP_2;
    let sent = check(http2).unwrap().into_http1();
    assert_eq!(sent.version(), Version::HTTP_11);
    assert_eq!(sent.uri(), "/a");
    assert_eq!(sent.headers()[HOST], "payments:8080");
    assert_eq!(sent.headers()["cookie"], "a=1; b=2");
}

#[test]
fn http1_becomes_a_request_with_pseudo_headers() {
    let sent = check(request("GET", "/a?b", &[("host", "payments")])).unwrap().into_http2().unwrap();
    assert_eq!(sent.uri(), "http://payments/a?b");
    assert!(!sent.headers().contains_key(HOST));
}

#[test]
fn options_may_ask_of_the_server_as_a_whole() {
    let checked = check(request("OPTIONS", "*", &[("host", "payments")])).unwrap();
    assert_eq!(checked.path(), "*");
    assert_eq!(check(request("GET", "*", &[("host", "payments")])).unwrap_err(), Code::BadPath);
}

#[test]
fn an_absolute_target_may_leave_its_path_out() {
    assert_eq!(check(request("GET", "http://payments", &[])).unwrap().path(), "/");
}

#[test]
fn ambiguity_is_refused_with_its_code() {
    let big = "x".repeat(70_000);
    let host = ("host", "payments");
    for (case, want) in [
        (request("GET", "/a/../b", &[host]), Code::BadPath),
        (request("GET", "/a%2fb", &[host]), Code::BadPath),
        (request("GET", "/", &[]), Code::BadAuthority),
        (request("GET", "/", &[host, host]), Code::BadAuthority),
        (request("GET", "http://a.test/", &[("host", "evil.test")]), Code::BadAuthority),
        (request("POST", "/", &[host, ("transfer-encoding", "gzip, chunked")]), Code::BadFraming),
        (
            request("POST", "/", &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
            Code::BadFraming,
        ),
        (
            request("POST", "/", &[host, ("transfer-encoding", "chunked"), ("content-length", "4")]),
            Code::BadFraming,
        ),
        (request("POST", "/", &[host, ("content-length", "4"), ("content-length", "5")]), Code::BadFraming),
        (request("GET", "/", &[host, ("connection", "authorization")]), Code::BadHeader),
        (request("post", "/", &[host]), Code::UnsupportedRequest),
        (
            request("POST", "/", &[host, ("connection", "upgrade"), ("upgrade", "websocket")]),
            Code::UnsupportedRequest,
        ),
        (
            request("GET", "/", &[host, ("connection", "upgrade"), ("upgrade", "tls/1.0")]),
            Code::UnsupportedRequest,
        ),
        (request("CONNECT", "payments:443", &[host]), Code::UnsupportedRequest),
        (request("GET", "/", &[host, ("x-big", &big)]), Code::HeadersTooLarge),
        (request("GET", &format!("/{}", &big[..9_000]), &[host]), Code::HeadersTooLarge),
    ] {
        let shown = format!("{} {:?}", case.uri().path(), case.headers().keys().collect::<Vec<_>>());
        assert_eq!(
            check(case).map(|checked| checked.path().to_owned()),
            Err(want),
            "{}",
            &shown[..shown.len().min(80)]
        );
    }
}

#[test]
fn equal_lengths_collapse_into_one() {
    let sent =
        check(request("POST", "/", &[("host", "a"), ("content-length", "4"), ("content-length", "4")]))
            .unwrap()
            .into_http1();
    assert_eq!(sent.headers().get_all(CONTENT_LENGTH).iter().count(), 1);
}

#[test]
fn h2c_upgrades_are_ignored_and_do_not_travel() {
    let fields = [
        ("host", "a"),
        ("connection", "upgrade, http2-settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AA"),
    ];
    let sent = check(request("GET", "/", &fields)).unwrap().into_http1();
    assert!(!sent.headers().contains_key("upgrade") && !sent.headers().contains_key("http2-settings"));
}

#[test]
fn a_peer_cannot_state_its_own_identity() {
    let fields = [
        ("host", "a"),
        ("x-sidegate-peer", "spiffe://shop.test/ns/shop/sa/admin"),
        ("x_forwarded_for", "1.2.3.4"),
    ];
    let sent = check(request("GET", "/", &fields)).unwrap().into_http1();
    assert!(
        sent.headers()
            .keys()
            .all(|name| !name.as_str().contains("sidegate") && !name.as_str().contains("forwarded"))
    );
}

/// The same request without its body.
fn empty(request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    request.map(|_| Full::default())
}

#[test]
fn a_websocket_is_asked_for_anew_on_the_next_hop() {
    let fields = [
        ("host", "a"),
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
    ];
    let checked = check(empty(request("GET", "/chat", &fields))).unwrap();
    assert!(checked.opening().is_some());
    let sent = checked.into_http1();
    assert_eq!(
        (&sent.headers()["connection"], &sent.headers()["upgrade"]),
        (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
    );
    assert!(sent.headers().contains_key("sec-websocket-version"));
}

#[test]
fn a_websocket_becomes_an_extended_connect_to_an_http2_application() {
    let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let fields = [("host", "a"), ("connection", "upgrade"), ("upgrade", "websocket"), key];
    let checked = check(empty(request("GET", "/chat?room=1", &fields))).unwrap();
    assert_eq!((checked.method(), checked.path()), ("GET", "/chat"), "policy reads a GET");
    let sent = checked.into_http2().unwrap();
    assert_eq!(
        (sent.method().as_str(), sent.uri().to_string().as_str()),
        ("CONNECT", "http://a/chat?room=1")
    );
    assert_eq!(sent.extensions().get::<hyper::ext::Protocol>().unwrap().as_ref(), b"websocket");
    assert!(!sent.headers().contains_key("sec-websocket-key") && !sent.headers().contains_key("upgrade"));

    let without_key = check(empty(request("GET", "/chat", &fields[..3]))).unwrap().into_http2();
    assert_eq!(without_key.unwrap_err().code(), Code::BadHeader);
}

#[test]
fn an_extended_connect_is_judged_as_a_get_and_becomes_a_handshake_to_an_http1_application() {
    let extended = |protocol: &'static str| {
        let mut request = empty(request("CONNECT", "http://a/chat", &[("sec-websocket-version", "13")]));
        *request.version_mut() = Version::HTTP_2;
        request.extensions_mut().insert(hyper::ext::Protocol::from_static(protocol));
        check(request)
    };
    let checked = extended("websocket").unwrap();
    assert_eq!((checked.method(), checked.host(), checked.path()), ("GET", "a", "/chat"));
    let sent = checked.into_http1();
    assert_eq!((sent.method().as_str(), sent.uri().to_string().as_str()), ("GET", "/chat"));
    assert_eq!(sent.headers()["upgrade"], "websocket");
    assert_eq!(sent.headers()["sec-websocket-key"].len(), 24, "16 random bytes");
    assert_eq!(extended("connect-udp").unwrap_err(), Code::UnsupportedRequest);
}

#[test]
fn a_websocket_handshake_has_no_body() {
    let fields = [("host", "a"), ("connection", "upgrade"), ("upgrade", "websocket")];
    assert_eq!(
        check(request("GET", "/chat", &fields)).map(|checked| checked.opening().is_some()),
        Err(Code::BadFraming)
    );
    assert!(check(empty(request("GET", "/chat", &fields))).unwrap().opening().is_some());
}

#[test]
fn an_upgrade_that_connection_does_not_name_is_of_another_hop() {
    let sent = check(request("GET", "/chat", &[("host", "a"), ("upgrade", "websocket")])).unwrap();
    assert!(sent.opening().is_none());
    assert!(!sent.into_http1().headers().contains_key("upgrade"));
}
