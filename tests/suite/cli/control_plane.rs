//! A control plane that answers the same documents to everybody: the API's examples, with an edit if wanted.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use serde_json::{Value, json};

/// Serves until the test's process ends.
pub(super) struct ControlPlane {
    url: String,
}

impl ControlPlane {
    /// Everything is as it should be.
    pub(super) fn healthy() -> Self {
        Self::with(|_| ())
    }

    /// The healthy documents, by path, after `edit`.
    pub(super) fn with(edit: impl FnOnce(&mut Value)) -> Self {
        let mut documents = healthy_documents();
        edit(&mut documents);
        Self::serve(move |path| match documents.get(path) {
            Some(document) => (200, document.to_string()),
            None => (404, "{}".to_owned()),
        })
    }

    /// One answer to everything.
    pub(super) fn answering(status: u16, document: &Value) -> Self {
        let body = document.to_string();
        Self::serve(move |_| (status, body.clone()))
    }

    /// For `--api`.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    fn serve(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answer = Arc::clone(&answer);
                thread::spawn(move || reply(&stream, &*answer));
            }
        });
        Self { url }
    }
}

/// An address at which nobody listens.
pub(super) fn unused_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address")
}

fn reply(mut stream: &TcpStream, answer: impl Fn(&str) -> (u16, String)) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let target = request.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    // The rest of the head, so that closing does not reset the connection.
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let (status, body) = answer(path);
    let head = format!(
        "HTTP/1.1 {status} Answer\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // A client that went away is judged by its own test.
    let _ = stream.write_all((head + &body).as_bytes());
}

fn healthy_documents() -> Value {
    json!({
        "/v1/status": {
            "apiVersion": "api.sidegate.dev/v1", "version": "0.1.0", "startedAt": "2026-11-22T10:00:00Z",
            "trustDomain": "shop.test", "enforcement": "Enforce",
            "root": {"notAfter": "2999-01-01T00:00:00Z", "fingerprint": "ab"},
            "policies": {"count": 1, "digest": "0123456789abcdef", "loadedAt": "2026-11-22T10:00:00Z", "lastError": null},
            "mesh": {"lastError": null}, "proxies": {"connected": 1, "total": 1},
            "ledger": {"cells": 1, "dropped": 0}
        },
        "/v1/proxies": {"apiVersion": "api.sidegate.dev/v1", "proxies": [{
            "instance": "a1", "identity": "spiffe://shop.test/ns/shop/sa/web", "release": "0.1.0", "connected": true,
            "address": "127.0.0.1:40000", "since": "2026-11-22T10:00:00Z", "version": 4, "acked": 4, "nack": null,
            "inbound": [{"address": "127.0.0.1:15106", "port": 8080}], "services": ["shop/orders"],
            "certificate": {
                "serial": "01ab", "issuedAt": "2026-11-22T10:00:00Z", "notAfter": "2999-01-01T00:00:00Z"
            }
        }]},
        "/v1/policies": {"apiVersion": "api.sidegate.dev/v1", "policies": [{
            "name": "shop/web-callers", "action": "Allow", "mode": "Enforce", "source": "policies/web.yaml:1",
            "selects": ["shop/web"], "rules": ["customers-buy"]
        }]},
        "/v1/edges": {"apiVersion": "api.sidegate.dev/v1", "edges": [{
            "direction": "inbound", "source": "spiffe://shop.test/ns/shop/sa/customer",
            "destination": "spiffe://shop.test/ns/shop/sa/web", "port": 8080, "protocol": "http1", "route": "/buy",
            "tls": "mutual", "verdict": "allowed", "code": null, "policy": "shop/web-callers", "rule": "customers-buy",
            "shadow": null, "count": 12, "errors": 0, "bytesReceived": 100, "bytesSent": 200, "rps": 2.5, "p50Ms": 0.5,
            "p99Ms": 2.5, "firstSeen": "2026-11-22T10:00:00Z", "lastSeen": "2026-11-22T12:00:00Z"
        }]}
    })
}
