use http::Request;

use super::*;

fn fields(list: &[(&str, &str)]) -> HeaderMap {
    list.iter()
        .map(|(name, value)| {
            (http::HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap())
        })
        .collect()
}

#[test]
fn h2c_is_not_heard_and_one_other_upgrade_is() {
    const HOP: (&str, &str) = ("connection", "keep-alive, Upgrade");
    let name = |text: &'static str| Ok(Some(HeaderValue::from_static(text)));
    for (said, want) in [
        (&[HOP][..], Ok(None)),
        (&[HOP, ("upgrade", "h2c")], Ok(None)),
        (&[HOP, ("upgrade", "WebSocket")], name("WebSocket")),
        (&[HOP, ("upgrade", "websocket"), ("upgrade", "websocket")], Err(())),
        (&[HOP, ("upgrade", "h2c, websocket")], name("h2c, websocket")),
        (&[HOP, ("upgrade", "tls/1.0")], name("tls/1.0")),
        (&[("upgrade", "websocket")], Ok(None)),
        (&[("connection", "close"), ("upgrade", "websocket")], Ok(None)),
    ] {
        assert_eq!(upgrade_of(&fields(said)), want, "{said:?}");
    }
}

fn asked(method: &str, version: Version, upgrade: &str, allowed: &Upgrades) -> Result<Option<Opening>, Code> {
    let request = Request::builder().method(method).version(version).header("connection", "upgrade");
    let (mut parts, ()) = request.header("upgrade", upgrade).body(()).unwrap().into_parts();
    Opening::asked(&mut parts, allowed).map_err(|error| error.code())
}

#[test]
fn what_the_port_does_not_list_is_not_begun() {
    let allowed = Upgrades::default();
    assert!(asked("GET", Version::HTTP_11, "WebSocket", &allowed).unwrap().is_some());
    for (method, version, upgrade) in [
        ("GET", Version::HTTP_11, "spdy/3.1"),
        ("GET", Version::HTTP_11, "h2c, websocket"),
        ("GET", Version::HTTP_10, "websocket"),
        ("POST", Version::HTTP_11, "websocket"),
        ("CONNECT", Version::HTTP_11, "websocket"),
        ("CONNECT", Version::HTTP_2, "websocket"),
    ] {
        let refused = asked(method, version, upgrade, &allowed);
        assert_eq!(refused, Err(Code::UnsupportedRequest), "{method} {version:?} {upgrade}");
    }
}

const SAMPLE: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn answer(status: u16, said: &[(&str, &str)]) -> Response<()> {
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    *answer.headers_mut() = fields(said);
    answer
}

/// The key and its digest are those of RFC 6455 §1.3.
#[test]
fn an_answer_of_one_http_version_becomes_that_of_the_other() {
    let key = Some(HeaderValue::from_static(SAMPLE));
    let by_http1 = Opening::WebSocket { key: key.clone(), is_extended: false };
    let mut extended = answer(200, &[]);
    assert_eq!(by_http1.is_opened_by(&mut extended, Some(Became::Extended)), Ok(true));
    assert_eq!(extended.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(extended.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(extended.headers()["upgrade"], "websocket");

    let by_http2 = Opening::WebSocket { key, is_extended: true };
    let upgraded = || Some(Became::Upgraded(HeaderValue::from_static("websocket")));
    let mut switched = answer(101, &[("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]);
    assert_eq!(by_http2.is_opened_by(&mut switched, upgraded()), Ok(true));
    assert_eq!((switched.status(), switched.headers().len()), (StatusCode::OK, 0));

    let mut forged = answer(101, &[("sec-websocket-accept", "c29tZXRoaW5nIGVsc2U=")]);
    assert!(by_http2.is_opened_by(&mut forged, upgraded()).is_err());
    assert!(
        by_http2.is_opened_by(&mut answer(200, &[]), None).is_err(),
        "a 2xx would open a tunnel to nobody"
    );
    assert_eq!(by_http2.is_opened_by(&mut answer(426, &[]), None), Ok(false));
}

#[test]
fn a_switch_to_another_protocol_than_was_asked_for_is_refused() {
    let opening = Opening::Other(HeaderValue::from_static("tcp"));
    for (name, want) in [("TCP", true), ("websocket", false)] {
        let became = Some(Became::Upgraded(HeaderValue::from_static(name)));
        assert_eq!(opening.is_opened_by(&mut answer(101, &[]), became).is_ok(), want, "{name}");
    }
}
