//! The commands that compare policies with one another and with what was recorded: `policy diff`, `simulate`, `suggest`,
//! `unused`, from files and from a running mesh.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{document, sidegate, stderr, stdout};
use crate::{
    mesh::{App, Connection, ControlPlane, Http, Member},
    plaintext::exception,
};

const MESH: &str = r#"apiVersion: sidegate.dev/v1alpha1
kind: Mesh
trustDomain: shop.test
policies: current/
state: state/
listen: {grpc: "127.0.0.1:15110", api: "127.0.0.1:15180"}
services:
- {namespace: shop, name: payments, labels: {app: payments}}
- {namespace: shop, name: orders}
"#;

const CURRENT: &str = r#"apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec:
  selector: {app: payments}
  action: Allow
  rules:
  - name: orders
    from: [{serviceAccounts: [shop/orders]}]
    to: [{methods: [GET, POST], paths: ["/charge/**"]}, {ports: [5432]}]
  - name: reports
    from: [{serviceAccounts: [shop/reports]}]
    to: [{methods: [GET], paths: [/report]}]
"#;

/// A folder with `mesh.yaml`, current and proposed policies, and what was recorded.
struct Folder(TempDir);

impl Folder {
    fn with(proposed: &str, recorded: &[Value]) -> Self {
        let folder = Self(TempDir::new().expect("a folder"));
        let lines: Vec<String> = recorded.iter().map(Value::to_string).collect();
        for name in ["current", "proposed"] {
            fs::create_dir(folder.0.path().join(name)).expect("a folder");
        }
        for (name, text) in [
            ("mesh.yaml", MESH),
            ("current/a.yaml", CURRENT),
            ("proposed/a.yaml", proposed),
            ("edges.jsonl", &lines.join("\n")),
        ] {
            fs::write(folder.path(name), text).expect("a file");
        }
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn run(&self, arguments: &[&str]) -> std::process::Output {
        sidegate(&[arguments, &["--mesh", &self.path("mesh.yaml")]].concat())
    }

    fn diff(&self) -> std::process::Output {
        self.run(&["policy", "diff", &self.path("current"), &self.path("proposed"), "-o", "json"])
    }

    fn with_edges(&self, arguments: &[&str]) -> std::process::Output {
        let edges = ["--edges", &self.path("edges.jsonl")];
        self.run(&[&["policy"], arguments, &edges[..]].concat())
    }
}

/// An edge as the ledger has it: the path is known by the pattern that let it in.
fn edge(route: Option<&str>, verdict: &str, rule: Option<&str>, count: u64) -> Value {
    json!({
        "direction": "inbound", "source": "spiffe://shop.test/ns/shop/sa/orders",
        "destination": "spiffe://shop.test/ns/shop/sa/payments", "port": 8080, "protocol": "http1", "route": route,
        "tls": "mutual", "verdict": verdict, "policy": rule.map(|_| "shop/callers"), "rule": rule, "count": count,
        "errors": 0, "bytesReceived": 0, "bytesSent": 0,
        "firstSeen": "2026-11-01T00:00:00Z", "lastSeen": "2026-11-02T00:00:00Z",
    })
}

/// A line of the access log.
fn request(method: &str, path: &str) -> Value {
    json!({
        "time": "2026-11-03T00:00:00Z", "direction": "inbound", "src": "spiffe://shop.test/ns/shop/sa/orders",
        "dst": "spiffe://shop.test/ns/shop/sa/payments", "tls": "mutual", "protocol": "http2", "method": method,
        "path": path, "verdict": "allowed", "policy": "shop/callers", "rule": "orders", "upstream": "127.0.0.1:8080",
    })
}

#[test]
fn sets_that_say_the_same_in_other_words_do_not_differ() {
    let reworded = CURRENT
        .replace("methods: [GET, POST], paths: [\"/charge/**\"]}", "methods: [POST], paths: [\"/charge/**\"]}, {methods: [GET], paths: [\"/charge/**\", \"/charge/{id}\"]}")
        .replace("serviceAccounts: [shop/reports]", "principals: [\"spiffe://shop.test/ns/shop/sa/reports\"]");
    let output = Folder::with(&reworded, &[]).diff();
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let json = document(&output);
    assert_eq!((&json["complete"], &json["changes"]), (&json!(true), &json!([])));
    assert!(json["tried"].as_u64().is_some_and(|tried| tried > 30), "{json}");
}

#[test]
fn a_difference_is_told_with_a_request_that_the_evaluator_confirms() {
    let proposed = CURRENT.replace("methods: [GET, POST]", "methods: [POST, DELETE]");
    let folder = Folder::with(&proposed, &[]);
    let output = folder.diff();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let json = document(&output);
    let changes = json["changes"].as_array().expect("a list");
    for (newly, method, before, after) in [("allowed", "DELETE", 4, 0), ("denied", "GET", 0, 4)] {
        let change = changes.iter().find(|it| it["newly"] == newly).expect("a change");
        assert_eq!(change["caller"], "spiffe://shop.test/ns/shop/sa/orders");
        let example = change["example"].as_str().expect("an example");
        assert!(example.starts_with(method), "{example}");
        let path = example.split(['/', ' ']).nth(2).map(|path| format!("/{path}")).expect("a path");
        for (policies, code) in [("current", before), ("proposed", after)] {
            let explained = folder.run(&[
                "explain",
                "shop/orders",
                "shop/payments",
                "--method",
                method,
                "--path",
                &path,
                "--port",
                "8080",
                "--policies",
                &folder.path(policies),
            ]);
            assert_eq!(explained.status.code(), Some(code), "{policies} {method} {path}");
        }
    }
    assert_eq!(changes.len(), 2, "{json}");
}

#[test]
fn a_guardrail_that_is_taken_away_is_a_difference() {
    let guarded = format!(
        "{CURRENT}---\napiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{name: reads, namespace: shop}}\nspec: {{action: Require, rules: [{{to: [{{methods: [GET]}}]}}]}}\n"
    );
    let json = document(&Folder::with(&guarded, &[]).diff());
    let denied = json["changes"].as_array().expect("a list");
    assert!(!denied.is_empty() && denied.iter().all(|it| it["newly"] == "denied"), "{json}");
    assert!(denied.iter().any(|it| it["after"] == "shop/reads (SG0204)"), "{json}");
}

#[test]
fn recorded_calls_that_would_break_or_open_or_depend_are_told_apart() {
    let recorded = [
        edge(Some("/charge/**"), "allowed", Some("orders"), 7),
        edge(None, "denied", None, 3),
        request("POST", "/charge/1"),
        request("GET", "/charge/1"),
    ];
    let same = Folder::with(CURRENT, &recorded);
    let output = same.with_edges(&["simulate", &same.path("proposed")]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(
        stdout(&output).contains("replayed 4 kinds of calls (12 requests): 0 would break"),
        "{}",
        stdout(&output)
    );

    let posts = Folder::with(&CURRENT.replace("methods: [GET, POST]", "methods: [POST]"), &recorded);
    let output = posts.with_edges(&["simulate", &posts.path("proposed"), "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let json = document(&output);
    let then: Vec<(&str, &str)> = json["changes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| (row["asked"].as_str().unwrap_or_default(), row["then"].as_str().unwrap_or_default()))
        .collect();
    assert_eq!(then, [("GET /charge/1", "denied"), ("HTTP /charge/**", "depends")]);
}

#[test]
fn a_proposal_lets_in_what_was_recorded_and_nothing_like_it() {
    let recorded = [
        request("POST", "/charge/1"),
        request("POST", "/charge/22"),
        request("GET", "/charge/1"),
        edge(Some("/charge/**"), "denied", None, 3),
    ];
    let folder = Folder::with(CURRENT, &recorded);
    let output = folder.with_edges(&["suggest"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output).to_owned();
    assert!(text.contains("# 3 seen, 2026-11-03T00:00:00Z to 2026-11-03T00:00:00Z"), "{text}");
    fs::write(folder.path("proposed/a.yaml"), &text).expect("a file");
    let explain = |caller: &str, method: &str, path: &str| {
        let policies = folder.path("proposed");
        let called = ["explain", caller, "shop/payments", "--policies", &policies, "--port", "8080"];
        folder.run(&[&called[..], &["--method", method, "--path", path]].concat()).status.code()
    };
    for (caller, method, path, code) in [
        ("shop/orders", "POST", "/charge/7", 0),
        ("shop/orders", "GET", "/charge/1", 0),
        ("shop/orders", "DELETE", "/charge/1", 4),
        ("shop/orders", "GET", "/charge/1/lines", 4),
        ("shop/reports", "GET", "/charge/1", 4),
    ] {
        assert_eq!(explain(caller, method, path), Some(code), "{caller} {method} {path}\n{text}");
    }
}

/// What `suggest` proposes from these, written where `simulate` reads it.
fn propose(folder: &Folder, recorded: &[Value]) {
    let lines: Vec<String> = recorded.iter().map(Value::to_string).collect();
    fs::write(folder.path("part.jsonl"), lines.join("\n")).expect("a file");
    let output = folder.run(&["policy", "suggest", "--edges", &folder.path("part.jsonl")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    fs::write(folder.path("proposed/a.yaml"), stdout(&output)).expect("a file");
}

#[test]
fn a_proposal_lints_clean_breaks_nothing_that_was_recorded_and_breaks_what_it_was_not_told_of() {
    let opaque = json!({"protocol": "tcp", "port": 5432});
    let with = |mut edge: Value, fields: &Value| {
        let fields = fields.as_object().expect("an object").clone();
        edge.as_object_mut().expect("an object").extend(fields);
        edge
    };
    let reports = json!({"source": "spiffe://shop.test/ns/shop/sa/reports", "rule": "reports"});
    let partner =
        json!({"source": "spiffe://partner.test/any", "verdict": "would_deny", "policy": null, "rule": null});
    let recorded = [
        request("POST", "/charge/1"),
        request("GET", "/charge/9/lines"),
        with(edge(None, "allowed", Some("orders"), 5), &opaque),
        with(edge(Some("/report"), "allowed", Some("reports"), 2), &reports),
        with(edge(None, "would_deny", None, 4), &partner),
    ];
    let folder = Folder::with(CURRENT, &recorded);
    propose(&folder, &recorded);
    let lint = folder.run(&["policy", "lint", &folder.path("proposed")]);
    // That callers are no service of the mesh is so, and said.
    let lint_ids: Vec<&str> = stdout(&lint).matches("unknown-principal").collect();
    assert_eq!((lint.status.code(), lint_ids.len()), (Some(1), 1), "{}{}", stdout(&lint), stderr(&lint));
    let allowed = folder.run(&["policy", "lint", &folder.path("proposed"), "--allow", "unknown-principal"]);
    assert_eq!(allowed.status.code(), Some(0), "{}", stdout(&allowed));
    let output = folder.with_edges(&["simulate", &folder.path("proposed")]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));

    for left_out in 0..recorded.len() {
        let mut rest = recorded.to_vec();
        rest.remove(left_out);
        propose(&folder, &rest);
        let output = folder.with_edges(&["simulate", &folder.path("proposed"), "-o", "json"]);
        assert_eq!(output.status.code(), Some(1), "{left_out}: {}", stderr(&output));
        let json = document(&output);
        let changes = json["changes"].as_array().expect("a list");
        let told: Vec<&str> = changes.iter().filter_map(|change| change["then"].as_str()).collect();
        assert_eq!(told, ["denied"], "{left_out}: {json:#}");
    }
}

#[tokio::test]
async fn edges_of_the_running_mesh_answer_alike_over_the_api_and_as_a_file() {
    const POLICIES: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec:
  action: Allow
  rules:
  - {name: charge, from: [{serviceAccounts: [shop/orders]}], to: [{methods: [GET], paths: [/charge]}]}
  - {name: report, from: [{serviceAccounts: [shop/orders]}], to: [{paths: [/report]}]}
  - {name: idle, from: [{serviceAccounts: [shop/payments]}], to: [{paths: [/idle]}]}
";
    let app = App::start().await;
    let control_plane = ControlPlane::start("100ms", POLICIES);
    let inbound = format!("inbound: [{{listen: '127.0.0.1:0', forward: '{}', protocol: http}}]", app.address);
    let payments = Member::start("payments", &control_plane, &inbound);
    payments.logged(|line| line["message"] == "update applied");
    let outbound = "outbound: [{listen: '127.0.0.1:0', service: shop/payments, protocol: http}]";
    let orders = Member::start("orders", &control_plane, outbound);
    orders.logged(|line| line["message"] == "update applied");
    control_plane.serves_both().await;
    let mut client = Connection::plain(orders.address("outbound"), Http::One).await;
    for path in ["/charge", "/report"] {
        assert_eq!(client.status("GET", path).await, 200);
        control_plane.edge(|edge| edge["direction"] == "inbound" && edge["route"] == path).await;
    }

    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (mesh, api) =
        (control_plane.mesh_file().display().to_string(), format!("http://{}", control_plane.api));
    let run = |arguments: &[&str], from: &[&str]| {
        sidegate(&[&["policy"], arguments, from, &["--mesh", &mesh]].concat())
    };
    let edges = sidegate(&["get", "edges", "-o", "jsonl", "--api", &api]);
    let lines: Vec<&str> =
        stdout(&edges).lines().filter(|line| line.contains(r#""direction":"inbound""#)).collect();
    assert_eq!(lines.len(), 2, "{}", stdout(&edges));
    fs::write(path("all.jsonl"), stdout(&edges)).expect("a file");
    fs::write(path("one.jsonl"), lines[0]).expect("a file");

    for from in [&["--api", &*api][..], &["--edges", &path("all.jsonl")]] {
        let proposal = run(&["suggest"], from);
        assert_eq!(proposal.status.code(), Some(0), "{}", stderr(&proposal));
        fs::write(path("proposed.yaml"), stdout(&proposal)).expect("a file");
        let simulated = run(&["simulate", &path("proposed.yaml")], from);
        assert_eq!(simulated.status.code(), Some(0), "{}{}", stdout(&simulated), stderr(&simulated));
        let unused = run(&["unused", "-o", "json"], from);
        let json = document(&unused);
        assert_eq!(
            (&json["unused"][0]["rule"], &json["unused"][1]),
            (&json!("idle"), &Value::Null),
            "{json}"
        );
        assert!(json["observedSeconds"].is_u64(), "{json}");
    }
    let part = run(&["suggest"], &["--edges", &path("one.jsonl")]);
    fs::write(path("proposed.yaml"), stdout(&part)).expect("a file");
    let simulated = run(&["simulate", &path("proposed.yaml"), "-o", "json"], &["--api", &api]);
    assert_eq!(simulated.status.code(), Some(1), "{}", stderr(&simulated));
    let changes = document(&simulated);
    assert_eq!((&changes["changes"][0]["then"], &changes["changes"][1]), (&json!("denied"), &Value::Null));
}

#[test]
fn an_edge_without_a_method_is_proposed_as_the_rule_that_let_it_in() {
    let folder = Folder::with(CURRENT, &[edge(Some("/charge/**"), "allowed", Some("orders"), 7)]);
    let output = folder.with_edges(&["suggest", "shop/payments"]);
    let text = stdout(&output);
    assert!(
        text.contains(r#"{"methods":["GET","POST"],"paths":["/charge/**"],"ports":[8080]}  # 7 seen"#),
        "{text}"
    );
}

#[test]
fn a_rule_that_decided_nothing_is_listed_and_one_that_did_is_not() {
    let folder = Folder::with(CURRENT, &[request("GET", "/charge/1")]);
    let output = folder.with_edges(&["unused", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let json = document(&output);
    assert_eq!(json["unused"][0]["rule"], "reports");
    assert_eq!((&json["unused"][1], &json["rules"], &json["requests"]), (&Value::Null, &json!(2), &json!(1)));
    assert_eq!(json["observedSeconds"], 0);

    let folder = Folder::with(CURRENT, &[edge(Some("/charge/**"), "allowed", Some("orders"), 7)]);
    let output = folder.with_edges(&["unused"]);
    assert!(
        stdout(&output)
            .ends_with("of 7 requests, 2026-11-01T00:00:00Z to 2026-11-02T00:00:00Z, observed for 1day\n")
    );
}

#[test]
fn what_cannot_be_read_is_refused_and_nothing_is_answered() {
    let folder = Folder::with(CURRENT, &[json!({"direction": "inbound"})]);
    for output in [
        folder.with_edges(&["unused"]),
        folder.with_edges(&["suggest"]),
        folder.with_edges(&["simulate", &folder.path("proposed")]),
        folder.run(&["policy", "unused", "--edges", "/nowhere"]),
        sidegate(&["policy", "diff", &folder.path("current"), &folder.path("proposed")]),
        folder.run(&["policy", "diff", &folder.path("current"), "/nowhere"]),
    ] {
        assert_eq!(output.status.code(), Some(2), "{}{}", stdout(&output), stderr(&output));
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn a_line_of_edges_that_is_not_understood_refuses_the_file_with_its_number_and_code() {
    let folder = Folder::with(CURRENT, &[request("POST", "/charge/1")]);
    let good = fs::read_to_string(folder.path("edges.jsonl")).expect("the edges");
    for bad in ["{", &good.trim().replace("allowed", "maybe"), &good.trim().replace("spiffe://", "http://")] {
        fs::write(folder.path("edges.jsonl"), format!("{}\n\n{bad}\n", good.trim())).expect("a file");
        for arguments in [&["unused"][..], &["suggest"], &["simulate", &folder.path("proposed")]] {
            let output = folder.with_edges(arguments);
            assert_eq!((output.status.code(), stdout(&output)), (Some(2), ""), "{bad}");
            for words in ["edges.jsonl", "line 3: ", "SG0230"] {
                assert!(stderr(&output).contains(words), "{words} in {}", stderr(&output));
            }
        }
    }
}

#[test]
fn what_an_exception_lets_in_is_compared_replayed_and_found_unused_like_any_rule() {
    let open = CURRENT.to_owned() + &exception("10.0.3.0/24", "ports: [8080], paths: [/healthz]", 30);
    let json = document(&Folder::with(&open, &[]).diff());
    let changes = json["changes"].as_array().expect("a list");
    assert_eq!(changes.len(), 1, "{json}");
    let change = ["newly", "caller", "called", "before", "after"].map(|field| &changes[0][field]);
    let want = ["allowed", "plaintext", "shop/payments", "no rule (SG0206)", "shop/probes/probes"];
    assert_eq!(change, want.map(Value::from).each_ref(), "{json}");

    let mut probe = edge(Some("/healthz"), "allowed", Some("probes"), 9);
    for (field, value) in
        [("source", Value::Null), ("policy", "shop/probes".into()), ("tls", "plaintext".into())]
    {
        probe[field] = value;
    }
    let folder = Folder::with(CURRENT, &[probe]);
    fs::write(folder.path("current/a.yaml"), &open).expect("a file");
    let json = document(&folder.with_edges(&["simulate", &folder.path("proposed"), "-o", "json"]));
    let row = &json["changes"][0];
    assert_eq!(
        (&row["source"], &row["then"], &row["count"]),
        (&"plaintext".into(), &"denied".into(), &9.into())
    );
    let names = |output: std::process::Output| document(&output)["unused"].to_string();
    assert!(!names(folder.with_edges(&["unused", "-o", "json"])).contains("probes"));
    let other = Folder::with(CURRENT, &[request("GET", "/charge/1")]);
    fs::write(other.path("current/a.yaml"), &open).expect("a file");
    assert!(names(other.with_edges(&["unused", "-o", "json"])).contains("probes"));
}
