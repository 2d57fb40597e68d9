//! The commands on real folders. What they write is read by those who will read it: sidecar, control plane, policy reader.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use clap::Parser as _;
use sidegate_codes::Code;

use super::*;

#[derive(clap::Parser)]
struct Typed {
    #[command(subcommand)]
    what: What,
}

/// `sidegate compose …` on the file of this folder.
fn compose(folder: &Path, arguments: &[&str]) -> Result<Exit, Failure> {
    let file = folder.join("compose.yaml");
    let file = file.to_str().unwrap();
    let typed = [&["sidegate", arguments[0], "--file", file], &arguments[1..]].concat();
    run(&Typed::try_parse_from(typed).unwrap_or_else(|error| panic!("{error}")).what)
}

fn folder(text: &str) -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("shop-").tempdir().unwrap();
    fs::write(folder.path().join("compose.yaml"), text).unwrap();
    folder
}

/// Every file below a folder, with mode and content.
fn tree(folder: &Path) -> Vec<(String, u32, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree(&path));
        } else {
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            files.push((path.display().to_string(), mode, fs::read_to_string(&path).unwrap()));
        }
    }
    files.sort();
    files
}

const SHOP: &str = "
name: shop
services:
  web:
    image: acme/web
    ports: ['8000:8080']
    depends_on: [orders]
    environment: {STOCK: 'http://stock:8080', DB: 'postgres://db/x'}
  orders: {image: acme/orders, expose: [8080], environment: {DB: 'postgres://db/x'}}
  stock: {image: acme/stock, links: ['orders:sales']}
  db: {image: postgres, volumes: ['data:/var/lib/postgresql']}
volumes: {data: }
";

#[test]
fn two_runs_write_what_one_writes() {
    let folder = folder(SHOP);
    for _ in 0..2 {
        compose(folder.path(), &["init"]).unwrap();
        compose(folder.path(), &["inject"]).unwrap();
    }
    let first = tree(folder.path());
    compose(folder.path(), &["init"]).unwrap();
    compose(folder.path(), &["inject"]).unwrap();
    assert_eq!(tree(folder.path()), first);
}

#[test]
fn a_service_that_comes_later_changes_nothing_of_the_others() {
    let folder = folder(SHOP);
    compose(folder.path(), &["init"]).unwrap();
    let mesh = folder.path().join(".sidegate/mesh.yaml");
    // What a person changed stays.
    let observed = fs::read_to_string(&mesh).unwrap().replace("Enforce  ", "Observe  ");
    fs::write(&mesh, &observed).unwrap();
    let before = tree(&folder.path().join(".sidegate"));
    let more = SHOP.replace("  db:", "  a-new-one: {image: redis, depends_on: [db]}\n  db:");
    fs::write(folder.path().join("compose.yaml"), more).unwrap();
    let refused = compose(folder.path(), &["inject"]).unwrap_err();
    assert!(
        refused.why().contains("a-new-one") && refused.why().contains(Code::ComposeStale.id()),
        "{}",
        refused.why()
    );
    compose(folder.path(), &["init"]).unwrap();
    compose(folder.path(), &["inject"]).unwrap();
    assert!(fs::read_to_string(&mesh).unwrap().starts_with(&observed));
    let after = tree(&folder.path().join(".sidegate"));
    let kept = |name: &str| name.contains("/tokens/") || name.contains("/policies/");
    assert!(before.iter().filter(|(name, ..)| kept(name)).all(|file| after.contains(file)));
}

#[test]
fn tokens_are_for_their_owner_alone_and_only_their_digest_is_elsewhere() {
    let folder = folder(SHOP);
    compose(folder.path(), &["init"]).unwrap();
    compose(folder.path(), &["inject"]).unwrap();
    let files = tree(folder.path());
    let tokens: Vec<_> = files.iter().filter(|(name, ..)| name.contains("/tokens/")).collect();
    assert_eq!(tokens.len(), 4);
    for (name, mode, token) in &tokens {
        assert_eq!(*mode, 0o600, "{name}");
        assert!(token.starts_with(sidegate_control_plane::tokens::PREFIX), "{name}");
        assert!(
            files
                .iter()
                .filter(|(other, ..)| other != name)
                .all(|(_, _, text)| !text.contains(token.as_str()))
        );
    }
    assert_eq!(fs::read_to_string(folder.path().join(".sidegate/.gitignore")).unwrap(), "tokens/\n");
}

#[test]
fn every_file_is_understood_by_whom_it_is_for() {
    let folder = folder(SHOP);
    compose(folder.path(), &["init"]).unwrap();
    compose(folder.path(), &["inject", "--merge"]).unwrap();
    let files = folder.path().join(".sidegate");
    let mesh = sidegate_control_plane::config::Config::load(&files.join("mesh.yaml")).unwrap();
    assert_eq!(mesh.services.len(), 4);
    for (name, _, text) in tree(&files.join("policies")) {
        let read = sidegate_policy::parse_yaml(&name, &text, None);
        assert!(read.is_ok(), "{name}: {read:?}");
    }
    let complete = fs::read_to_string(folder.path().join("compose.sidegate.yaml")).unwrap();
    let complete = yaml::parse(&complete).unwrap();
    let mut sidecars = 0;
    for (name, service) in complete.get("services").unwrap().entries() {
        if let Some(text) = service.get("environment").and_then(|env| env.get("SIDEGATE_CONFIG")) {
            let text = text.scalar().unwrap();
            let config = sidegate_proxy::config::Config::parse(Path::new(name), &text);
            assert!(config.is_ok(), "{name}: {:?}\n{text}", config.err().map(|error| error.to_string()));
            sidecars += 1;
        }
    }
    assert_eq!(sidecars, 4);
}

#[test]
fn a_service_that_neither_listens_nor_calls_has_a_sidecar_that_starts() {
    let folder = folder("services: {worker: {image: a}}");
    compose(folder.path(), &["init"]).unwrap();
    compose(folder.path(), &["inject", "--merge"]).unwrap();
    let complete = fs::read_to_string(folder.path().join("compose.sidegate.yaml")).unwrap();
    let complete = yaml::parse(&complete).unwrap();
    let sidecar = complete.get("services").unwrap().get("worker-sidegate").unwrap().clone();
    let text = sidecar.get("environment").unwrap().get("SIDEGATE_CONFIG").unwrap().scalar().unwrap();
    let config = sidegate_proxy::config::Config::parse(Path::new("worker"), &text).unwrap();
    assert!(config.called().is_empty() && config.inbound.is_empty(), "{text}");
}

#[test]
fn an_application_keeps_nothing_but_its_fence() {
    let folder = folder(SHOP);
    compose(folder.path(), &["init"]).unwrap();
    compose(folder.path(), &["inject", "--merge"]).unwrap();
    let complete = fs::read_to_string(folder.path().join("compose.sidegate.yaml")).unwrap();
    let complete = yaml::parse(&complete).unwrap();
    let service = |name: &str| complete.get("services").unwrap().get(name).unwrap().clone();
    let web = service("web");
    assert_eq!(web.get("networks").unwrap().entries().len(), 1);
    assert!(web.get("ports").is_none());
    assert_eq!(service("web-sidegate").get("ports").unwrap().items(), [yaml::Node::text("8000:8080")]);
    let fence = complete.get("networks").unwrap().get("web-sidegate").unwrap();
    assert_eq!(fence.get("internal"), Some(&yaml::Node::Bool(true)));
    let sidecar = service("web-sidegate");
    let aliases = sidecar.get("networks").unwrap().get("web-sidegate").unwrap().get("aliases").unwrap();
    assert_eq!(aliases.items(), ["db", "orders", "stock"].map(yaml::Node::text));
    // No listener for the application is open to the mesh, and none for the mesh to the application.
    let text = sidecar.get("environment").unwrap().get("SIDEGATE_CONFIG").unwrap().scalar().unwrap();
    assert!(!text.contains("0.0.0.0"), "{text}");
    // Only what the file had.
    assert!(complete.get("volumes").unwrap().get("data").is_some());
}

#[test]
fn nothing_is_written_where_a_service_is_refused() {
    let folder = folder("services: {web: {image: a}, cron: {image: b, network_mode: host}}");
    let before = tree(folder.path());
    for command in ["init", "inject"] {
        let refused = compose(folder.path(), &[command]).unwrap_err();
        assert!(refused.why().contains("cron") && refused.why().contains(Code::ComposeNetworkMode.id()));
        assert_eq!(refused.exit(), Exit::Findings);
    }
    assert_eq!(tree(folder.path()), before);
    assert!(!folder.path().join(".sidegate").exists());
}

#[test]
fn a_file_that_cannot_be_replaced_is_left_whole() {
    let folder = folder(SHOP);
    compose(folder.path(), &["init"]).unwrap();
    // A folder in the place of the file.
    fs::create_dir(folder.path().join("compose.sidegate.yaml")).unwrap();
    fs::write(folder.path().join("compose.sidegate.yaml/kept"), "").unwrap();
    assert!(compose(folder.path(), &["inject"]).is_err());
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn a_lost_token_is_not_replaced_in_silence() {
    let folder = folder(SHOP);
    compose(folder.path(), &["init"]).unwrap();
    fs::remove_file(folder.path().join(".sidegate/tokens/web")).unwrap();
    for command in ["init", "inject"] {
        assert!(compose(folder.path(), &[command]).unwrap_err().why().contains("web"), "{command}");
    }
}

#[test]
fn upstreams_are_read_from_env_files_and_one_that_is_missing_is_refused() {
    let text = "services: {web: {image: a, env_file: web.env, environment: {B: x}}, db: {image: postgres}, b: {image: b}}";
    let folder = folder(text);
    let refused = compose(folder.path(), &["init"]).unwrap_err();
    assert!(refused.why().contains("web: `env_file: web.env`"), "{}", refused.why());
    assert!(refused.why().contains(Code::ConfigUnreadable.id()), "{}", refused.why());
    assert!(!folder.path().join(".sidegate").exists());
    // What the file itself sets counts: `B` calls nobody.
    fs::write(folder.path().join("web.env"), "DATABASE_URL=postgres://db/shop\nB=http://b:80\n").unwrap();
    compose(folder.path(), &["init"]).unwrap();
    let policies = folder.path().join(".sidegate/policies");
    assert!(fs::read_to_string(policies.join("db.yaml")).unwrap().contains("/web]"));
    assert!(!policies.join("b.yaml").exists());
}

const OUTSIDE: &str = "
name: shop
services:
  web: {image: acme/web, labels: {sidegate.dev/egress: 'api.example.com:443'}}
  worker: {image: acme/worker}
";

#[test]
fn a_host_outside_has_a_sidecar_without_an_application_and_a_policy() {
    let folder = folder(OUTSIDE);
    compose(folder.path(), &["init"]).unwrap();
    compose(folder.path(), &["inject", "--merge"]).unwrap();
    assert_eq!(compose(folder.path(), &["check"]).unwrap(), Exit::Ok);
    let complete = fs::read_to_string(folder.path().join("compose.sidegate.yaml")).unwrap();
    let complete = yaml::parse(&complete).unwrap();
    let service = |name: &str| complete.get("services").unwrap().get(name).cloned();
    assert_eq!(service("api-example-com"), None);
    let sidecar = service("api-example-com-sidegate").unwrap();
    let networks: Vec<_> = sidecar.get("networks").unwrap().entries().iter().map(|(name, _)| name).collect();
    assert_eq!(networks, ["sidegate-mesh"]);
    let config = |name: &str| {
        service(name).unwrap().get("environment").unwrap().get("SIDEGATE_CONFIG").unwrap().scalar().unwrap()
    };
    assert!(config("api-example-com-sidegate").contains("forward: \"api.example.com:443\""));
    assert!(config("web-sidegate").contains("hosts: [\"api.example.com\"]"));
    assert!(!config("worker-sidegate").contains("example"));
    let policy = fs::read_to_string(folder.path().join(".sidegate/policies/api-example-com.yaml")).unwrap();
    assert!(policy.contains("[shop/web]") && !policy.contains("worker"), "{policy}");
}

const TRANSPARENT: &str = "
name: shop
services:
  web:
    image: acme/web
    labels: {sidegate.dev/mode: transparent}
    hostname: front
    ports: ['8000:8080', '9000-9001:9000-9001']
    networks: [front]
    cap_drop: [NET_RAW]
    environment: {ORDERS: 'http://orders:8080', A: 'postgres://a/x', B: 'postgres://b/x'}
  orders: {image: acme/orders, labels: {sidegate.dev/mode: transparent}}
  a: {image: postgres}
  b: {image: postgres}
networks: {front: }
";

#[test]
fn a_transparent_service_joins_its_sidecar_and_never_the_reverse() {
    let folder = folder(TRANSPARENT);
    compose(folder.path(), &["init"]).unwrap();
    compose(folder.path(), &["inject", "--merge"]).unwrap();
    assert_eq!(compose(folder.path(), &["check"]).unwrap(), Exit::Ok);
    let out = folder.path().join("compose.sidegate.yaml");
    let complete = yaml::parse(&fs::read_to_string(&out).unwrap()).unwrap();
    let service = |name: &str| complete.get("services").unwrap().get(name).unwrap().clone();
    let web = service("web");
    assert_eq!(web.get("network_mode").unwrap().scalar().unwrap(), "service:web-sidegate");
    for key in ["networks", "ports", "hostname"] {
        assert_eq!(web.get(key), None, "{key}");
    }
    assert_eq!(web.get("cap_drop").unwrap().items(), ["NET_RAW", "NET_ADMIN"].map(yaml::Node::text));
    let sidecar = service("web-sidegate");
    assert_eq!(sidecar.get("network_mode"), None);
    assert_eq!(
        sidecar.get("ports").unwrap().items(),
        ["8000:15130", "9000-9001:15131-15132"].map(yaml::Node::text)
    );
    assert_eq!(sidecar.get("extra_hosts").unwrap().items().len(), 3);
    // Each names the address of the sidecar that it calls: two opaque upstreams on one port are told apart by it.
    for name in ["web-sidegate", "orders-sidegate"] {
        let text =
            service(name).get("environment").unwrap().get("SIDEGATE_CONFIG").unwrap().scalar().unwrap();
        let config = sidegate_proxy::config::Config::parse(Path::new(name), &text).unwrap();
        assert!(config.captured_outbound().is_some() && config.capture.is_some(), "{text}");
    }
    // Fenced again: the token would be another user's.
    let fenced = TRANSPARENT
        .replacen("    labels: {sidegate.dev/mode: transparent}\n", "", 1)
        .replace("B: 'postgres://b/x'", "");
    fs::write(folder.path().join("compose.yaml"), fenced).unwrap();
    let refused = compose(folder.path(), &["inject"]).unwrap_err();
    assert!(refused.why().contains("sudo chown"), "{}", refused.why());
    compose(folder.path(), &["init"]).unwrap();
    compose(folder.path(), &["inject"]).unwrap();
}

#[test]
fn whatever_leads_past_the_rules_of_a_transparent_service_is_refused_or_found() {
    let refused = |settings: &str| {
        let text = format!(
            "services: {{web: {{image: a, labels: {{sidegate.dev/mode: transparent}}, {settings}}}}}"
        );
        let folder = folder(&text);
        compose(folder.path(), &["init"]).unwrap_err().why().to_owned()
    };
    for (settings, code) in [
        ("privileged: true", Code::PrivilegedContainer),
        ("cap_add: [net_raw]", Code::BypassCapability),
        ("cap_add: [CAP_SYS_ADMIN]", Code::BypassCapability),
        ("user: '15100'", Code::SidecarsUser),
        ("dns: [1.1.1.1]", Code::ComposeNetworkMode),
        ("extra_hosts: ['a:1.1.1.1']", Code::ComposeNetworkMode),
        ("network_mode: 'service:web-sidegate'", Code::ComposeNetworkMode),
        ("deploy: {replicas: 2}", Code::ComposeFence),
        ("ports: ['80:${PORT:-80}']", Code::ComposePort),
    ] {
        let why = refused(settings);
        assert!(why.contains(code.id()), "{settings}: {why}");
    }
    let folder = folder(TRANSPARENT);
    compose(folder.path(), &["init"]).unwrap();
    compose(folder.path(), &["inject", "--merge"]).unwrap();
    let out = folder.path().join("compose.sidegate.yaml");
    let good = fs::read_to_string(&out).unwrap();
    for (from, to) in [
        ("      - NET_RAW\n      - NET_ADMIN\n", "      - NET_RAW\n"),
        ("network_mode: \"service:web-sidegate\"", "network_mode: \"service:orders-sidegate\""),
        (
            "network_mode: \"service:web-sidegate\"",
            "user: \"15100\"\n    network_mode: \"service:web-sidegate\"",
        ),
        ("      - capture\n", "      - other\n"),
        ("    image: postgres", "    image: postgres\n    network_mode: \"service:web-sidegate\""),
        (
            "    image: \"sidegate/proxy-capture",
            "    network_mode: \"service:web\"\n    image: \"sidegate/proxy-capture",
        ),
    ] {
        let changed = good.replacen(from, to, 1);
        assert_ne!(changed, good, "{from} in {good}");
        fs::write(&out, changed).unwrap();
        let typed = ["sidegate", "check", "--complete", out.to_str().unwrap()];
        assert_eq!(run(&Typed::try_parse_from(typed).unwrap().what).unwrap(), Exit::Findings, "{to}");
    }
}

#[test]
fn an_exotic_file_is_meshed_whole_or_refused_with_a_code_and_the_way_out() {
    let meshed = [
        "x-a: &a {image: x}\nservices: {web: {<<: *a, expose: [80]}}",
        "services: {web: {build: .}}",
        "services: {web: {build: {context: ., target: dev}, profiles: [debug, test]}}",
        "services: {web: {image: x, ports: ['8080-8086:8080-8086/tcp', {target: 90, published: '9000-9009', mode: host}]}}",
        "services: {web: {image: x, container_name: front, hostname: www, scale: 3, networks: {a: {aliases: [b]}}}}\nnetworks: {a: {external: true}}",
        "services: {web: {image: x, init: true, develop: {watch: []}, deploy: {resources: {}}, links: ['db:d']}, db: {image: y}}",
    ];
    for text in meshed {
        let folder = folder(text);
        compose(folder.path(), &["init"]).unwrap_or_else(|error| panic!("{text}: {}", error.why()));
        compose(folder.path(), &["inject", "--merge"]).unwrap();
        assert_eq!(compose(folder.path(), &["check"]).unwrap(), Exit::Ok, "{text}");
    }
    let refused = [
        ("include: [a.yaml]\nservices: {web: {image: x}}", Code::ComposeIndirect, "docker compose config"),
        (
            "services: {web: {extends: {service: b}}, b: {image: x}}",
            Code::ComposeIndirect,
            "docker compose config",
        ),
        (
            "services: {web: {image: x, env_file: '${STAGE}.env'}}",
            Code::ComposeIndirect,
            "docker compose config",
        ),
        ("services: {web: {image: x, ports: !reset []}}", Code::ComposeSyntax, "docker compose config"),
        ("services: {web: {image: x, network_mode: host}}", Code::ComposeNetworkMode, "sidegate.dev/inject"),
        ("services: {web: {image: x, network_mode: none}}", Code::ComposeNetworkMode, "sidegate.dev/inject"),
        (
            "services: {web: {image: x, network_mode: 'container:y'}}",
            Code::ComposeNetworkMode,
            "sidegate.dev/inject",
        ),
        (
            "services: {web: {image: x, networks: {a: {ipv4_address: 10.0.0.9}}}}",
            Code::ComposeFence,
            "by its name",
        ),
        (
            "services: {web: {image: x, networks: {a: {ipv6_address: 'fd00::9'}}}}",
            Code::ComposeFence,
            "by its name",
        ),
        (
            "services: {web: {image: x, ports: ['8080-8088:8080-8088']}}",
            Code::ComposePort,
            "sidegate.dev/inject",
        ),
        ("services: {web: {image: x, ports: ['53:53/udp']}}", Code::ComposePort, "sidegate.dev/inject"),
        ("services: {web: {image: x, ports: ['${PORT}']}}", Code::ComposePort, "sidegate.dev/inject"),
        (
            "services: {web: {image: x, labels: {sidegate.dev/mode: sidecar}}}",
            Code::ComposeBadLabel,
            "sidegate.dev/mode",
        ),
    ];
    for (text, code, way_out) in refused {
        let folder = folder(text);
        for command in ["init", "inject", "check"] {
            let why = compose(folder.path(), &[command]).unwrap_err().why().to_owned();
            assert!(why.contains(code.id()) && why.contains(way_out), "{command} {text}: {why}");
        }
        assert_eq!(tree(folder.path()).len(), 1, "{text}");
    }
}

#[test]
fn what_is_injected_passes_the_check_and_what_was_changed_does_not() {
    let folder = folder(SHOP);
    compose(folder.path(), &["init"]).unwrap();
    assert_eq!(compose(folder.path(), &["check"]).unwrap(), Exit::Findings);
    compose(folder.path(), &["inject"]).unwrap();
    assert_eq!(compose(folder.path(), &["check", "-o", "json"]).unwrap(), Exit::Ok);
    let token = folder.path().join(".sidegate/tokens/web");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(compose(folder.path(), &["check"]).unwrap(), Exit::Findings);
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let out = folder.path().join("compose.sidegate.yaml");
    let open = fs::read_to_string(&out).unwrap().replace("internal: true", "internal: false");
    fs::write(&out, open).unwrap();
    assert_eq!(compose(folder.path(), &["check"]).unwrap(), Exit::Findings);
}
