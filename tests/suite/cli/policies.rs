//! The commands that answer from policies' files alone: `explain`, `policy lint`, `policy test`.

use std::{fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use super::{document, sarif, sidegate, stderr, stdout};
use crate::plaintext::exception;

const POLICIES: &str = r#"apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: payments-callers, namespace: shop}
spec:
  selector: {app: payments}
  action: Allow
  rules:
  - name: charge
    from: [{serviceAccounts: [shop/orders]}]
    to: [{methods: [POST], paths: ["/charge/**"]}]
  - name: metrics
    from: [{serviceAccounts: [shop/orders]}]
    to: [{ports: [9090]}]
"#;

pub(super) const MESH: &str = r#"apiVersion: sidegate.dev/v1alpha1
kind: Mesh
trustDomain: shop.test
rootNamespace: sidegate
policies: policies/
state: state/
listen: {grpc: "127.0.0.1:15110", api: "127.0.0.1:15180"}
services:
- {namespace: shop, name: payments}
- {namespace: shop, name: orders}
"#;

/// A folder with `mesh.yaml` and policies.
pub(super) struct Mesh(TempDir);

impl Mesh {
    pub(super) fn with(policies: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        fs::create_dir(folder.path().join("policies")).expect("a folder");
        fs::write(folder.path().join("mesh.yaml"), MESH).expect("a file");
        fs::write(folder.path().join("policies/a.yaml"), policies).expect("a file");
        Self(folder)
    }

    /// Another file beside them.
    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    pub(super) fn run(&self, arguments: &[&str]) -> std::process::Output {
        sidegate(&[arguments, &["--mesh", &self.path("mesh.yaml")]].concat())
    }
}

const CHARGE: &[&str] = &["explain", "shop/orders", "shop/payments", "--port", "8080", "--path", "/charge"];

#[test]
fn an_allowed_call_names_its_rule_with_line_and_text() {
    let mesh = Mesh::with(POLICIES);
    let output = mesh.run(&[CHARGE, &["--method", "POST"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).starts_with("ALLOW  shop/orders → shop/payments  POST /charge"),
        "{}",
        stdout(&output)
    );
    for words in ["rule charge of shop/payments-callers", "a.yaml:8", ">    8 │   - name: charge"] {
        assert!(stdout(&output).contains(words), "{words} in {}", stdout(&output));
    }
}

#[test]
fn a_denied_call_ends_with_four_and_says_what_came_nearest_and_what_to_change() {
    let mesh = Mesh::with(POLICIES);
    let output = mesh.run(&[CHARGE, &["--method", "PUT"]].concat());
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    for words in ["DENY", "SG0202", "method PUT is not in [POST]", "a.yaml:8", "to allow"] {
        assert!(stdout(&output).contains(words), "{words} in {}", stdout(&output));
    }
    let json = document(&mesh.run(&[CHARGE, &["--method", "PUT", "-o", "json"]].concat()));
    assert_eq!(json["kind"], "Explanation");
    assert_eq!(json["verdict"], "Deny");
    assert_eq!(json["code"], "SG0202");
    assert!(json["nearestAt"].as_str().is_some_and(|at| at.ends_with("a.yaml:8")), "{json}");
    assert_eq!(json["request"]["source"], "spiffe://shop.test/ns/shop/sa/orders");
}

#[test]
fn without_a_mesh_the_called_workload_is_described_by_options() {
    let mesh = Mesh::with(POLICIES);
    let policies = mesh.path("policies");
    let called =
        [CHARGE, &["--method", "POST", "--policies", &policies, "--trust-domain", "shop.test"]].concat();
    assert_eq!(sidegate(&called).status.code(), Some(0));
    let output = sidegate(&[&called[..], &["--label", "app=other"]].concat());
    assert_eq!(output.status.code(), Some(4));
    assert!(stdout(&output).contains("SG0201"), "{}", stdout(&output));
}

#[test]
fn an_answer_that_depends_on_the_port_is_not_given_without_it() {
    let mesh = Mesh::with(POLICIES);
    let output = mesh.run(&["explain", "shop/orders", "shop/payments"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--port"), "{}", stderr(&output));
    let mesh_file = MESH.replace("name: payments}", "name: payments, port: 9090}");
    fs::write(mesh.path("with-port.yaml"), mesh_file).expect("a file");
    let of_mesh =
        sidegate(&["explain", "shop/orders", "shop/payments", "--mesh", &mesh.path("with-port.yaml")]);
    assert_eq!(of_mesh.status.code(), Some(0), "{}", stderr(&of_mesh));
    assert!(stdout(&of_mesh).contains("port 9090"), "{}", stdout(&of_mesh));
    let same_on_every_port = mesh.run(&["explain", "shop/payments", "shop/orders"]);
    assert_eq!(same_on_every_port.status.code(), Some(4));
}

#[test]
fn what_cannot_be_answered_ends_with_two_and_an_empty_stdout() {
    let mesh = Mesh::with(POLICIES);
    let broken = Mesh::with("apiVersion: [");
    let policies = mesh.path("policies");
    for output in [
        mesh.run(&["explain", "orders", "shop/payments"]),
        mesh.run(&["explain", "shop/orders", "shop/nobody"]),
        mesh.run(&["explain", "shop/orders", "shop/payments", "--path", "/a/../b"]),
        sidegate(&["explain", "shop/orders", "shop/payments", "--policies", &policies]),
        sidegate(&["policy", "lint"]),
        sidegate(&["policy", "lint", "/nowhere"]),
        sidegate(&["policy", "lint", &policies, "--allow", "unicorns"]),
        sidegate(&["policy", "test", &mesh.path("mesh.yaml")]),
        broken.run(&["policy", "lint"]),
    ] {
        assert_eq!(output.status.code(), Some(2), "{}{}", stdout(&output), stderr(&output));
        assert_eq!(stdout(&output), "");
        assert_ne!(stderr(&output), "");
    }
    assert!(stderr(&broken.run(&["policy", "lint"])).contains("SG0210"));
}

#[test]
fn policies_without_a_finding_end_with_zero() {
    let mesh = Mesh::with(POLICIES);
    let output = mesh.run(&["policy", "lint"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("findings 0"));
}

#[test]
fn a_finding_ends_with_one_and_has_id_place_reason_and_fix_in_every_form() {
    let mesh = Mesh::with(
        &POLICIES.replace("[{serviceAccounts: [shop/orders]}]", "[{serviceAccounts: [shop/order]}]"),
    );
    let output = mesh.run(&["policy", "lint"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    for words in ["× unknown-principal", "a.yaml:8", "why", "service account shop/order", "fix"] {
        assert!(stdout(&output).contains(words), "{words} in {}", stdout(&output));
    }

    let json = document(&mesh.run(&["policy", "lint", "-o", "json"]));
    assert_eq!(json["kind"], "PolicyLint");
    assert_eq!(json["findings"][0]["id"], "unknown-principal");
    assert_eq!(json["findings"][0]["severity"], "error");

    let log = document(&mesh.run(&["policy", "lint", "-o", "sarif"]));
    sarif::check(&log);
    let run: &Value = &log["runs"][0];
    let result = &run["results"][0];
    assert_eq!(result["ruleId"], "unknown-principal");
    assert_eq!(result["locations"][0]["physicalLocation"]["region"]["startLine"], 8);
    let index = usize::try_from(result["ruleIndex"].as_u64().expect("a number")).expect("a small one");
    assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);

    let allowed = mesh.run(&["policy", "lint", "--allow", "unknown-principal"]);
    assert_eq!(allowed.status.code(), Some(0), "{}", stdout(&allowed));
}

#[test]
fn tests_of_policies_compare_what_they_want_and_nothing_else() {
    let mesh = Mesh::with(POLICIES);
    let case = |want: &str| {
        format!(
            "cases:\n- name: orders\n  policies: policies\n  requests:\n  \
             - {{from: shop/orders, http: {{method: POST, path: /charge}}, want: {want}}}\n"
        )
    };
    for (want, code) in [
        ("{verdict: Allow}", 0),
        ("{verdict: Allow, rule: charge}", 0),
        ("{verdict: Allow, rule: metrics}", 1),
        ("{verdict: Deny}", 1),
    ] {
        fs::write(mesh.path("test.yaml"), case(want)).expect("a file");
        let output = sidegate(&["policy", "test", &mesh.path("test.yaml")]);
        assert_eq!(output.status.code(), Some(code), "{want}: {}{}", stdout(&output), stderr(&output));
        assert_eq!(stdout(&output).contains("allowed by rule charge"), code == 1, "{want}");
        let json = document(&sidegate(&["policy", "test", &mesh.path("test.yaml"), "-o", "json"]));
        assert_eq!(json["ok"], code == 0, "{want}");
    }
}

#[test]
fn the_conformance_vectors_are_tests_of_policies_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance");
    let files = fs::read_dir(folder).expect("the vectors").map(|entry| entry.expect("a file").path());
    let files: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| path.display().to_string())
        .collect();
    let arguments =
        [vec!["policy", "test", "-o", "json"], files.iter().map(String::as_str).collect()].concat();
    let output = sidegate(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(document(&output)["passed"].as_u64() > Some(100));
}

#[test]
fn who_can_reach_lists_callers_with_an_example_that_is_let_in() {
    let mesh = Mesh::with(POLICIES);
    let json = document(&mesh.run(&["policy", "who-can-reach", "shop/payments", "-o", "json"]));
    let ways = json["ways"].as_array().expect("a list");
    let rules: Vec<_> = ways.iter().map(|way| way["rule"].as_str().expect("a rule")).collect();
    assert_eq!(rules, ["charge", "metrics"], "{json}");
    for way in ways {
        assert_eq!(way["caller"], "spiffe://shop.test/ns/shop/sa/orders");
    }
    assert_eq!(ways[0]["example"], "POST payments/charge  port 8080  from 10.0.0.7");

    let get =
        document(&mesh.run(&["policy", "who-can-reach", "shop/payments", "--method", "GET", "-o", "json"]));
    assert_eq!(get["ways"].as_array().map(Vec::len), Some(1), "{get}");
    assert_eq!(get["ways"][0]["rule"], "metrics");
}

#[test]
fn a_deny_takes_callers_from_the_list_and_rules_open_to_others_are_named() {
    let open = POLICIES.replacen("{serviceAccounts: [shop/orders]}", "{namespaces: [shop]}", 1);
    let itself = "shop/payments  shop/payments";
    let output = Mesh::with(&open).run(&["policy", "who-can-reach", "shop/payments"]);
    assert!(stdout(&output).contains(itself), "{}", stdout(&output));
    assert!(stdout(&output).contains("rule charge of shop/payments-callers"), "{}", stdout(&output));

    let deny = "---\napiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\n\
                metadata: {name: no-self, namespace: shop}\n\
                spec: {action: Deny, rules: [{from: [{serviceAccounts: [shop/payments]}]}]}\n";
    let output = Mesh::with(&(open + deny)).run(&["policy", "who-can-reach", "shop/payments"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!stdout(&output).contains(itself), "{}", stdout(&output));
}

#[test]
fn what_can_lists_the_services_that_let_an_identity_in() {
    let mesh = Mesh::with(POLICIES);
    let ways = |identity: &str| {
        let json = document(&mesh.run(&["policy", "what-can", identity, "-o", "json"]));
        json["ways"].as_array().expect("a list").len()
    };
    assert_eq!(ways("shop/orders"), 2);
    assert_eq!(ways("shop/payments"), 0);
    assert_eq!(sidegate(&["policy", "what-can", "shop/orders"]).status.code(), Some(2));
}

#[test]
fn claims_that_are_given_are_those_of_a_verified_token_and_without_any_there_is_none() {
    let rule =
        "    jwt: {issuer: corp, audiences: [payments], claims: {level: {equals: 3}}}\n  - name: metrics";
    let mesh = Mesh::with(&POLICIES.replace("  - name: metrics", rule));
    let token = ["--claim", "iss=corp", "--claim", "aud=[\"x\",\"payments\"]", "--claim", "level=3"];
    let charge = [CHARGE, &["--method", "POST"]].concat();

    let output = mesh.run(&[&charge[..], &token].concat());
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let json = document(&mesh.run(&[&charge[..], &token, &["-o", "json"]].concat()));
    assert_eq!(json["request"]["claims"]["level"], 3, "{json}");

    let output = mesh.run(&charge);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("matched caller, path and method, there is no token"),
        "{}",
        stdout(&output)
    );
    let output = mesh.run(&[&charge[..], &token[..4]].concat());
    assert!(stdout(&output).contains("the token has no claim level"), "{}", stdout(&output));
    let output = mesh.run(&[&charge[..], &token[2..]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(stderr(&output).contains("--claim iss=ISSUER"), "{}", stderr(&output));
}

#[test]
fn a_call_without_tls_is_explained_by_the_exception_that_is_or_is_not_for_it() {
    let mesh =
        Mesh::with(&(POLICIES.to_owned() + &exception("10.0.3.7", "ports: [8080], paths: [/healthz]", 30)));
    let explain = |more: &[&str]| {
        let call = ["explain", "plaintext", "shop/payments", "--port", "8080"];
        mesh.run(&[&call[..], more].concat())
    };
    let output = explain(&["--path", "/healthz", "--ip", "10.0.3.7"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for words in
        ["ALLOW  plaintext → shop/payments", "rule probes of shop/probes", "kind: PlaintextException"]
    {
        assert!(stdout(&output).contains(words), "{words} in {}", stdout(&output));
    }
    let output = explain(&["--path", "/charge", "--ip", "10.0.3.7", "-o", "json"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let json = document(&output);
    assert_eq!((&json["code"], &json["request"]["source"]), (&"SG0206".into(), &Value::Null));
    assert!(
        json["change"].as_str().is_some_and(|change| change.contains("widen the exception at")),
        "{json}"
    );
    // From where it comes is all that there is to judge it by.
    let output = explain(&["--path", "/healthz"]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(stderr(&output).contains("add --ip"), "{}", stderr(&output));
}

#[test]
fn who_can_reach_lists_whom_an_exception_lets_in_without_tls() {
    let probes = exception("10.0.3.0/24", "ports: [8080], methods: [GET], paths: [/healthz]", 30);
    let ways = |policies: &str| {
        let json =
            document(&Mesh::with(policies).run(&["policy", "who-can-reach", "shop/payments", "-o", "json"]));
        let ways = json["ways"].as_array().expect("a list").clone();
        ways.into_iter().filter(|way| way["rule"] == "probes").collect::<Vec<_>>()
    };
    let found = ways(&(POLICIES.to_owned() + &probes));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["caller"], "plaintext from 10.0.3.0/24");
    assert_eq!(found[0]["example"], "GET payments/healthz  port 8080  from 10.0.3.0");

    let deny = "---\napiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\n\
                metadata: {name: no-probes, namespace: shop}\n\
                spec: {action: Deny, rules: [{to: [{paths: [/healthz]}]}]}\n";
    assert_eq!(ways(&(POLICIES.to_owned() + &probes + deny)), [] as [Value; 0]);
}

#[test]
fn an_exception_that_would_be_refused_today_is_refused() {
    let lasting = POLICIES.to_owned() + &exception("10.0.3.7", "ports: [8080], paths: [/healthz]", 120);
    let output = Mesh::with(&lasting).run(&["policy", "lint"]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(stderr(&output).contains("an exception lasts 90 days at most"), "{}", stderr(&output));
    let ending = POLICIES.to_owned() + &exception("10.0.0.0/8", "ports: [8080], paths: [/healthz]", 3);
    let output = Mesh::with(&ending).run(&["policy", "lint"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    for id in ["exception-ends-soon", "plaintext-wide"] {
        assert!(stdout(&output).contains(id), "{id} in {}", stdout(&output));
    }
}
