use super::*;

const WITH_CONTROL_PLANE: &str = "
trustDomain: shop.test
workload: {namespace: shop, serviceAccount: orders}
controlPlane: {address: '127.0.0.1:15110', trustBundle: root.pem, joinToken: token}
cache: cache/
inbound: [{listen: '127.0.0.1:15106', forward: '127.0.0.1:8080', protocol: http}]
outbound: [{listen: '127.0.0.1:9001', service: payments}]
admin: {listen: '127.0.0.1:15120'}
";

const WITH_FILES: &str = "
trustDomain: shop.test
workload: {namespace: shop, serviceAccount: payments, labels: {app: payments}}
identity:
  files: {certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}
policies: policies/
inbound:
- {listen: '0.0.0.0:15106', forward: 'localhost:8080', protocol: auto}
outbound:
- listen: '127.0.0.1:9001'
  service: shop/ledger
  identities: ['spiffe://shop.test/ns/shop/sa/ledger']
  endpoints: ['10.0.0.7:15106']
";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/sidegate/proxy.yaml"), text)
}

fn faults(text: &str) -> Vec<String> {
    match parse(text) {
        Err(ConfigError::Values { faults, .. }) => faults.into_iter().map(|fault| fault.field).collect(),
        other => panic!("expected faults, got {other:?}"),
    }
}

#[test]
fn a_sidecar_of_a_control_plane_takes_paths_relative_to_its_file() {
    let config = parse(WITH_CONTROL_PLANE).unwrap();
    assert_eq!(config.workload.identity.as_str(), "spiffe://shop.test/ns/shop/sa/orders");
    assert_eq!(config.outbound[0].leads_to, LeadsTo::One("shop/payments".parse().unwrap()));
    assert_eq!(config.cache.as_deref(), Some(Path::new("/etc/sidegate/cache/")));
    let Source::ControlPlane(control_plane) = config.source else { panic!("{:?}", config.source) };
    assert_eq!(control_plane.trust_bundle, Path::new("/etc/sidegate/root.pem"));
}

#[test]
fn a_sidecar_of_files_names_its_peers() {
    let config = parse(WITH_FILES).unwrap();
    let target = config.services[&config.outbound[0].leads_to.services()[0]].target.as_ref().unwrap();
    assert_eq!(target.identities[0].as_str(), "spiffe://shop.test/ns/shop/sa/ledger");
    assert_eq!(config.inbound[0].forward.to_string(), "localhost:8080");
}

#[test]
fn an_unknown_field_is_an_error_with_its_line() {
    let text = format!("{WITH_FILES}\nlimit: {{connections: 5}}\n");
    let Err(ConfigError::Syntax { line, message, .. }) = parse(&text) else { panic!("accepted") };
    assert_eq!(line, 15);
    assert!(message.contains("limit"), "{message}");
}

#[test]
fn a_misspelt_limit_is_an_error_too() {
    let text = format!("{WITH_FILES}\nlimits: {{conections: 5}}\n");
    assert!(matches!(parse(&text), Err(ConfigError::Syntax { .. })));
}

#[test]
fn all_bad_values_are_reported_together() {
    let text = WITH_CONTROL_PLANE
        .replace("127.0.0.1:15106", "nowhere")
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:15110", "15110")
        .replace("127.0.0.1:15120", "localhost:15120");
    assert_eq!(
        faults(&text),
        ["controlPlane.address", "inbound[0].listen", "inbound[0].forward", "admin.listen"]
    );
}

#[test]
fn a_control_plane_is_reached_at_a_host_with_its_port_or_at_a_socket() {
    for (address, expected) in [
        ("control-plane:15110", ControlPlaneAddress::Network("control-plane:15110".into())),
        ("[::1]:15110", ControlPlaneAddress::Network("[::1]:15110".into())),
        ("unix:/run/local.sock", ControlPlaneAddress::Socket("/run/local.sock".into())),
        ("unix:run/local.sock", ControlPlaneAddress::Socket("/etc/sidegate/run/local.sock".into())),
    ] {
        let config = parse(&WITH_CONTROL_PLANE.replace("127.0.0.1:15110", address)).unwrap();
        let Source::ControlPlane(found) = config.source else { panic!("{:?}", config.source) };
        assert_eq!(found.address, expected);
    }
    for address in ["15110", "unix:", "/run/local.sock", ":15110", "localhost:0"] {
        let text = WITH_CONTROL_PLANE.replace("127.0.0.1:15110", address);
        assert_eq!(faults(&text), ["controlPlane.address"], "{address}");
    }
}

#[test]
fn an_identity_comes_from_files_or_from_a_provider() {
    let files = "  files: {certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}";
    let provider = |api: &str| WITH_FILES.replace(files, &format!("  workloadApi: {api}"));
    let config = parse(&provider("{socket: run/api.sock, hint: internal}")).unwrap();
    let Source::Files(found) = config.source else { panic!("{:?}", config.source) };
    let socket = "/etc/sidegate/run/api.sock".into();
    assert_eq!(found.identity, Identity::WorkloadApi(WorkloadApi { socket, hint: Some("internal".into()) }));

    let both = format!("{files}\n  workloadApi: {{socket: api.sock}}");
    assert_eq!(faults(&WITH_FILES.replace(files, &both)), ["identity"]);
    assert_eq!(faults(&WITH_FILES.replace(&format!("\n{files}"), " {}")), ["identity"]);
    assert_eq!(faults(&provider("{socket: api.sock, hint: ''}")), ["identity.workloadApi.hint"]);
    let with_control_plane = format!("{WITH_CONTROL_PLANE}identity: {{workloadApi: {{socket: api.sock}}}}\n");
    assert_eq!(faults(&with_control_plane), ["controlPlane"]);
}

#[test]
fn two_sources_of_truth_are_refused() {
    assert_eq!(faults(&format!("{WITH_CONTROL_PLANE}policies: policies/\n")), ["controlPlane"]);
    assert_eq!(faults(&WITH_FILES.replace("policies: policies/", "")), ["controlPlane"]);
}

#[test]
fn endpoints_belong_to_file_mode_alone() {
    let text =
        WITH_CONTROL_PLANE.replace("service: payments", "service: payments, endpoints: ['10.0.0.7:1']");
    assert_eq!(faults(&text), ["outbound[0]"]);
    let text = WITH_FILES.replace("  endpoints: ['10.0.0.7:15106']", "");
    assert_eq!(faults(&text), ["outbound[0]"]);
}

#[test]
fn a_service_is_described_once_by_the_table_or_by_its_ports() {
    let port = |more: &str| format!("- {{listen: '127.0.0.1:0', service: ledger{more}}}\n");
    let table = |name: &str| {
        format!(
            "services: [{{name: {name}, identities: ['spiffe://shop.test/ns/shop/sa/a'], endpoints: []}}]\n"
        )
    };
    let same = ", identities: ['spiffe://shop.test/ns/shop/sa/ledger'], endpoints: ['10.0.0.7:15106']";
    let other = ", identities: ['spiffe://shop.test/ns/shop/sa/ledger'], endpoints: ['10.0.0.8:15106']";
    for (text, want) in [
        (format!("{WITH_FILES}{}", port("")), &[][..]),
        (format!("{WITH_FILES}{}", port(same)), &[]),
        (format!("{WITH_FILES}{}", port(other)), &["outbound[1]"]),
        (format!("{WITH_FILES}{}", table("ledger")), &["outbound[0]"]),
        (format!("{WITH_FILES}{}", table("stock")), &[]),
    ] {
        let seen = match parse(&text) {
            Ok(_) => Vec::new(),
            Err(_) => faults(&text),
        };
        assert_eq!(seen, want, "{text}");
    }
}

/// In file mode, with services described in the table alone.
fn fenced(outbound: &str, services: &[&str]) -> String {
    let (head, _) = WITH_FILES.split_once("outbound:").unwrap();
    let target = "identities: ['spiffe://shop.test/ns/shop/sa/a'], endpoints: ['10.0.0.7:15106']";
    let services: Vec<_> = services.iter().map(|service| format!("- {{{service}, {target}}}\n")).collect();
    format!("{head}services:\n{}outbound:\n- {{listen: '127.0.0.1:0', {outbound}}}\n", services.concat())
}

#[test]
fn a_port_leads_to_several_services_by_their_hosts() {
    let text = fenced(
        "services: [payments, bank/ledger]",
        &["name: payments", "name: bank/ledger, hosts: ['*.bank.test', 'Ledger.']"],
    );
    let config = parse(&text).unwrap();
    let LeadsTo::ByHost(table) = &config.outbound[0].leads_to else { panic!("{config:?}") };
    let find = |host| table.find(host).map(|index| table.services()[index].as_str());
    assert_eq!(find("payments"), Some("shop/payments"));
    assert_eq!(find("payments.shop"), Some("shop/payments"));
    assert_eq!(find("a.bank.test"), Some("bank/ledger"));
    assert_eq!(find("ledger"), Some("bank/ledger"));
    assert_eq!(find("ledger.bank"), None, "`hosts` stand for the ones that it has by its name");
}

#[test]
fn a_control_plane_may_know_services_of_which_the_file_says_only_hosts() {
    let text = WITH_CONTROL_PLANE.replace("service: payments", "services: [payments, bank/ledger]");
    let text = format!("{text}services: [{{name: bank/ledger, hosts: [ledger]}}]\n");
    let config = parse(&text).unwrap();
    let LeadsTo::ByHost(table) = &config.outbound[0].leads_to else { panic!("{config:?}") };
    assert_eq!(table.find("payments.shop"), Some(0));
    assert_eq!(table.find("ledger"), Some(1));
    let called: Vec<_> = config.called().into_iter().map(ServiceName::as_str).collect();
    assert_eq!(called, ["bank/ledger", "shop/payments"]);
}

#[test]
fn a_port_that_could_not_choose_is_a_fault() {
    for (outbound, services, want) in [
        ("", &["name: a"][..], "outbound[0]"),
        ("service: a, services: [a]", &["name: a"], "outbound[0]"),
        ("services: []", &["name: a"], "outbound[0].services"),
        ("services: [a], proxy: [a]", &["name: a"], "outbound[0]"),
        ("proxy: [a, b]", &["name: a"], "outbound[0].proxy[1]"),
        ("proxy: [a], protocol: tcp", &["name: a"], "outbound[0].proxy"),
        ("services: [a, b]", &["name: a"], "outbound[0].services[1]"),
        ("services: [a, shop/a]", &["name: a"], "outbound[0].services[1]"),
        ("services: [a, b]", &["name: a", "name: b, hosts: [a.shop]"], "outbound[0].services[1]"),
        ("services: [a, b]", &["name: a", "name: b, hosts: []"], "outbound[0].services[1]"),
        ("services: [a], protocol: tcp", &["name: a"], "outbound[0].services"),
        ("services: [a], protocol: http", &["name: a, protocol: tcp"], "outbound[0].services[0]"),
        ("service: a, protocol: tcp", &["name: a, protocol: http"], "outbound[0].service"),
        ("services: [a], identities: [], endpoints: []", &["name: a"], "outbound[0]"),
        ("services: [a]", &["name: a", "name: shop/a"], "services[1]"),
        ("services: [a]", &["name: a, hosts: [a, 'a:80']"], "services[0].hosts[1]"),
    ] {
        assert_eq!(faults(&fenced(outbound, services)), [want], "{outbound} {services:?}");
    }
}

#[test]
fn what_comes_in_may_not_go_out_by_the_same_sidecar() {
    for (forward, wants_fault) in [
        ("127.0.0.1:9001", true),
        ("127.0.0.1:15106", true),
        ("127.0.0.1:9002", false),
        ("[::1]:9001", false),
        ("10.0.0.7:15106", false),
    ] {
        let text = WITH_FILES.replace("localhost:8080", forward);
        let seen = parse(&text).map(|_| ()).map_err(|_| faults(&text));
        let want = if wants_fault { Err(vec!["inbound[0].forward".to_owned()]) } else { Ok(()) };
        assert_eq!(seen, want, "{forward}");
    }
}

#[test]
fn a_port_speaks_what_its_service_is_declared_to_speak() {
    for (outbound, service, want) in [
        ("service: a", "name: a, protocol: tcp", Protocol::Tcp),
        ("service: a, protocol: http", "name: a", Protocol::Http),
        ("service: a, protocol: http", "name: a, protocol: http2", Protocol::Http),
        ("services: [a]", "name: a, protocol: tcp", Protocol::Auto),
    ] {
        let config = parse(&fenced(outbound, &[service])).unwrap();
        assert_eq!(config.outbound[0].protocol, want, "{outbound} {service}");
    }
}

#[test]
fn no_limit_can_be_switched_off() {
    for limits in ["connections: 0", "handshakeTimeout: 0s", "headers: 0", "responseTimeout: forever"] {
        assert_eq!(faults(&format!("{WITH_FILES}limits: {{{limits}}}\n")).len(), 1, "{limits}");
    }
}

#[test]
fn listeners_need_a_restart_and_protocols_do_not() {
    let old = parse(WITH_FILES).unwrap();
    let moved = parse(&WITH_FILES.replace("0.0.0.0:15106", "0.0.0.0:15107")).unwrap();
    let declared = parse(&WITH_FILES.replace("protocol: auto", "protocol: http")).unwrap();
    assert_eq!(old.needs_restart(&moved), Some("inbound[].listen"));
    assert_eq!(old.needs_restart(&declared), None);
}

#[test]
fn what_a_control_plane_was_told_needs_a_restart_and_is_free_without_one() {
    let text = "trustDomain: shop.test\n\
        workload: {namespace: shop, serviceAccount: payments}\n\
        controlPlane: {address: '127.0.0.1:15110', trustBundle: root.pem}\n\
        inbound: [{listen: '127.0.0.1:15106', forward: '127.0.0.1:8080', advertise: '10.0.0.7:15106'}]\n\
        outbound: [{listen: '127.0.0.1:9001', service: shop/orders}]\n";
    let old = parse(text).unwrap();
    for (from, to, needs_restart) in [
        ("10.0.0.7", "10.0.0.8", true),
        ("127.0.0.1:8080", "127.0.0.1:8081", true),
        ("shop/orders", "shop/web", true),
        ("127.0.0.1:8080", "app.internal:8080", false),
    ] {
        let next = parse(&text.replace(from, to)).unwrap();
        assert_eq!(old.needs_restart(&next).is_some(), needs_restart, "{to}");
    }
    let files = parse(WITH_FILES).unwrap();
    let elsewhere = parse(&WITH_FILES.replace(":8080", ":8081")).unwrap();
    assert_ne!(files, elsewhere);
    assert_eq!(files.needs_restart(&elsewhere), None);
}

#[test]
fn the_schema_says_what_the_file_may_say_of_limits() {
    let schema = schema().to_value();
    let limits = schema["$defs"]["Limits"]["properties"].as_object().unwrap();
    let defaults: Vec<_> =
        limits.iter().map(|(field, limit)| format!("{field}: {}", limit["default"])).collect();
    let config = parse(&with_limits(&defaults.join(", "))).unwrap();
    assert_eq!(config.limits, Limits::default());

    for (field, limit) in limits {
        let Some(least) = limit["minimum"].as_u64() else {
            assert_eq!(limit["$ref"], "#/$defs/duration", "{field}");
            continue;
        };
        let most = limit["maximum"].as_u64().unwrap();
        for (value, accepted) in [(least - 1, false), (least, true), (most, true), (most + 1, false)] {
            let parsed = parse(&with_limits(&format!("{field}: {value}")));
            assert_eq!(parsed.is_ok(), accepted, "{field}: {value}");
        }
    }
}

fn with_limits(limits: &str) -> String {
    format!("{WITH_FILES}limits: {{{limits}}}\n")
}

fn with_rules(rules: &str) -> String {
    let service = "{name: shop/stock, identities: ['spiffe://shop.test/ns/shop/sa/stock'], endpoints: []";
    format!("{WITH_FILES}services:\n- {service}, {rules}}}\n")
}

fn rules_of(text: &str) -> Resilience {
    let mut config = parse(text).unwrap();
    config.services.remove(&"shop/stock".parse().unwrap()).unwrap().resilience
}

#[test]
fn a_service_says_how_it_is_called() {
    let rules = rules_of(&with_rules(
        "balance: {by: cookie, name: session}, \
         outliers: {consecutive: 3, failurePercent: 40, failures: 5xx, ejection: 1s, maxEjectedPercent: 10}, \
         breakers: {requests: 7}, timeouts: {perTry: 2s, connect: 1s}, \
         retries: {attempts: 2, statuses: [503], anyMethod: true, budgetPercent: 0}",
    ));
    assert_eq!(rules.balance, Balance::Hash(HashKey::Cookie("session".to_owned())));
    assert_eq!((rules.outliers.consecutive, rules.outliers.failures), (3, Failures::ServerErrors));
    assert_eq!((rules.breakers.requests, rules.breakers.pending), (7, Breakers::default().pending));
    assert_eq!(rules.timeouts.per_try, Some(Duration::from_secs(2)));
    assert_eq!((rules.retries.attempts, rules.retries.budget_percent), (2, 0));
    assert_eq!(rules_of(&with_rules("")), Resilience::default());
}

#[test]
fn rules_that_contradict_themselves_or_a_limit_are_refused_with_their_field() {
    let cases = [
        ("balance: {by: header}", "services[0].balance.name"),
        ("balance: {by: latency, name: x-user}", "services[0].balance.name"),
        ("balance: {by: cookie, name: 'a b'}", "services[0].balance.name"),
        ("outliers: {consecutive: 0}", "services[0].outliers.consecutive"),
        ("outliers: {maxEjectedPercent: 101}", "services[0].outliers.maxEjectedPercent"),
        ("outliers: {ejection: 10m}", "services[0].outliers.maxEjection"),
        ("breakers: {pending: 0}", "services[0].breakers.pending"),
        ("timeouts: {connect: 0s}", "services[0].timeouts.connect"),
        ("timeouts: {connect: 6s}", "services[shop/stock].timeouts.connect"),
        ("timeouts: {request: 2m}", "services[shop/stock].timeouts.request"),
        ("timeouts: {request: 1s, perTry: 2s}", "services[shop/stock].timeouts.perTry"),
        ("timeouts: {idle: 31s}", "services[shop/stock].timeouts.idle"),
        ("retries: {attempts: 0}", "services[0].retries.attempts"),
        ("retries: {attempts: 11}", "services[0].retries.attempts"),
        ("retries: {statuses: [500]}", "services[0].retries.statuses[0]"),
        ("retries: {anyMethod: true}", "services[0].retries.anyMethod"),
        ("retries: {backoff: soon}", "services[0].retries.backoff"),
    ];
    for (rules, field) in cases {
        assert_eq!(faults(&with_rules(rules)), [field], "{rules}");
    }
}

#[test]
fn the_schema_says_the_rules_that_are_in_force_without_any() {
    let schema = schema().to_value();
    for (section, file) in
        [("breakers", "BreakersFile"), ("outliers", "OutliersFile"), ("retries", "RetriesFile")]
    {
        let fields = schema["$defs"][file]["properties"].as_object().unwrap();
        let said = fields.iter().filter(|(_, field)| !field["default"].is_null());
        let said: Vec<String> = said.map(|(name, field)| format!("{name}: {}", field["default"])).collect();
        assert!(said.len() >= 5, "{section}: {said:?}");
        let rules = with_rules(&format!("{section}: {{{}}}", said.join(", ")));
        assert_eq!(rules_of(&rules), Resilience::default(), "{section}");
    }
}

const CAPTURED: &str = "
trustDomain: shop.test
workload: {namespace: shop, serviceAccount: payments}
identity:
  files: {certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}
policies: policies/
";

#[test]
fn a_captured_listener_gives_a_port_of_its_own_for_each_that_it_declares() {
    let config = parse(&format!(
        "{CAPTURED}inbound:
- listen: '[::]:15106'
  forward: captured
  protocol: http
  advertise: 10.0.0.7
  ports: [{{port: 8080}}, {{port: 5432, protocol: tcp}}]
outbound: [{{listen: '127.0.0.1:15101', captured: {{}}}}]
"
    ))
    .unwrap();
    let ports: Vec<_> = config.inbound.iter().map(|port| (port.forward.port(), port.protocol)).collect();
    assert_eq!(ports, [(8080, Protocol::Http), (5432, Protocol::Tcp)]);
    assert!(config.inbound.iter().all(|port| port.is_captured));
    assert_eq!(config.inbound[1].advertise, Some("10.0.0.7:5432".parse().unwrap()));
    assert_eq!(config.captured_outbound(), Some(15101));
}

#[test]
fn what_cannot_be_captured_is_a_fault() {
    for (text, want) in [
        (
            "inbound: [{listen: '127.0.0.1:15106', forward: captured, ports: [{port: 1}]}]",
            "inbound[0].listen",
        ),
        ("inbound: [{listen: '[::]:15106', forward: captured}]", "inbound[0].ports"),
        ("inbound: [{listen: '[::]:1', forward: captured, ports: [{port: 0}]}]", "inbound[0].ports"),
        (
            "inbound: [{listen: '[::]:1', forward: captured, ports: [{port: 7}, {port: 7}]}]",
            "inbound[0].ports",
        ),
        ("inbound: [{listen: '[::]:1', forward: '127.0.0.1:8080', ports: [{port: 7}]}]", "inbound[0].ports"),
        (
            "inbound: [{listen: '[::]:1', forward: captured, ports: [{port: 7}]}, \
             {listen: '[::]:2', forward: captured, ports: [{port: 8}]}]",
            "inbound",
        ),
        ("outbound: [{listen: '0.0.0.0:15101', captured: {}}]", "outbound[0].listen"),
        ("outbound: [{listen: '127.0.0.1:1', captured: {}, services: [a]}]", "outbound[0]"),
        ("outbound: [{listen: '127.0.0.1:1', captured: {}}, {listen: '[::1]:2', captured: {}}]", "outbound"),
    ] {
        assert_eq!(faults(&format!("{CAPTURED}{text}\n")), [want], "{text}");
    }
}

#[test]
fn every_fault_of_the_capture_section_is_told_with_its_field() {
    let text = "outbound: [{listen: '127.0.0.1:1', captured: {}}]
capture:
  uid: 0
  resolvers: [dns.shop.test]
  inbound: {exclude: [{protocol: icmp, ports: [8]}, {}]}
  outbound: {include: [{protocol: udp, ports: [53]}], exclude: [{cidrs: [10.0.0.0/33]}, {ports: [0]}]}
";
    assert_eq!(
        faults(&format!("{CAPTURED}{text}")),
        [
            "capture.uid",
            "capture.resolvers[0]",
            "capture.inbound.exclude[0].ports",
            "capture.inbound.exclude[1]",
            "capture.outbound.include[0].protocol",
            "capture.outbound.exclude[0].cidrs[0]",
            "capture.outbound.exclude[1].ports",
        ]
    );
}

#[test]
fn captured_ports_that_change_places_need_a_restart() {
    let with = |ports: &str| {
        parse(&format!("{CAPTURED}inbound: [{{listen: '[::]:1', forward: captured, ports: [{ports}]}}]\n"))
            .unwrap()
    };
    let config = with("{port: 8080}, {port: 5432}");
    assert_eq!(config.needs_restart(&with("{port: 8080}, {port: 5432, protocol: tcp}")), None);
    let changed = config.needs_restart(&with("{port: 5432}, {port: 8080}"));
    assert_eq!(changed, Some("inbound[].ports"));
}

#[test]
fn the_workload_api_is_served_where_the_file_says_and_to_nobody_by_default() {
    let config = parse(WITH_FILES).unwrap();
    assert_eq!((&config.workload_endpoint, config.key_use()), (&None, KeyUse::Sealed));
    let served = |fields: &str| parse(&format!("{WITH_FILES}workloadApi: {{{fields}}}\n"));
    let config = served("listen: run/api.sock").unwrap();
    let own = WorkloadEndpoint { socket: "/etc/sidegate/run/api.sock".into(), users: Users::Own };
    assert_eq!((&config.workload_endpoint, config.key_use()), (&Some(own), KeyUse::HandedOn));
    let config = served("listen: /run/api.sock, users: [1000, 1001]").unwrap();
    assert_eq!(config.workload_endpoint.unwrap().users, Users::These([1000, 1001].into()));
    for user in ["-1", "root", "4294967296"] {
        assert!(served(&format!("listen: /run/api.sock, users: [{user}]")).is_err(), "{user}");
    }
}

#[test]
fn a_workload_api_that_nobody_could_use_is_refused() {
    let refused = |fields: &str| faults(&format!("{WITH_FILES}workloadApi: {{{fields}}}\n"));
    assert_eq!(refused("listen: api.sock, users: []"), ["workloadApi.users"]);
    let long = "a".repeat(108);
    assert_eq!(refused(&format!("listen: /{long}")), ["workloadApi.listen"]);
    let provider = "identity: {workloadApi: {socket: api.sock}}";
    let files = "identity:\n  files: {certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}";
    let text = WITH_FILES.replace(files, provider) + "workloadApi: {listen: api.sock}\n";
    assert_eq!(faults(&text), ["workloadApi.listen"]);
}

#[test]
fn a_post_quantum_key_exchange_is_required_where_the_file_says_so() {
    assert_eq!(parse(WITH_FILES).unwrap().key_exchange, KeyExchange::PostQuantumFirst);
    let strict = parse(&format!("{WITH_FILES}requirePostQuantum: true\n")).unwrap();
    assert_eq!(strict.key_exchange, KeyExchange::PostQuantumOnly);
    assert_eq!(strict.needs_restart(&parse(WITH_FILES).unwrap()), Some("requirePostQuantum"));
}
