use super::*;

fn edges() -> api::Edges {
    serde_json::from_value(serde_json::json!({"edges": [{
        "direction": "inbound", "source": "spiffe://shop.test/ns/shop/sa/orders",
        "destination": "spiffe://shop.test/ns/shop/sa/payments", "port": 8080, "protocol": "http1", "route": "/charge",
        "tls": "mutual", "verdict": "allowed", "code": null, "policy": "shop/payments-callers", "rule": "orders-charge",
        "shadow": null, "count": 12, "errors": 0, "bytesReceived": 100, "bytesSent": 200, "rps": 198.04, "p50Ms": 0.8,
        "p99Ms": 12.3, "firstSeen": "2026-11-22T10:00:00Z", "lastSeen": "2026-11-22T12:00:00Z"
    }]}))
    .expect("edges")
}

#[test]
fn an_edge_shows_who_called_whom_and_which_rule_decided() {
    assert_eq!(
        edges_table(&edges()),
        "SRC          DST            PORT  PROTO  TLS     RPS    P50    P99   VERDICT  CODE  POLICY/RULE                          SEEN BY\n\
         shop/orders  shop/payments  8080  http1  mutual  198.0  0.8ms  12ms  allowed  -     shop/payments-callers/orders-charge  inbound\n"
    );
}

#[test]
fn an_empty_listing_still_shows_its_columns() {
    assert_eq!(policies_table(&api::Policies::default()), "POLICY  ACTION  MODE  SELECTS  SOURCE\n");
}

#[test]
fn the_window_is_bounded_by_what_the_ledger_holds() {
    assert!(window("5m").is_ok());
    assert!(window("1h").is_ok());
    for text in ["0s", "2h", "soon", ""] {
        assert!(window(text).is_err(), "{text}");
    }
}

#[test]
fn a_proxy_that_is_behind_shows_both_versions() {
    let proxy = |acked: u64| {
        serde_json::from_value::<api::Proxy>(serde_json::json!({
            "instance": "a", "identity": "spiffe://shop.test/ns/shop/sa/web", "release": "0.1.0", "connected": true,
            "since": "2026-11-22T10:00:00Z", "version": 7, "acked": acked
        }))
        .expect("a proxy")
    };
    assert_eq!(version(&proxy(7)), "7");
    assert_eq!(version(&proxy(6)), "6 of 7");
}
