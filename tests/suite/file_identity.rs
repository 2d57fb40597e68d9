//! An identity from files: what replaces them, whole or torn, late or not at all.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command, time::Duration};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use sidegate_identity::{TrustBundle, TrustBundles, TrustDomain};

use crate::mesh::{App, Authority, DOMAIN, PATIENCE, Port, Sidecar, Svid, credentials, id, tls};

const NOBODY: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {action: Deny, rules: [{name: everybody, to: [{ports: [1]}]}]}
";

const IDENTITY: [&str; 3] = ["svid.pem", "key.pem", "bundle.pem"];

/// Moves the identity's files into a folder of this name, as the volumes of Kubernetes hold theirs.
fn volume(folder: &Path, name: &str, svid: &Svid, authority: &Authority) {
    fs::create_dir(folder.join(name)).unwrap();
    let texts = [&svid.chain, &svid.key, &authority.bundle()];
    for (file, text) in IDENTITY.into_iter().zip(texts) {
        write(&folder.join(name).join(file), text);
    }
}

fn write(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// What the sidecar shows to a peer.
async fn presented(sidecar: &Sidecar, authority: &Authority) -> CertificateDer<'static> {
    let orders = authority.svid(&id("orders"));
    let payments = id("payments");
    let stream = tls(sidecar.inbound(), authority, Some(&orders), &payments, b"http/1.1").await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

fn leaf(svid: &Svid) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(svid.chain.as_bytes()).unwrap()
}

fn ends_at(svid: &Svid, authority: &Authority) -> u64 {
    let domain = TrustDomain::parse(DOMAIN).unwrap();
    let bundle = TrustBundle::from_pem(domain, authority.bundle().as_bytes()).unwrap();
    credentials(svid, &TrustBundles::from_iter([bundle])).svid().not_after().as_secs()
}

async fn metrics_hold(sidecar: &Sidecar, line: &str) {
    let metrics = sidecar.page("/metrics").await.body;
    assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
}

#[tokio::test]
async fn a_link_that_is_swapped_as_kubernetes_does_brings_the_new_certificate() {
    let (app, authority) = (App::start().await, Authority::new());
    let [first, second] =
        [40, 50].map(|minutes| authority.svid_for(&id("payments"), Duration::from_mins(minutes)));
    let ports = [Port::Inbound(app.address, "protocol: http")];
    let folder = Sidecar::folder("payments", &first, &authority, NOBODY, &ports, "");
    let at = |name: &str| folder.path().join(name);
    volume(folder.path(), "..1", &first, &authority);
    symlink("..1", at("..data")).unwrap();
    for file in IDENTITY {
        fs::remove_file(at(file)).unwrap();
        symlink(Path::new("..data").join(file), at(file)).unwrap();
    }
    let sidecar = Sidecar::start_in(folder, &ports);
    sidecar.applied(1);
    assert_eq!(presented(&sidecar, &authority).await, leaf(&first));

    volume(sidecar.file("..1").parent().unwrap(), "..2", &second, &authority);
    symlink("..2", sidecar.file("..data_tmp")).unwrap();
    fs::rename(sidecar.file("..data_tmp"), sidecar.file("..data")).unwrap();
    sidecar.applied(2);
    assert_eq!(presented(&sidecar, &authority).await, leaf(&second));
    metrics_hold(&sidecar, "sidegate_identity_renewals_total{result=\"ok\"} 2").await;
    let expiry = "sidegate_identity_certificate_expiry_timestamp_seconds";
    metrics_hold(&sidecar, &format!("{expiry} {}", ends_at(&second, &authority))).await;
}

#[tokio::test]
async fn a_certificate_without_its_key_changes_nothing_and_is_counted_once() {
    let (app, authority) = (App::start().await, Authority::new());
    let [first, second] =
        [40, 50].map(|minutes| authority.svid_for(&id("payments"), Duration::from_mins(minutes)));
    let ports = [Port::Inbound(app.address, "protocol: http")];
    let sidecar = Sidecar::start_as("payments", &first, &authority, NOBODY, &ports, "");
    sidecar.replace("svid.pem", &second.chain);
    let line = sidecar.logged(|line| line["code"] == "SG0313");
    assert!(line["error"].as_str().unwrap().contains("does not belong"), "{line}");
    assert_eq!(presented(&sidecar, &authority).await, leaf(&first));
    metrics_hold(&sidecar, "sidegate_identity_renewals_total{result=\"failed\"} 1").await;
    let expiry = "sidegate_identity_certificate_expiry_timestamp_seconds";
    metrics_hold(&sidecar, &format!("{expiry} {}", ends_at(&first, &authority))).await;

    sidecar.replace("key.pem", &second.key);
    sidecar.applied(2);
    assert_eq!(presented(&sidecar, &authority).await, leaf(&second));
    metrics_hold(&sidecar, "sidegate_identity_renewals_total{result=\"failed\"} 1").await;
}

#[tokio::test]
async fn a_certificate_that_nobody_replaces_is_told_when_it_is_late_and_when_it_has_ended() {
    let (app, authority) = (App::start().await, Authority::new());
    let short = authority.svid_for(&id("payments"), Duration::from_secs(4));
    let ports = [Port::Inbound(app.address, "protocol: http")];
    let sidecar = Sidecar::start_as("payments", &short, &authority, NOBODY, &ports, "");
    sidecar.logged(|line| line["code"] == "SG0307" && line["level"] == "WARN");
    sidecar.logged(|line| line["code"] == "SG0308" && line["level"] == "ERROR");
    let page = sidecar.page("/readyz").await;
    assert_eq!((page.status.as_u16(), page.body.trim()), (503, "not ready: the certificate has expired"));
}

#[test]
fn a_check_reads_what_a_start_would_read_and_refuses_what_that_would_refuse() {
    let authority = Authority::new();
    let good = authority.svid(&id("payments"));
    let check = |svid: &Svid, policies: &str| {
        let ports = [Port::Inbound(([127, 0, 0, 1], 1).into(), "protocol: http")];
        let folder = Sidecar::folder("payments", svid, &authority, policies, &ports, "");
        let mut program = Command::new(env!("CARGO_BIN_EXE_sidegate"));
        let config = folder.path().join("proxy.yaml");
        let done = program.args(["proxy", "--check", "--config"]).arg(config).output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        (done.status.code().unwrap(), String::from_utf8(said).unwrap())
    };
    let (code, said) = check(&good, NOBODY);
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with(&format!("{}: the certificate is valid until ", id("payments"))), "{said}");

    let other = authority.svid(&id("orders"));
    let torn = Svid { chain: good.chain.clone(), key: other.key.clone() };
    let stranger = Authority::new().svid(&id("payments"));
    let late = authority.svid_for(&id("payments"), PATIENCE);
    for (svid, policies, wanted) in [
        (&torn, NOBODY, "SG0313"),
        (&other, NOBODY, "SG0313"),
        (&stranger, NOBODY, "SG0313"),
        (&late, NOBODY, "SG0307"),
        (&good, "kind: [", "SG02"),
    ] {
        let (code, said) = check(svid, policies);
        assert!(code == 1 && said.contains(wanted), "{wanted}: {code}, {said}");
    }
}
