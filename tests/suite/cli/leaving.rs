//! The commands that answer from policies' files, where they speak of what leaves the mesh.

use super::{
    document,
    policies::{MESH, Mesh},
    sidegate, stderr, stdout,
};

const OUT: &str = r#"apiVersion: sidegate.dev/v1alpha1
kind: EgressPolicy
metadata: {name: payments-out, namespace: shop}
spec:
  selector: {app: payments}
  rules:
  - name: cards
    to:
    - {sni: [api.cards.test, "*.cards.test"], ports: [443]}
    - {hosts: [api.cards.test], ports: [80, 443]}
  - name: ledger
    from: [{serviceAccounts: [shop/payments]}]
    to: [{ipBlocks: [10.9.0.0/24], ports: [5432]}]
  - name: mail
    to: [{hosts: [smtp.test], ipBlocks: [192.168.7.25], ports: [25]}]
"#;

#[test]
fn explain_names_the_rule_that_lets_out_with_line_and_text() {
    let mesh = Mesh::with(OUT);
    let output = mesh.run(&["explain", "shop/payments", "api.cards.test:443"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).starts_with("ALLOW  shop/payments → api.cards.test:443"), "{}", stdout(&output));
    for words in
        ["rule cards of shop/payments-out", "a.yaml:7", ">    7 │   - name: cards", "a public address"]
    {
        assert!(stdout(&output).contains(words), "{words} in {}", stdout(&output));
    }
    for allowed in [
        &["10.9.0.7:5432"][..],
        &["10.9.0.7", "--port", "5432"],
        &["www.cards.test:443", "--as", "sni"],
        &["smtp.test:25", "--as", "host", "--address", "192.168.7.25"],
    ] {
        let output = mesh.run(&[&["explain", "shop/payments"], allowed].concat());
        assert_eq!(output.status.code(), Some(0), "{allowed:?}: {}{}", stdout(&output), stderr(&output));
    }
}

#[test]
fn explain_says_of_what_may_not_leave_what_came_nearest_and_what_to_change() {
    let mesh = Mesh::with(OUT);
    for (denied, words) in [
        (
            &["www.cards.test:80", "--as", "host"][..],
            "host www.cards.test is not in hosts [api.cards.test] (",
        ),
        (&["api.cards.test:8443"], "it is not for port 8443 ("),
        (&["10.10.0.7:5432"], "10.10.0.7 is not in ipBlocks ("),
        (
            &["api.cards.test:443", "--address", "169.254.169.254"],
            "169.254.169.254 is not of the public Internet",
        ),
        (&["smtp.test:25", "--as", "host", "--address", "192.168.7.26"], "192.168.7.26 is not in ipBlocks"),
    ] {
        let output = mesh.run(&[&["explain", "shop/payments"], denied].concat());
        assert_eq!(output.status.code(), Some(4), "{denied:?}: {}{}", stdout(&output), stderr(&output));
        for words in [words, "DENY", "SG0220", "widen the rule at"] {
            assert!(stdout(&output).contains(words), "{denied:?}: {words} in {}", stdout(&output));
        }
    }
    let json = document(&mesh.run(&["explain", "shop/payments", "10.10.0.7:5432", "-o", "json"]));
    assert_eq!((&json["kind"], &json["verdict"]), (&"EgressExplanation".into(), &"Deny".into()), "{json}");
    assert_eq!((&json["code"], &json["byDefault"]), (&"SG0220".into(), &false.into()), "{json}");
    assert!(json["nearestAt"].as_str().is_some_and(|at| at.ends_with("a.yaml:11")), "{json}");
    assert_eq!(json["request"]["source"], "spiffe://shop.test/ns/shop/sa/payments");
    assert_eq!((&json["request"]["address"], &json["request"]["port"]), (&"10.10.0.7".into(), &5432.into()));

    let other = mesh.run(&["explain", "shop/orders", "api.cards.test:443"]);
    assert_eq!(other.status.code(), Some(4), "{}", stderr(&other));
    assert!(stdout(&other).contains("no policy of egress selects the caller"), "{}", stdout(&other));
    assert!(stdout(&other).contains("write an EgressPolicy in namespace shop"), "{}", stdout(&other));
}

#[test]
fn explain_does_not_guess_how_a_name_is_asked_for_or_where_it_leads() {
    let mesh = Mesh::with(OUT);
    for (arguments, words) in [
        (&["www.cards.test:443"][..], "--as host or --as sni"),
        (&["smtp.test:25", "--as", "host"], "--address"),
        (&["api.cards.test"], "--port"),
        (&["api.cards.test:443", "--port", "80"], "the port is said twice"),
        (&["api.cards.test:443", "--method", "GET"], "leave --method out"),
        (&["10.9.0.7:5432", "--as", "sni"], "leave --as out"),
        (&["*.cards.test:443"], "as in api.example.com:443"),
        (&["shop/orders", "--as", "sni"], "a destination outside is HOST:PORT"),
    ] {
        let output = mesh.run(&[&["explain", "shop/payments"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
        assert!(stderr(&output).contains(words), "{arguments:?}: {words} in {}", stderr(&output));
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn where_egress_is_allowed_by_default_it_is_said_that_no_rule_lets_it_out() {
    let mesh = Mesh::with(OUT);
    mesh.write("open.yaml", &MESH.replace("services:", "egress: Allow\nservices:"));
    let open = |arguments: &[&str]| sidegate(&[arguments, &["--mesh", &mesh.path("open.yaml")]].concat());
    let output = open(&["explain", "shop/orders", "example.com:443", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let json = document(&output);
    assert_eq!((&json["verdict"], &json["byDefault"]), (&"Allow".into(), &true.into()), "{json}");
    assert_eq!(open(&["explain", "shop/orders", "10.0.0.1:443"]).status.code(), Some(4));
    assert!(stdout(&open(&["policy", "what-can", "shop/orders"])).contains("egress: Allow"));
    let closed = mesh.run(&["policy", "what-can", "shop/orders"]);
    assert!(!stdout(&closed).contains("egress: Allow"), "{}", stdout(&closed));
}

/// Each way out, as caller, destination, example and rule.
fn ways(mesh: &Mesh, arguments: &[&str]) -> Vec<[String; 4]> {
    let json = document(&mesh.run(&[&["policy"], arguments, &["-o", "json"]].concat()));
    let text = |way: &serde_json::Value, field: &str| way[field].as_str().expect("a text").to_owned();
    let way = |way| ["caller", "called", "example", "rule"].map(|field| text(way, field));
    json["outside"].as_array().expect("a list").iter().map(way).collect()
}

#[test]
fn what_can_lists_destinations_outside_with_an_example_that_is_let_out() {
    let mesh = Mesh::with(OUT);
    let payments = "spiffe://shop.test/ns/shop/sa/payments";
    let wanted = [
        ["api.cards.test:443", "TLS to api.cards.test port 443  at 203.0.113.7", "cards"],
        ["*.cards.test:443", "TLS to a.cards.test port 443  at 203.0.113.7", "cards"],
        ["api.cards.test:80", "HTTP to api.cards.test port 80  at 203.0.113.7", "cards"],
        ["api.cards.test:443", "HTTP to api.cards.test port 443  at 203.0.113.7", "cards"],
        ["10.9.0.0/24:5432", "to 10.9.0.0 port 5432", "ledger"],
        ["smtp.test:25", "HTTP to smtp.test port 25  at 192.168.7.25", "mail"],
    ];
    let found = ways(&mesh, &["what-can", "shop/payments"]);
    let order = |mut list: Vec<[String; 4]>| {
        list.sort();
        list
    };
    let wanted = wanted.map(|[called, example, rule]| [payments, called, example, rule].map(str::to_owned));
    assert_eq!(order(found), order(wanted.to_vec()));
    assert!(ways(&mesh, &["what-can", "shop/orders"]).is_empty());
    let of_http = ways(&mesh, &["what-can", "shop/payments", "--method", "GET"]);
    assert!(of_http.len() == 3 && of_http.iter().all(|way| way[2].starts_with("HTTP ")), "{of_http:?}");
}

#[test]
fn who_can_reach_lists_those_who_may_leave_for_a_destination_outside() {
    let mesh = Mesh::with(OUT);
    let found = |service: &str| -> Vec<String> {
        ways(&mesh, &["who-can-reach", service]).into_iter().map(|[_, _, example, _]| example).collect()
    };
    assert_eq!(
        found("api.cards.test:443"),
        ["HTTP to api.cards.test port 443  at 203.0.113.7", "TLS to api.cards.test port 443  at 203.0.113.7"]
    );
    assert_eq!(found("www.cards.test"), ["TLS to www.cards.test port 443  at 203.0.113.7"]);
    assert_eq!(found("10.9.0.7:5432"), ["to 10.9.0.7 port 5432"]);
    assert_eq!(found("smtp.test"), ["HTTP to smtp.test port 25  at 192.168.7.25"]);
    for nobody in ["example.com", "cards.test:443", "10.9.1.7:5432", "api.cards.test:22"] {
        assert!(found(nobody).is_empty(), "{nobody}");
    }
    let without_mesh =
        sidegate(&["policy", "who-can-reach", "api.cards.test:443", "--trust-domain", "shop.test"]);
    assert_eq!(without_mesh.status.code(), Some(2), "{}", stdout(&without_mesh));
}

#[test]
fn diff_tells_what_leaves_newly_and_what_no_longer_does_each_with_an_example() {
    let mesh = Mesh::with(OUT);
    let ledger = "10.9.0.0/24], ports: [5432]";
    let proposed = OUT.replace(ledger, "10.9.0.0/25], ports: [5432]").replace(
        "{hosts: [api.cards.test], ports: [80, 443]}",
        "{hosts: [api.cards.test, ship.test], ports: [80, 443]}",
    );
    mesh.write("proposed.yaml", &proposed);
    let (before, after) = (mesh.path("policies"), mesh.path("proposed.yaml"));
    let output = mesh.run(&["policy", "diff", &before, &after, "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let json = document(&output);
    let changes: Vec<_> = json["changes"].as_array().expect("a list").iter().collect();
    let told = |change: &serde_json::Value| {
        ["newly", "caller", "called", "example", "before", "after"]
            .map(|field| change[field].as_str().expect("a text").to_owned())
    };
    let payments = "spiffe://shop.test/ns/shop/sa/payments";
    let outside = "outside the mesh";
    let wanted = [
        [
            "allowed",
            payments,
            outside,
            "HTTP to ship.test port 80  at 203.0.113.7",
            "no rule (SG0220)",
            "shop/payments-out/cards",
        ],
        [
            "denied",
            payments,
            outside,
            "to 10.9.0.128 port 5432",
            "shop/payments-out/ledger",
            "no rule (SG0220)",
        ],
    ];
    assert_eq!(
        changes.into_iter().map(told).collect::<Vec<_>>(),
        wanted.map(|change| change.map(str::to_owned))
    );
    assert_eq!(json["complete"], true);

    let same = mesh.run(&["policy", "diff", &before, &before]);
    assert_eq!(same.status.code(), Some(0), "{}", stdout(&same));
    let by_selector = sidegate(&["policy", "diff", &before, &after, "--trust-domain", "shop.test"]);
    assert_eq!(by_selector.status.code(), Some(1), "{}", stderr(&by_selector));
    assert!(stdout(&by_selector).contains("shop {app: payments}") || stdout(&by_selector).contains(outside));
    assert!(stdout(&by_selector).contains("HTTP to ship.test port 80"), "{}", stdout(&by_selector));
}
