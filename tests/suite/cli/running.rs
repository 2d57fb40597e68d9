//! `sidegate explain` without files: judged on what is in force at a running control plane.

use std::{process::Output, time::Instant};

use serde_json::{Value, json};

use super::{control_plane, document, sidegate, stderr, stdout};
use crate::mesh::{ControlPlane, PATIENCE, id};

const POLICIES: &str = r"apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec:
  selector: {app: payments}
  action: Allow
  rules:
  - name: charge    # by orders alone
    from: [{serviceAccounts: [shop/orders]}]
    to: [{methods: [POST], paths: [/charge]}]
";

const CHARGE: &[&str] = &["shop/orders", "shop/payments", "--method", "GET", "--path", "/charge"];

fn explain(arguments: &[&str], control_plane: &ControlPlane) -> Output {
    let api = format!("http://{}", control_plane.api);
    sidegate(&[&["explain"], arguments, &["--api", &api]].concat())
}

/// Waits until the control plane has this in force.
async fn until(control_plane: &ControlPlane, wanted: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mesh = control_plane.get("/v1/mesh").await;
        if wanted(&mesh) {
            return;
        }
        assert!(Instant::now() < deadline, "not in force: {mesh:#}");
        // Nothing tells when a document of the API changes.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_denied_call_is_explained_with_place_and_text_of_the_running_mesh_and_anew_after_each_change() {
    let control_plane = ControlPlane::start("100ms", POLICIES);
    let output = explain(CHARGE, &control_plane);
    assert_eq!(output.status.code(), Some(4), "{}{}", stdout(&output), stderr(&output));
    let judged_on = format!("judged on   what is in force at http://{}: set ", control_plane.api);
    for words in [
        "DENY  shop/orders → shop/payments  GET /charge  SG0202",
        &judged_on,
        ", loaded 20",
        "method GET is not in [POST] (policies/all.yaml:8)",
        "    >    8 │   - name: charge    # by orders alone",
        "widen the rule at policies/all.yaml:8",
    ] {
        assert!(stdout(&output).contains(words), "{words} in {}", stdout(&output));
    }

    control_plane.policies(&POLICIES.replace("[POST]", "[GET, POST]"));
    let text = |mesh: &Value| mesh["policies"]["files"][0]["text"].as_str().unwrap_or_default().to_owned();
    until(&control_plane, |mesh| text(mesh).contains("[GET, POST]")).await;
    let output = explain(CHARGE, &control_plane);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("methods: [GET, POST]"), "{}", stdout(&output));

    control_plane.policies("apiVersion: [");
    until(&control_plane, |mesh| mesh["policies"]["stale"] == true).await;
    let output = explain(CHARGE, &control_plane);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    for words in ["newer files were refused", "methods: [GET, POST]"] {
        assert!(stdout(&output).contains(words), "{words} in {}", stdout(&output));
    }
}

#[tokio::test]
async fn the_answer_of_the_running_mesh_is_that_of_its_files() {
    let control_plane = ControlPlane::start("100ms", POLICIES);
    let mesh = control_plane.mesh_file().display().to_string();
    for asked in [
        CHARGE,
        &["shop/orders", "shop/payments", "--method", "POST", "--path", "/charge"],
        &["shop/payments", "shop/orders", "--port", "5432"],
        &["plaintext", "shop/payments", "--path", "/charge"],
        &["shop/payments", "api.cards.test:443"],
    ] {
        let asked = [asked, &["-o", "json"]].concat();
        let running = explain(&asked, &control_plane);
        let on_files = sidegate(&[&["explain"], &asked[..], &["--mesh", &mesh]].concat());
        assert_eq!(running.status.code(), on_files.status.code(), "{asked:?}: {}", stderr(&running));
        let (mut running, mut on_files) = (document(&running), document(&on_files));
        assert_eq!(running["inForce"]["api"], format!("http://{}", control_plane.api), "{running:#}");
        assert_eq!(on_files["inForce"], Value::Null);
        for document in [&mut running, &mut on_files] {
            document["inForce"] = Value::Null;
            // A person names the folder by another path than the control plane.
            let text = document.to_string().replace(&mesh.replace("mesh.yaml", ""), "");
            *document = serde_json::from_str(&text).expect("JSON");
        }
        assert_eq!(running, on_files, "{asked:?}");
    }
}

#[tokio::test]
async fn a_caller_in_quarantine_is_denied_whatever_policies_say() {
    let control_plane = ControlPlane::start("100ms", POLICIES);
    let post = &["shop/orders", "shop/payments", "--method", "POST", "--path", "/charge"];
    assert_eq!(explain(post, &control_plane).status.code(), Some(0));
    control_plane.quarantine(&["add", "shop/orders", "--reason", "key in a bucket"]);
    until(&control_plane, |mesh| mesh["quarantined"] == json!([id("orders")])).await;
    let output = explain(post, &control_plane);
    assert_eq!(output.status.code(), Some(4), "{}{}", stdout(&output), stderr(&output));
    for words in ["SG0314", &format!("the quarantine of {}", id("orders")), "sidegate quarantine list"] {
        assert!(stdout(&output).contains(words), "{words} in {}", stdout(&output));
    }
}

#[test]
fn a_control_plane_that_has_loaded_no_policies_is_no_answer() {
    let control_plane = ControlPlane::start("100ms", "apiVersion: [");
    let output = explain(CHARGE, &control_plane);
    assert_eq!((output.status.code(), stdout(&output)), (Some(3), ""), "{}", stderr(&output));
    for words in ["SG0218", "no policies in force", "sidegate check"] {
        assert!(stderr(&output).contains(words), "{words} in {}", stderr(&output));
    }
}

#[test]
fn a_control_plane_that_cannot_be_asked_is_a_failure_with_code_and_way_out() {
    let ask = |api: &str| sidegate(&[&["explain"], CHARGE, &["--api", api]].concat());
    let nobody = format!("http://{}", control_plane::unused_address());
    let too_old = control_plane::ControlPlane::healthy();
    for (api, words) in [
        (&*nobody, ["SG0605", "cannot be reached", "--api URL", "--mesh mesh.yaml"]),
        (too_old.url(), ["SG0605", "404", "sidegate version", "--mesh mesh.yaml"]),
    ] {
        let output = ask(api);
        assert_eq!((output.status.code(), stdout(&output)), (Some(3), ""), "{}", stderr(&output));
        for words in words {
            assert!(stderr(&output).contains(words), "{words} in {}", stderr(&output));
        }
    }
    let refusing = control_plane::ControlPlane::answering(403, &json!({}));
    let output = ask(refusing.url());
    assert_eq!((output.status.code(), stdout(&output)), (Some(4), ""));
    assert!(stderr(&output).contains("refused to answer"), "{}", stderr(&output));
}

#[test]
fn what_the_running_mesh_knows_itself_is_not_taken_from_an_option() {
    for option in [["--label", "app=other"], ["--trust-domain", "other.test"], ["--root-namespace", "shop"]] {
        let output = sidegate(&[&["explain"], CHARGE, &option].concat());
        assert_eq!((output.status.code(), stdout(&output)), (Some(2), ""), "{option:?}");
        for words in [option[0], "--policies"] {
            assert!(stderr(&output).contains(words), "{words} in {}", stderr(&output));
        }
    }
}
