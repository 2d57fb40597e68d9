use super::*;

const GOOD: &str = r#"apiVersion: sidegate.dev/v1alpha1
kind: Mesh
trustDomain: shop.test
rootNamespace: sidegate
enforcement: Observe
policies: policies/
state: state/
listen: {grpc: "127.0.0.1:15110", api: "[::1]:0"}
certificates: {leafLife: 4s, rootLife: 30d}
reportInterval: 500ms
services:
- namespace: shop
  name: payments
  serviceAccount: till
  labels: {tier: back}
  joinTokens: ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
  endpoints: ["10.0.0.9:15106"]
- {namespace: shop, name: orders}
"#;

fn problems(text: &str) -> Vec<String> {
    Config::parse(Path::new("mesh.yaml"), text).unwrap_err().iter().map(ToString::to_string).collect()
}

fn only_problem(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    let mut problems = problems(&GOOD.replacen(from, to, 1));
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

#[test]
fn every_field_is_read() {
    let config = Config::parse(Path::new("/etc/mesh/mesh.yaml"), GOOD).unwrap();
    assert_eq!(config.trust_domain.as_str(), "shop.test");
    assert_eq!(config.enforcement, Enforcement::Observe);
    assert_eq!(config.policies, Path::new("/etc/mesh/policies/"));
    assert_eq!(config.leaf_life, Duration::from_secs(4));
    assert_eq!(config.report_interval, Duration::from_millis(500));
    let payments = &config.services[0];
    assert_eq!(payments.identity.as_str(), "spiffe://shop.test/ns/shop/sa/till");
    assert_eq!(payments.labels, BTreeMap::from([("tier".into(), "back".into())]));
    assert_eq!((payments.join_tokens.len(), payments.endpoints.len()), (1, 1));
}

fn registry(postgresql: &str) -> Result<RegistryPlace, Vec<String>> {
    let lines =
        format!("registry: {{postgresql: {{database: mesh, user: sidegate, {postgresql}}}}}\nservices:\n");
    let config = Config::parse(Path::new("/etc/mesh/mesh.yaml"), &GOOD.replacen("services:\n", &lines, 1));
    let problems = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
    config.map(|config| config.registry).map_err(problems)
}

#[test]
fn a_registry_is_in_the_state_folder_unless_a_database_is_named() {
    let config = Config::parse(Path::new("mesh.yaml"), GOOD).unwrap();
    assert_eq!(config.registry, RegistryPlace::StateFolder);
    let named = registry("server: 'db.test:5432', trustBundle: ca.pem, passwordFile: secret, lease: 4s");
    let RegistryPlace::Postgresql(database) = named.unwrap() else { panic!("it is in the folder") };
    assert_eq!(database.server, DatabaseServer::Tls("db.test".into(), 5432, "/etc/mesh/ca.pem".into()));
    assert_eq!(database.password_file.as_deref(), Some(Path::new("/etc/mesh/secret")));
    assert_eq!(database.lease, Duration::from_secs(4));
}

#[test]
fn a_database_elsewhere_is_reached_over_tls_or_not_at_all() {
    for here in ["127.0.0.1:5432", "'[::1]:5432'", "/run/postgresql"] {
        assert!(registry(&format!("server: {here}")).is_ok(), "{here}");
    }
    for (elsewhere, why) in [
        ("server: 'db.test:5432'", "add trustBundle"),
        ("server: '10.0.0.1:5432'", "add trustBundle"),
        // Whoever answers to that name decides where it is.
        ("server: 'localhost:5432'", "add trustBundle"),
        ("server: /run/postgresql, trustBundle: ca.pem", "remove trustBundle"),
        ("server: 'db.test'", "neither host:port"),
        ("server: ':5432'", "neither host:port"),
        ("server: 'db.test:0', trustBundle: ca.pem", "neither host:port"),
        ("server: '127.0.0.1:5432', lease: 10ms", "registry.postgresql.lease"),
        ("server: '127.0.0.1:5432', password: secret", "unknown field"),
    ] {
        let problems = registry(elsewhere).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains(why), "{elsewhere}: {problems:?}");
    }
}

#[test]
fn a_service_defaults_to_its_name_as_account_and_label() {
    let config = Config::parse(Path::new("mesh.yaml"), GOOD).unwrap();
    let orders = &config.services[1];
    assert_eq!(orders.identity.as_str(), "spiffe://shop.test/ns/shop/sa/orders");
    assert_eq!(orders.labels, BTreeMap::from([("app".into(), "orders".into())]));
}

#[test]
fn another_trust_domain_has_one_bundle_and_our_own_has_none_there() {
    let with = |lines: &str| GOOD.replacen("services:\n", &format!("{lines}\nservices:\n"), 1);
    let good = with("federation: [{trustDomain: partner.test, bundle: partner.json}]");
    let federation = Config::parse(Path::new("/etc/mesh/mesh.yaml"), &good).unwrap().federation;
    assert_eq!(federation[0].trust_domain.as_str(), "partner.test");
    assert_eq!(federation[0].source, BundleSource::File("/etc/mesh/partner.json".into()));
    for (names, why) in
        [(["shop.test", "a.test"], "own trust domain"), (["a.test", "a.test"], "listed twice")]
    {
        let [first, second] = names.map(|name| format!("{{trustDomain: {name}, bundle: b.pem}}"));
        let problems = problems(&with(&format!("federation: [{first}, {second}]")));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("federation[") && problems[0].contains(why), "{problems:?}");
    }
}

#[test]
fn an_unknown_field_is_refused_with_its_line() {
    let problem = only_problem("reportInterval: 500ms", "reportIntervall: 500ms");
    assert!(problem.starts_with("mesh.yaml:10:"), "{problem}");
    assert!(problem.contains("reportIntervall") && problem.ends_with("(SG0402)"), "{problem}");
}

#[test]
fn bad_yaml_is_refused_with_its_line() {
    let problem = only_problem("kind: Mesh", "kind: [Mesh");
    assert!(problem.ends_with("(SG0402)"), "{problem}");
}

#[test]
fn all_bad_values_are_reported_together() {
    let text = GOOD
        .replace("shop.test", "Shop.test")
        .replace("kind: Mesh", "kind: Mash")
        .replace("4s", "1s")
        .replace("[::1]:0", "0.0.0.0:15180");
    let problems = problems(&text);
    assert_eq!(problems.len(), 4, "{problems:?}");
    assert!(problems.iter().all(|problem| problem.ends_with("(SG0403)")));
    assert!(problems.iter().any(|problem| problem.contains("mesh.yaml:8:") && problem.contains("loopback")));
}

#[test]
fn the_control_planes_own_identity_cannot_be_a_service() {
    let problem =
        only_problem("{namespace: shop, name: orders}", "{namespace: sidegate, name: control-plane}");
    assert!(problem.contains("services[1].serviceAccount: "), "{problem}");
}

#[test]
fn two_services_never_share_a_name_or_a_token() {
    let twice = only_problem("name: orders", "name: payments");
    assert!(twice.contains("services[1].name: service shop/payments is defined twice"), "{twice}");
    let token = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let shared = only_problem("name: orders}", &format!("name: orders, joinTokens: [\"{token}\"]}}"));
    assert!(shared.contains("services[1].joinTokens[0]"), "{shared}");
}

fn local_users(of_payments: &str, of_orders: &str) -> Result<Config, Vec<Problem>> {
    let text = GOOD
        .replacen("api: \"[::1]:0\"", "api: \"[::1]:0\", socket: run/local.sock", 1)
        .replacen("  labels: ", &format!("  localUsers: [{of_payments}]\n  labels: "), 1)
        .replacen("name: orders}", &format!("name: orders, localUsers: [{of_orders}]}}"), 1);
    Config::parse(Path::new("/etc/mesh/mesh.yaml"), &text)
}

#[test]
fn users_of_this_host_belong_to_a_service_alone_or_with_their_group() {
    let config = local_users("{uid: 1001}, {uid: 0}", "{uid: 1002, gid: 5}, {uid: 1002, gid: 6}").unwrap();
    assert_eq!(config.socket.as_deref(), Some(Path::new("/etc/mesh/run/local.sock")));
    let of_orders = [LocalUser { uid: 1002, gid: Some(5) }, LocalUser { uid: 1002, gid: Some(6) }];
    assert_eq!(config.services[1].local_users, of_orders);
    assert!(of_orders[0].covers(1002, 5) && !of_orders[0].covers(1002, 6));
    assert!(config.services[0].local_users[0].covers(1001, 77));
}

#[test]
fn a_user_that_two_services_share_or_that_is_nobody_is_refused() {
    for (of_orders, why) in [
        ("{uid: 1001}", "has one identity"),
        ("{uid: 1001, gid: 5}", "has one identity"),
        ("{uid: 1002, gid: 5}, {uid: 1002}", "has one identity"),
        ("{uid: 65534}", "another user namespace"),
        ("{uid: 1002, gid: 65534}", "another user namespace"),
        ("{uid: 4294967295}", "nobody"),
        ("{uid: -1}", "SG0402"),
        ("{uid: 4294967296}", "SG0402"),
        ("{gid: 5}", "SG0402"),
        ("{uid: 1002, user: orders}", "SG0402"),
    ] {
        let problems = local_users("{uid: 1001}", of_orders).unwrap_err();
        let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(said.len() == 1 && said[0].contains(why), "{of_orders}: {said:?}");
    }
    let problem = only_problem("name: orders}", "name: orders, localUsers: [{uid: 1002}]}");
    assert!(problem.contains("services[1].localUsers[0]") && problem.contains("listen.socket"), "{problem}");
}

#[test]
fn a_token_in_clear_is_refused_and_not_repeated() {
    let token = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let problem = only_problem(token, "secret-word");
    assert!(problem.contains("services[0].joinTokens[0]"), "{problem}");
    assert!(!problem.contains("secret-word"), "{problem}");
}

#[test]
fn endpoints_that_cannot_be_connected_to_are_refused() {
    for bad in ["10.0.0.9", "0.0.0.0:15106", "10.0.0.9:0", "payments:80"] {
        let problem = only_problem("10.0.0.9:15106", bad);
        assert!(problem.contains("services[0].endpoints[0]"), "{problem}");
    }
}

#[test]
fn a_missing_file_says_so() {
    let problems = Config::load(Path::new("/nonexistent/mesh.yaml")).unwrap_err();
    assert_eq!(problems[0].code, Code::ConfigUnreadable);
}

#[test]
fn the_digest_of_a_token_is_never_printed() {
    assert_eq!(format!("{:?}", TokenDigest([7; 32])), "TokenDigest(…)");
}

#[test]
fn the_defaults_of_the_schema_are_those_in_force() {
    let sparse: String = GOOD
        .lines()
        .filter(|line| !line.starts_with("certificates") && !line.starts_with("reportInterval"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let config = Config::parse(Path::new("mesh.yaml"), &sparse).unwrap();
    let schema = schema().to_value();
    let certificates = &schema["$defs"]["Certificates"]["properties"];
    for (field, in_force) in [
        (&schema["properties"]["reportInterval"], config.report_interval),
        (&certificates["leafLife"], config.leaf_life),
        (&certificates["rootLife"], config.root_life),
    ] {
        let default = field["default"].as_str().unwrap();
        assert_eq!(humantime::parse_duration(default).unwrap(), in_force, "{default}");
    }
}
