//! Every example of `docs/routing.md` loads, and does what the page says that it does.

use std::{fs, path::Path};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::*;
use crate::{
    config::{Config, Upgrades},
    http::Rules,
};

const ABOVE: &str = "
trustDomain: shop.test
workload: {namespace: shop, serviceAccount: orders}
identity:
  files: {certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}
policies: policies/
outbound: [{listen: '127.0.0.1:9001', service: payments}]
";

#[test]
fn every_example_of_the_page_does_what_is_written_beside_it() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/routing.md")).unwrap();
    let (mut rules, mut lines) = (Vec::new(), 0);
    for block in page.split("```").skip(1).step_by(2) {
        let (kind, text) = block.split_once('\n').unwrap();
        match kind {
            "yaml" => {
                let config = Config::parse(Path::new("docs/routing.md"), &format!("{ABOVE}{text}"));
                rules.clone_from(&config.unwrap().services[&"shop/payments".parse().unwrap()].routes);
            }
            "requests" => {
                for line in text.lines() {
                    let (request, wanted) = line.split_once(" = ").unwrap();
                    assert_eq!(outcome(&rules, request), wanted.trim(), "{line}");
                    lines += 1;
                }
            }
            other => panic!("the page has a block that nothing tests: {other:?}"),
        }
    }
    assert!(lines >= 6, "{lines}");
}

/// `METHOD HOST TARGET FIELD:VALUE…`
fn outcome(rules: &[Arc<RouteRule>], line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [method, host, target, fields @ ..] = words.as_slice() else { panic!("not a request: {line:?}") };
    let mut request = Request::builder().method(*method).uri(*target).header("host", *host);
    for (name, value) in fields.iter().map(|field| field.split_once(':').unwrap()) {
        request = request.header(name, value);
    }
    let (limits, paths) = (Limits::default(), PathMode::Strict);
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let upgrades = Upgrades::default();
    let reading = Rules { paths, upgrades: &upgrades, limits: &limits, removes_identity: false };
    let mut checked = Checked::new(request, reading).unwrap();
    let table = RouteTable::compile(rules, |_| None).unwrap();
    let Some(matched) = table.find(&checked.asking()) else { return Code::NoRoute.id().to_owned() };
    let name = &matched.rule.name;
    if let Some(answer) = answer(&matched, &checked).unwrap() {
        let location = answer.response.headers()["location"].to_str().unwrap();
        return format!("{name}: {} {location}", answer.response.status().as_u16());
    }
    let RouteAction::Forward { backends, .. } = &matched.rule.action else {
        panic!("{name} answers nothing")
    };
    let services: Vec<&str> = match backends.as_slice() {
        [] => vec!["shop/payments"],
        some => some.iter().map(|backend| backend.service.as_str()).collect(),
    };
    change(&mut checked, &matched, None, paths, &limits).unwrap();
    let query = checked.query().map_or_else(String::new, |query| format!("?{query}"));
    format!("{name}: {} {} {}{query}", services.join("|"), checked.host(), checked.path())
}
