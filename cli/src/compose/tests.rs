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
