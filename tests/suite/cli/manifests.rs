//! `sidegate check manifests`: what in a manifest breaks zero trust is found where it stands, and its clean twin is not.

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{document, sarif, sidegate, stderr, stdout};

/// Nothing is to be found in it.
const CLEAN: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    spec:
      serviceAccountName: web
      automountServiceAccountToken: false
      hostNetwork: false
      containers:
      - name: app
        image: acme/web
        securityContext: {privileged: false, runAsUser: 1000, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
        ports: [{containerPort: 8080}]
        env:
        - {name: DB_PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}
        - {name: DB_PASSWORD_FILE, value: /run/secrets/db}
      - name: sidecar
        image: registry.test:5000/sidegate-proxy:1.0
        securityContext: {runAsUser: 15100, capabilities: {add: [NET_ADMIN]}}
        ports: [{containerPort: 15106, hostPort: 15106}]
";

const CLEAN_COMPOSE: &str = "x-base: &base {privileged: false, cap_drop: [ALL]}
services:
  web:
    <<: *base
    image: acme/web
    user: '1000'
    environment: {DB_PASSWORD: '${DB_PASSWORD:?}', LOG: debug}
    expose: ['8080']
  sidecar:
    image: acme/sidegate
    cap_add: [NET_ADMIN]
    user: '15100'
    ports: ['8443:15106']
";

/// The codes and lines of what is found in a file of this text.
fn found(text: &str) -> Vec<(String, u64)> {
    let output = check(&[("a.yaml", text)], &["-o", "json"]);
    let document = document(&output);
    let findings = document["findings"].as_array().expect("a list");
    assert_eq!(document["ok"], findings.is_empty());
    assert_eq!(output.status.code(), Some(i32::from(!findings.is_empty())), "{}", stderr(&output));
    let place =
        |it: &Value| (it["code"].as_str().expect("a code").to_owned(), it["line"].as_u64().expect("a line"));
    findings.iter().map(place).collect()
}

fn check(files: &[(&str, &str)], options: &[&str]) -> Output {
    let folder = TempDir::new().expect("a folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("a file");
    }
    let folder = folder.path().display().to_string();
    sidegate(&[&["check", "manifests", &folder], options].concat())
}

/// The clean manifest with one text replaced: what is found then.
fn with(clean: &str, from: &str, to: &str) -> Vec<(String, u64)> {
    assert!(clean.contains(from), "{from}");
    found(&clean.replace(from, to))
}

fn one(code: &str, line: u64) -> Vec<(String, u64)> {
    vec![(code.to_owned(), line)]
}

#[test]
fn a_clean_manifest_and_a_clean_compose_file_have_no_findings() {
    assert_eq!(found(CLEAN), []);
    assert_eq!(found(CLEAN_COMPOSE), []);
    assert_eq!(found(&format!("---\n---\n{CLEAN}---\n")), []);
}

#[test]
fn each_fault_of_a_pod_is_found_at_its_line() {
    for (from, to, code, line) in [
        ("hostNetwork: false", "hostNetwork: true", "SG0142", 9),
        ("hostNetwork: false", "hostPID: true", "SG0142", 9),
        ("{privileged: false", "{privileged: true", "SG0143", 13),
        ("NET_BIND_SERVICE", "CAP_NET_ADMIN", "SG0144", 13),
        ("NET_BIND_SERVICE", "ALL", "SG0144", 13),
        ("{containerPort: 8080}", "{containerPort: 8080, hostPort: 80}", "SG0145", 14),
        ("runAsUser: 1000", "runAsUser: 15100", "SG0148", 13),
        ("/run/secrets/db", "'-----BEGIN PRIVATE KEY-----'", "SG0141", 17),
        ("DB_PASSWORD_FILE, value", "DB_PASSWORD, value", "SG0141", 17),
        ("serviceAccountName: web", "serviceAccountName: default", "SG0146", 7),
        ("      serviceAccountName: web\n", "", "SG0146", 7),
        ("automountServiceAccountToken: false", "automountServiceAccountToken: true", "SG0147", 8),
        ("      automountServiceAccountToken: false\n", "", "SG0147", 7),
    ] {
        assert_eq!(with(CLEAN, from, to), one(code, line), "{to}");
    }
}

#[test]
fn each_fault_of_a_compose_service_is_found_at_its_line() {
    for (from, to, code, line) in [
        ("privileged: false", "privileged: true", "SG0143", 4),
        ("privileged: false", "privileged: '${PRIVILEGED}'", "SG0143", 4),
        ("expose: ['8080']", "ports: ['8080:8080']", "SG0145", 8),
        ("expose: ['8080']", "ports: ['127.0.0.1:8080:8080']", "SG0145", 8),
        ("expose: ['8080']", "ports: [{target: 8080}]", "SG0145", 8),
        ("expose: ['8080']", "network_mode: host", "SG0142", 8),
        ("expose: ['8080']", "cap_add: [NET_RAW]", "SG0144", 8),
        ("user: '1000'", "user: '15100:15100'", "SG0148", 6),
        ("'${DB_PASSWORD:?}'", "'${DB_PASSWORD:-hunter2}'", "SG0141", 7),
        ("{DB_PASSWORD: '${DB_PASSWORD:?}', LOG: debug}", "[DB_PASSWORD=hunter2]", "SG0141", 7),
    ] {
        let all = with(CLEAN_COMPOSE, from, to);
        assert_eq!(all.iter().map(|(code, _)| code.as_str()).collect::<Vec<_>>(), [code], "{to}");
        assert!(all[0].1 == line || to.starts_with("privileged"), "{to}: {all:?}");
    }
}

#[test]
fn a_pod_is_found_in_every_kind_that_makes_pods_and_in_lists() {
    let pod = "{serviceAccountName: a, automountServiceAccountToken: false, hostNetwork: true, containers: [{name: c}]}";
    let template = format!("{{spec: {{template: {{spec: {pod}}}}}}}");
    let job = format!("{{template: {{spec: {pod}}}}}");
    let object = |kind: &str, rest: &str| format!("{{apiVersion: v1, kind: {kind}, {}", &rest[1..]);
    let mut objects = vec![
        object("Pod", &format!("{{spec: {pod}}}")),
        object("PodTemplate", &job),
        object("CronJob", &format!("{{spec: {{jobTemplate: {{spec: {job}}}}}}}")),
    ];
    for kind in
        ["Deployment", "ReplicaSet", "ReplicationController", "StatefulSet", "DaemonSet", "Job", "Rollout"]
    {
        objects.push(object(kind, &template));
    }
    let list = format!("{{apiVersion: v1, kind: List, items: [{}]}}", objects.join(", "));
    for object in &objects {
        assert_eq!(found(object), one("SG0142", 1), "{object}");
    }
    assert_eq!(found(&list).len(), objects.len());
    assert_eq!(found(&objects.join("\n---\n")).len(), objects.len());
}

#[test]
fn an_account_of_another_file_may_say_that_no_token_is_mounted() {
    let silent = CLEAN.replace("      automountServiceAccountToken: false\n", "");
    let account = |name: &str| {
        format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: shop}}\nautomountServiceAccountToken: false\n"
        )
    };
    let codes = |account: &str| check(&[("a.yaml", &silent), ("b.yaml", account)], &[]).status.code();
    assert_eq!(codes(&account("web")), Some(0));
    assert_eq!(codes(&account("other")), Some(1));
    assert_eq!(codes(&account("web").replace("namespace: shop", "namespace: test")), Some(1));
}

#[test]
fn workloads_that_share_the_default_account_are_an_error_and_one_alone_a_warning() {
    let alone = CLEAN.replace("serviceAccountName: web", "serviceAccountName: default");
    let severities = |files: &[(&str, &str)]| {
        let document = document(&check(files, &["-o", "json"]));
        let findings = document["findings"].as_array().expect("a list").clone();
        findings.iter().map(|it| it["severity"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(severities(&[("a.yaml", &alone)]), ["warning"]);
    assert_eq!(severities(&[("a.yaml", &alone), ("b.yaml", &alone)]), ["error", "error"]);
    let elsewhere = alone.replace("namespace: shop", "namespace: test");
    assert_eq!(severities(&[("a.yaml", &alone), ("b.yaml", &elsewhere)]), ["warning", "warning"]);
}

#[test]
fn no_form_of_the_answer_prints_a_secret() {
    let text = "services:\n  db:\n    image: postgres\n    environment:\n      PASSWORD: hunter2\n      URL: redis://a:hunter2@r\n";
    for form in ["table", "json", "sarif"] {
        let output = check(&[("a.yaml", text)], &["-o", form]);
        assert!(stdout(&output).contains("SG0141") && stdout(&output).contains("PASSWORD"), "{form}");
        assert!(!stdout(&output).contains("hunter2") && stderr(&output).is_empty(), "{form}");
    }
}

#[test]
fn findings_are_sarif_and_one_that_is_wanted_is_left_out() {
    let text = CLEAN.replace("hostNetwork: false", "hostNetwork: true");
    let log = document(&check(&[("a.yaml", &text)], &["-o", "sarif"]));
    sarif::check(&log);
    assert_eq!(log["runs"][0]["results"][0]["ruleId"], "SG0142");
    let allowed = check(&[("a.yaml", &text)], &["--allow", "SG0142"]);
    assert_eq!(allowed.status.code(), Some(0), "{}", stdout(&allowed));
    assert_eq!(check(&[("a.yaml", &text)], &["--allow", "SG0201"]).status.code(), Some(2));
}

#[test]
fn a_file_that_is_not_understood_refuses_the_whole_with_its_place() {
    for (text, place) in [
        ("a: [", "b.yaml"),
        ("a: 1\na: 2\n", "b.yaml:2"),
        ("replicas: 3\n", "b.yaml:1"),
        ("apiVersion: v1\nkind: Pod\nspec:\n  hostNetwork: 'true'\n", "b.yaml:4: expected true or false"),
        ("apiVersion: v1\nkind: Pod\nspec:\n  containers: {name: a}\n", "b.yaml:4: expected a list"),
        ("services:\n  a: text\n", "b.yaml:2: expected a map"),
        ("apiVersion: v1\nkind: Pod\nspec: {{ .Values.pod }}\n", "b.yaml"),
    ] {
        let broken = CLEAN.replace("hostNetwork: false", "hostNetwork: true");
        let output = check(&[("a.yaml", &broken), ("b.yaml", text)], &["-o", "json"]);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert_eq!(stdout(&output), "", "{text}");
        assert!(stderr(&output).contains("SG0140") && stderr(&output).contains(place), "{}", stderr(&output));
    }
    assert_eq!(sidegate(&["check", "manifests", "/nowhere.yaml"]).status.code(), Some(2));
}

#[test]
fn what_a_chart_renders_is_read_from_stdin() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sidegate"))
        .args(["check", "manifests", "-"])
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(CLEAN.replace("hostNetwork: false", "hostNetwork: true").as_bytes()).expect("read");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("SG0142  Deployment shop/web  stdin:9"), "{}", stdout(&output));
}
