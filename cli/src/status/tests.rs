use super::*;

fn status(edit: impl FnOnce(&mut serde_json::Value)) -> api::Status {
    let mut status = serde_json::json!({
        "version": "0.1.0", "startedAt": "2026-11-22T10:00:00Z", "trustDomain": "shop.test", "enforcement": "Enforce",
        "registry": {"place": "state folder", "active": true},
        "root": {"notAfter": "2031-11-22T10:00:00Z", "fingerprint": "ab"},
        "policies": {"count": 3, "digest": "0123456789abcdef", "loadedAt": "2026-11-22T11:59:00Z", "lastError": null},
        "mesh": {"lastError": null}, "proxies": {"connected": 4, "total": 4}, "ledger": {"cells": 1, "dropped": 0},
        "fromTheFuture": {"ignored": true}
    });
    edit(&mut status);
    serde_json::from_value(status).expect("a status")
}

fn noon() -> OffsetDateTime {
    OffsetDateTime::parse("2026-11-22T12:00:00Z", &time::format_description::well_known::Rfc3339)
        .expect("a time")
}

fn shown(status: &api::Status) -> String {
    let text = text(status, &api::Proxies::default(), noon(), Charset::Ascii);
    anstream::adapter::strip_str(&text).to_string()
}

#[test]
fn a_healthy_mesh_fits_ten_lines_and_names_the_next_step() {
    let text = shown(&status(|_| ()));
    assert_eq!(
        text,
        "ok control plane  0.1.0, up 2h 0m, trust domain shop.test\n\
         ok enforcement    Enforce\n\
         ok root           valid for 1825d 22h\n\
         ok registry       state folder, this control plane issues\n\
         ok policies       3 in force, set 0123456789ab, loaded 1m 0s ago\n\
         ok sidecars       4 of 4 connected\n\
         next  sidegate get edges\n"
    );
}

#[test]
fn refused_policies_are_shown_with_their_place_and_code() {
    let text = shown(&status(|status| {
        status["policies"]["lastError"] = serde_json::json!([
            {"code": "SG0211", "file": "policies/b.yaml", "line": 9, "column": 5,
             "field": "spec.rules[0].to[0].methodz", "message": "unknown field", "at": null},
            {"code": "SG0210", "file": "policies/c.yaml", "message": "not YAML"},
            {"code": "SG0210", "file": "policies/d.yaml", "message": "not YAML"}
        ]);
    }));
    assert!(text.contains("the newest were refused (SG0218)"), "{text}");
    assert!(
        text.contains("policies/b.yaml:9:5: spec.rules[0].to[0].methodz: unknown field (SG0211)"),
        "{text}"
    );
    assert!(text.contains("and 1 more: sidegate check"), "{text}");
    assert!(text.ends_with("next  sidegate check\n"), "{text}");
    assert!(text.lines().count() <= 10, "{text}");
}

#[test]
fn a_registry_that_is_out_of_reach_is_shown_and_one_that_an_older_release_does_not_tell_of_is_not() {
    let text = shown(&status(|status| {
        status["registry"] =
            serde_json::json!({"place": "postgresql db.test:5432 database mesh", "active": false});
    }));
    let line = "XX registry       postgresql db.test:5432 database mesh is out of reach, so nothing is issued (SG0342)";
    assert!(text.contains(line) && text.ends_with("next  sidegate check\n"), "{text}");
    let older = shown(&status(|status| {
        status.as_object_mut().expect("an object").remove("registry");
    }));
    assert!(!older.contains("registry"), "{older}");
}

#[test]
fn a_mesh_without_sidecars_says_how_to_start_one() {
    let text = shown(&status(|status| {
        status["proxies"] = serde_json::json!({"connected": 0, "total": 0});
    }));
    assert!(text.contains("!! sidecars       0 of 0 connected"), "{text}");
    assert!(text.contains("sidegate proxy --config"), "{text}");
}
