use std::{path::Path, time::Duration};

use super::*;
use crate::config::Config;

fn config(fields: &str) -> Result<ExternalAuthorization, String> {
    let text = format!(
        "trustDomain: shop.test
workload: {{namespace: shop, serviceAccount: payments}}
identity: {{files: {{certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}}}}
policies: policies.yaml
inbound: [{{listen: '127.0.0.1:15106', forward: '127.0.0.1:8080'}}]
externalAuthorization: {{{fields}}}"
    );
    let config =
        Config::parse(Path::new("/etc/sidegate/proxy.yaml"), &text).map_err(|error| error.to_string())?;
    Ok(config.external.as_deref().cloned().unwrap())
}

fn refused(fields: &str, why: &str) {
    let error = config(fields).unwrap_err();
    assert!(error.contains(why), "{fields}: {error}");
}

#[test]
fn an_address_alone_shows_nothing_changes_nothing_and_has_bounds() {
    let external = config("address: '127.0.0.1:9191'").unwrap();
    assert_eq!(external.server, DecisionServer::Loopback("127.0.0.1:9191".parse().unwrap()));
    assert!(external.send_headers.is_empty() && external.set_headers.is_empty());
    assert!(external.remove_headers.is_empty());
    assert_eq!((external.timeout, external.answer_bytes), (Duration::from_millis(500), 65_536));
    assert_eq!(external.breaker, DecisionBreaker { failures: 5, open_for: Duration::from_secs(5) });
    assert!(external.decides_about(8080) && external.decides_about(1));
    let one = config("address: 'unix:opa.sock', ports: [8080]").unwrap();
    assert_eq!(one.server, DecisionServer::Unix("/etc/sidegate/opa.sock".into()));
    assert!(one.decides_about(8080) && !one.decides_about(1));
}

#[test]
fn plaintext_goes_to_loopback_alone() {
    for address in ["10.0.0.7:9191", "opa.authz.svc:9191", "localhost:9191", "[fd00::7]:9191", "0.0.0.0:9191"]
    {
        refused(&format!("address: '{address}'"), "is no loopback address");
        let proven = format!("address: '{address}', identities: ['spiffe://shop.test/ns/authz/sa/opa']");
        assert!(matches!(config(&proven).unwrap().server, DecisionServer::Mesh { .. }));
        let named = format!("address: '{address}', tls: {{trustBundle: ca.pem, serverName: opa.test}}");
        assert!(matches!(config(&named).unwrap().server, DecisionServer::Tls { .. }));
    }
    assert!(matches!(config("address: '[::1]:9191'").unwrap().server, DecisionServer::Loopback(_)));
}

#[test]
fn what_could_be_meant_in_two_ways_or_none_is_refused() {
    for (fields, why) in [
        ("timeout: 1s", "missing field"),
        ("address: nowhere", "neither host:port nor unix:path"),
        ("address: ':9191'", "neither host:port"),
        ("address: 'opa:0'", "neither host:port"),
        ("address: 'unix:'", "a socket is"),
        ("address: 'unix:a', tls: {trustBundle: ca.pem}", "a socket is"),
        ("address: 'opa:1', tls: {trustBundle: a}, identities: ['spiffe://shop.test/a']", "not both"),
        ("address: 'opa:1', identities: ['https://a']", "identities[0]"),
        ("address: '127.0.0.1:1', ports: []", "is empty"),
        ("address: '127.0.0.1:1', ports: [81]", "81 is no port"),
        ("address: '127.0.0.1:1', timeout: 0s", "between 1ns and 1m"),
        ("address: '127.0.0.1:1', timeout: 2m", "between 1ns and 1m"),
        ("address: '127.0.0.1:1', answerBytes: 1", "answerBytes"),
        ("address: '127.0.0.1:1', breaker: {failures: 0}", "nobody ever"),
        ("address: '127.0.0.1:1', failOpen: true", "failOpen"),
    ] {
        refused(fields, why);
    }
}

#[test]
fn nobody_may_be_let_change_who_calls_or_how_a_message_is_framed() {
    for name in
        ["x-sidegate-peer", "X_Forwarded_For", "host", "content-length", "transfer-encoding", "x-request-id"]
    {
        for list in ["setHeaders", "removeHeaders"] {
            refused(&format!("address: '127.0.0.1:1', {list}: ['{name}']"), "nobody's to change");
        }
        assert!(config(&format!("address: '127.0.0.1:1', sendHeaders: ['{name}']")).is_ok());
    }
    refused("address: '127.0.0.1:1', setHeaders: ['a b']", "setHeaders[0]");
}
