use super::*;
use crate::Source;

fn asked<'a>(id: &'a SpiffeId, headers: &'a dyn Headers) -> Request<'a> {
    Request {
        source: Source { identity: Some(id), ip: [10, 0, 0, 7].into() },
        port: 8080,
        http: Some(Http { method: "GET", host: "pay.shop.test", path: "/cart/7", headers, claims: None }),
        sni: None,
        now: 0,
    }
}

fn judge(text: &str, headers: &[(&str, &str)]) -> Outcome {
    let id = SpiffeId::parse("spiffe://shop.test/ns/shop/sa/web").unwrap();
    let headers: Vec<(String, String)> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    text.parse::<Condition>()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .judge(Some(&id), &asked(&id, &headers))
}

#[derive(Debug)]
struct Bytes(&'static [u8]);

impl Headers for Bytes {
    fn visit<'h>(&'h self, field: &mut dyn FnMut(&'h str, &'h [u8])) {
        field("x-a", self.0);
    }
}

#[test]
fn and_binds_before_or_and_not_before_both() {
    let (yes, no) = ("request.method == \"GET\"", "request.method == \"PUT\"");
    for (text, holds) in [
        (format!("{yes} || {no} && {no}"), Outcome::Yes),
        (format!("({yes} || {no}) && {no}"), Outcome::No),
        (format!("!({no}) && {yes}"), Outcome::Yes),
        (format!("!({no} || {yes})"), Outcome::No),
        (format!("!!({yes})"), Outcome::Yes),
        ("!request.path.startsWith('/admin')".to_owned(), Outcome::Yes),
    ] {
        assert_eq!(judge(&text, &[]), holds, "{text}");
    }
}

#[test]
fn a_certain_answer_outweighs_doubt_and_nothing_else_does() {
    let doubt = "request.headers[\"x-a\"] == \"1\"";
    let (yes, no) = ("request.method == \"GET\"", "request.method == \"PUT\"");
    for (text, outcome) in [
        (format!("{doubt} || {yes}"), Outcome::Yes),
        (format!("{doubt} || {no}"), Outcome::Unknown),
        (format!("{doubt} && {no}"), Outcome::No),
        (format!("{doubt} && {yes}"), Outcome::Unknown),
        (format!("!({doubt})"), Outcome::Unknown),
        (doubt.replace("==", "!="), Outcome::Unknown),
        (format!("\"x-a\" in request.headers && {doubt}"), Outcome::No),
    ] {
        assert_eq!(judge(&text, &[]), outcome, "{text}");
    }
}

#[test]
fn a_header_that_can_be_read_in_two_ways_has_no_value() {
    let (is_a, is_not_a) = ("request.headers[\"x-a\"] == \"a\"", "request.headers[\"x-a\"] != \"a\"");
    for (headers, outcome) in [
        (&[("x-a", "a")][..], Outcome::Yes),
        (&[("X-A", "a")], Outcome::Yes),
        (&[("x-a", "b")], Outcome::No),
        (&[("x-a", "A")], Outcome::No),
        (&[("x-a", "b, c")], Outcome::No),
        (&[("x-a", "b,a")], Outcome::Unknown),
        (&[("x-a", "a, b")], Outcome::Unknown),
        (&[("x-a", "a,a")], Outcome::Unknown),
        (&[("x-a", "a"), ("x-a", "b")], Outcome::Unknown),
        (&[("x-a", "b"), ("x-a", "a")], Outcome::Unknown),
        (&[("x-a", "a"), ("x-a", "a")], Outcome::Unknown),
        (&[("x-a", "a"), ("x_a", "b")], Outcome::Unknown),
        (&[("X_A", "a")], Outcome::Unknown),
        (&[("x-aa", "a")], Outcome::Unknown),
    ] {
        assert_eq!(judge(is_a, headers), outcome, "{headers:?}");
        assert_eq!(judge(is_not_a, headers), outcome.not(), "{headers:?}");
    }
    let id = SpiffeId::parse("spiffe://shop.test/ns/shop/sa/web").unwrap();
    let condition: Condition = is_a.parse().unwrap();
    assert_eq!(condition.judge(Some(&id), &asked(&id, &Bytes(b"\xff"))), Outcome::Unknown);
    assert_eq!(condition.judge(Some(&id), &asked(&id, &Bytes(b"a"))), Outcome::Yes);
}

#[test]
fn hosts_are_compared_without_case() {
    for text in [
        "request.host == \"PAY.shop.test\"",
        "request.host.startsWith(\"PAY.\")",
        "request.host.endsWith(\".SHOP.test\")",
        "request.host.contains(\"Shop\")",
        "request.host in [\"a.test\", \"Pay.Shop.Test\"]",
    ] {
        assert_eq!(judge(text, &[]), Outcome::Yes, "{text}");
    }
    assert_eq!(judge("request.host.endsWith(\"a.very.long.domain.that.is.longer\")", &[]), Outcome::No);
}

#[test]
fn ports_are_numbers() {
    for (text, outcome) in [
        ("destination.port == 8080", Outcome::Yes),
        ("destination.port != 8080", Outcome::No),
        ("destination.port < 8080", Outcome::No),
        ("destination.port <= 8080", Outcome::Yes),
        ("destination.port > 8080", Outcome::No),
        ("destination.port >= 8080", Outcome::Yes),
        ("destination.port in [1, 8080]", Outcome::Yes),
        ("destination.port in [1]", Outcome::No),
    ] {
        assert_eq!(judge(text, &[]), outcome, "{text}");
    }
}

#[test]
fn what_is_not_of_the_language_is_refused_where_it_stands() {
    for (text, says) in [
        ("", "at character 1: expected one of request.headers"),
        ("request.methd == 'GET'", "unknown name `request.methd`, did you mean `request.method`?"),
        ("request == 'GET'", "unknown name `request`"),
        ("time.now == 'GET'", "unknown name `time.now`"),
        ("request.method == GET", "at character 19: expected a text in quotes"),
        ("request.method == 'GET", "at character 19: the text has no end"),
        ("request.method == 'a\\n'", "of escapes"),
        ("request.method = 'GET'", "at character 16: '=' is not part of the language"),
        ("request.method < 'GET'", "texts have no order"),
        ("request.method == 'GET' == 'GET'", "at character 25: expected `&&`, `||` or the end"),
        ("request.method == 'GET' &&", "at character 27: expected one of"),
        ("'GET' == request.method", "a comparison begins with what is compared"),
        ("'x-a' in request.method", "only `request.headers`"),
        ("request.path.matches('a+')", "unknown function `matches`; known here: startsWith"),
        ("request.path.startswith('a')", "did you mean `startsWith`?"),
        ("request.path.contains('')", "every text has the empty text in it"),
        ("!request.method == 'GET'", "a comparison stands in parentheses"),
        ("!'x-a' in request.headers", "expected one of"),
        ("request.headers == 'a'", "expected `[`"),
        ("request.headers.x == 'a'", "expected `[`"),
        ("request.headers['Host'] == 'a'", "the host is `request.host`"),
        ("request.headers['Connection'] == 'a'", "belongs to one hop"),
        ("request.headers['a b'] == 'a'", "no name of a header"),
        ("request.headers[':path'] == 'a'", "no name of a header"),
        ("destination.port == 0", "a port is between 1 and 65535"),
        ("destination.port == 65536", "a port is between 1 and 65535"),
        ("destination.port == 0x50", "a port is between 1 and 65535"),
        ("destination.port == '80'", "expected a port"),
        ("destination.port < 1", "no port, or every port"),
        ("destination.port >= 1", "no port, or every port"),
        ("destination.port > 65535", "no port, or every port"),
        ("destination.port <= 65535", "no port, or every port"),
        ("destination.port.contains('8')", "a port is a number"),
        ("request.method in []", "expected a text in quotes"),
        ("[1].all(x, x > 0)", "expected one of"),
        ("request.method == 'GET' ? true : false", "'?' is not part of the language"),
        ("true", "unknown name `true`"),
    ] {
        let error = text.parse::<Condition>().expect_err(text).to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn nesting_has_an_end() {
    let nested = |depth: usize| format!("{}request.method == 'GET'{}", "(".repeat(depth), ")".repeat(depth));
    assert!(nested(16).parse::<Condition>().is_ok());
    let error = nested(17).parse::<Condition>().expect_err("too deep").to_string();
    assert!(error.contains("nest at most 16 deep"), "{error}");
    assert!(format!("{}(request.method == 'GET')", "!".repeat(17)).parse::<Condition>().is_err());
}

#[test]
fn two_spellings_ask_the_same_and_two_questions_do_not() {
    let condition = |text: &str| text.parse::<Condition>().unwrap();
    let one = condition("request.headers[\"X-A\"] == \"a\" && destination.port<=80");
    assert!(one.asks_as(&condition("(request.headers['x-a']=='a') && destination.port < 81")));
    assert!(!one.asks_as(&condition("request.headers['x-a']=='b' && destination.port < 81")));
}
