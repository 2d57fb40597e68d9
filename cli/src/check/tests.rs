use super::*;

fn documents(edit: impl FnOnce(&mut serde_json::Value)) -> Documents {
    let mut all = serde_json::json!({
        "status": {
            "apiVersion": "api.sidegate.dev/v1", "version": "0.1.0", "startedAt": "2026-11-22T10:00:00Z",
            "trustDomain": "shop.test", "enforcement": "Enforce",
            "registry": {"place": "state folder", "active": true},
            "root": {"notAfter": "2031-11-22T10:00:00Z", "fingerprint": "ab"},
            "policies": {"count": 3, "digest": "abcdef", "loadedAt": "2026-11-22T10:00:00Z", "lastError": null},
            "mesh": {"lastError": null}, "proxies": {"connected": 1, "total": 1},
            "ledger": {"cells": 1, "dropped": 0}
        },
        "proxies": {"proxies": [{
            "instance": "a1", "identity": "spiffe://shop.test/ns/shop/sa/web", "release": "0.1.0", "connected": true,
            "address": "127.0.0.1:9", "since": "2026-11-22T10:00:00Z", "version": 4, "acked": 4, "nack": null,
            "inbound": [{"address": "127.0.0.1:15106", "port": 8080}], "services": ["shop/orders"],
            "certificate": {"serial": "01", "issuedAt": "2026-11-22T10:00:00Z", "notAfter": "2026-11-22T16:00:00Z"}
        }]},
        "edges": {"edges": [{
            "direction": "inbound", "source": null, "destination": "spiffe://shop.test/ns/shop/sa/web", "port": 8080,
            "protocol": "http1", "tls": "mutual", "verdict": "allowed", "count": 7, "errors": 0,
            "bytesReceived": 1, "bytesSent": 1, "firstSeen": "2026-11-22T10:00:00Z", "lastSeen": "2026-11-22T10:00:00Z"
        }]}
    });
    edit(&mut all);
    let part = |name: &str| all[name].clone();
    Documents {
        status: serde_json::from_value(part("status")).expect("a status"),
        proxies: serde_json::from_value(part("proxies")).expect("proxies"),
        edges: serde_json::from_value(part("edges")).expect("edges"),
    }
}

fn noon() -> OffsetDateTime {
    OffsetDateTime::parse("2026-11-22T12:00:00Z", &time::format_description::well_known::Rfc3339)
        .expect("a time")
}

/// Level and code of everything that is not green.
fn findings(edit: impl FnOnce(&mut serde_json::Value)) -> Vec<(Level, Option<Code>)> {
    let checks = rules::judge(&documents(edit), noon());
    checks.iter().filter(|check| check.level != Level::Ok).map(|check| (check.level, check.code)).collect()
}

#[test]
fn a_healthy_mesh_has_no_finding() {
    assert_eq!(findings(|_| ()), []);
}

#[test]
fn a_registry_that_is_out_of_reach_fails() {
    let found = findings(|all| all["status"]["registry"]["active"] = false.into());
    assert_eq!(found, [(Level::Failed, Some(Code::RegistryUnreachable))]);
}

#[test]
fn an_intermediate_is_told_of_in_the_last_third_of_its_life() {
    let ending = |not_after: &str| {
        findings(|all| {
            all["status"]["root"] = serde_json::json!({
                "notBefore": "2026-11-01T12:00:00Z", "notAfter": not_after, "fingerprint": "ab", "offline": true
            });
        })
    };
    assert_eq!(ending("2026-12-10T12:00:00Z"), []);
    assert_eq!(ending("2026-12-01T12:00:00Z"), [(Level::Warning, Some(Code::IntermediateEnding))]);
    assert_eq!(ending("2026-11-22T12:00:00Z"), [(Level::Failed, Some(Code::IntermediateEnding))]);
}

#[test]
fn a_rotation_is_told_of_once_it_waits_for_longer_than_usual() {
    let waiting = |overdue: u64| {
        findings(|all| {
            all["status"]["rotation"] = serde_json::json!({
                "phase": "prepare", "since": "2026-11-22T11:00:00Z", "urgent": false, "blockers": 2,
                "overdueSeconds": overdue
            });
        })
    };
    assert_eq!(waiting(0), []);
    assert_eq!(waiting(1), [(Level::Warning, Some(Code::RotationBlocked))]);
}

#[test]
fn refused_policies_are_named_with_file_line_and_field() {
    let checks = rules::judge(
        &documents(|all| {
            all["status"]["policies"]["lastError"] = serde_json::json!([{
                "code": "SG0213", "file": "policies/a.yaml", "line": 7, "column": 11, "field": "spec.action",
                "message": "unknown action \"Permit\"", "at": "2026-11-22T11:00:00Z"
            }]);
        }),
        noon(),
    );
    let failed: Vec<_> = checks.iter().filter(|check| check.level == Level::Failed).collect();
    assert_eq!(failed[0].code, Some(Code::PolicyStale));
    assert_eq!(failed[1].code, Some(Code::PolicyUnknownKind));
    assert_eq!(failed[1].name, "policies/a.yaml:7:11: spec.action: unknown action \"Permit\" (SG0213)");
}

#[test]
fn each_thing_that_can_be_wrong_is_found() {
    let failed = |code| vec![(Level::Failed, Some(code))];
    let warning = |code| vec![(Level::Warning, Some(code))];
    let set = |pointer: &'static str, value: serde_json::Value| {
        findings(move |all| *all.pointer_mut(pointer).expect(pointer) = value)
    };
    assert_eq!(set("/status/mesh/lastError", serde_json::json!([])), failed(Code::ConfigStale));
    assert_eq!(
        set("/status/root/notAfter", "2026-11-22T11:00:00Z".into()),
        failed(Code::CertificateNotValidNow)
    );
    assert_eq!(
        set("/status/root/notAfter", "2026-12-01T11:00:00Z".into()),
        warning(Code::CertificateNotValidNow)
    );
    assert_eq!(set("/status/enforcement", "Observe".into()), [(Level::Warning, None)]);
    assert_eq!(set("/status/ledger/dropped", 3.into()), [(Level::Warning, None)]);
    assert_eq!(set("/proxies/proxies/0/connected", false.into()), failed(Code::ControlPlaneUnreachable));
    assert_eq!(set("/proxies/proxies/0/acked", 3.into()), [(Level::Warning, None)]);
    let nack =
        serde_json::json!({"version": 5, "path": "policies/x", "code": "SG0405", "message": "unknown"});
    assert_eq!(set("/proxies/proxies/0/nack", nack), failed(Code::SnapshotRefused));
    let ends = |at: &str| set("/proxies/proxies/0/certificate/notAfter", at.into());
    assert_eq!(ends("2026-11-22T12:30:00Z"), warning(Code::RenewalFailed));
    assert_eq!(ends("2026-11-22T11:30:00Z"), failed(Code::NoCredentials));
}

#[test]
fn admitted_plaintext_is_a_failure_unless_an_exception_let_it_in() {
    let admitted = |verdict: &'static str, policy: serde_json::Value| {
        findings(move |all| {
            let edge = &mut all["edges"]["edges"][0];
            edge["tls"] = "plaintext".into();
            edge["verdict"] = verdict.into();
            edge["policy"] = policy;
        })
    };
    assert_eq!(admitted("allowed", serde_json::Value::Null), [(Level::Failed, Some(Code::PlaintextRefused))]);
    for verdict in ["allowed", "would_deny"] {
        assert_eq!(admitted(verdict, "shop/probes".into()), [(Level::Warning, None)], "{verdict}");
    }
}

#[test]
fn a_listener_for_an_unknown_service_is_found_before_it_is_called() {
    let found =
        findings(|all| all["proxies"]["proxies"][0]["unknownServices"] = serde_json::json!(["shop/x"]));
    assert_eq!(found, [(Level::Failed, Some(Code::UnknownService))]);
}

#[test]
fn codes_on_edges_become_findings() {
    let with = |code: &str| findings(|all| all["edges"]["edges"][0]["code"] = code.into());
    assert_eq!(with("SG0603"), [(Level::Failed, Some(Code::NoEndpoints))]);
    assert_eq!(with("SG0305"), [(Level::Warning, Some(Code::UnexpectedServerIdentity))]);
    assert_eq!(with("SG0202"), []);
}

#[test]
fn refused_plaintext_is_a_warning_only() {
    let found = findings(|all| {
        all["edges"]["edges"][0]["tls"] = "plaintext".into();
        all["edges"]["edges"][0]["verdict"] = "failed".into();
    });
    assert_eq!(found, [(Level::Warning, Some(Code::PlaintextRefused))]);
}

#[test]
fn text_is_short_where_green_and_explains_where_not() {
    let checks = [
        Check::ok("control plane", "reachable"),
        Check::failed("security", "shop/a to shop/b:80: the service has no endpoints")
            .code(Code::NoEndpoints),
    ];
    let text = anstream::adapter::strip_str(&text(&checks, false, Charset::Ascii)).to_string();
    assert_eq!(
        text,
        "control plane\n  ok reachable\nsecurity\n  XX shop/a to shop/b:80: the service has no endpoints  SG0603\n      \
         why  No sidecar of this service is registered and none is configured.\n      \
         fix  Start the service's sidecar, then `sidegate get proxies`.\n\
         1 failed, 0 warnings, 1 passed     explain any code: sidegate explain-code SG0603\n"
    );
}
