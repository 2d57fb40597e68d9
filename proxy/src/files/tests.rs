use tempfile::TempDir;

use super::*;
use crate::{
    config::Source,
    snapshot::{PeerTls, Snapshot},
    telemetry::Metrics,
    test_authority::Root,
};

const PAYMENTS: &str = "spiffe://shop.test/ns/shop/sa/payments";
const POLICY: &str = "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\n\
    metadata: {name: callers}\n\
    spec: {action: Allow, rules: [{from: [{serviceAccounts: [shop/orders]}]}]}\n";

const CONFIG: &str = "trustDomain: shop.test\n\
    workload: {namespace: shop, serviceAccount: payments}\n\
    identity: {files: {certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}}\n\
    policies: policies.yaml\n\
    outbound: [{listen: '127.0.0.1:0', service: shop/orders, endpoints: ['127.0.0.1:1'],\n\
    identities: ['spiffe://shop.test/ns/shop/sa/orders']}]\n";

/// A sidecar's files, and what is in force of them.
struct Sidecar {
    folder: TempDir,
    config: Config,
    in_force: InForce,
    publisher: Publisher,
}

impl Sidecar {
    /// With an SVID of `authority`, which is the whole bundle.
    fn of(authority: &Root) -> Self {
        let folder = TempDir::new().unwrap();
        let config = Config::parse(&folder.path().join("proxy.yaml"), CONFIG).unwrap();
        let publisher = Publisher::new(config.clone(), Arc::new(Metrics::default()));
        let sidecar = Self { folder, config, in_force: InForce::default(), publisher };
        let (chain, key) = authority.svid(PAYMENTS).pem();
        sidecar.write("bundle.pem", &authority.pem());
        sidecar.write("svid.pem", &chain);
        sidecar.write("key.pem", &key);
        sidecar.write("policies.yaml", POLICY);
        sidecar
    }

    fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn apply(&mut self) -> Applied {
        let Source::Files(files) = self.config.source.clone() else {
            unreachable!("it is a sidecar of files")
        };
        self.in_force.apply(&self.config, &files, &self.publisher)
    }

    fn applied(&mut self) -> Arc<Snapshot> {
        let applied = self.apply();
        assert!(applied.refused.is_none(), "{:?}", applied.refused);
        self.snapshot()
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.publisher.reader().snapshot()
    }

    fn presented(&self) -> Option<Vec<u8>> {
        let snapshot = self.snapshot();
        let own = &snapshot.secured.as_ref()?.credentials;
        Some(own.svid().serial().to_vec())
    }
}

#[test]
fn a_root_that_is_taken_out_is_trusted_no_longer_even_if_it_is_the_own_one() {
    let (old, new) = (Root::new(), Root::new());
    let mut sidecar = Sidecar::of(&old);
    assert!(sidecar.applied().secured.is_some());
    sidecar.write("bundle.pem", &new.pem());
    let applied = sidecar.apply();
    assert!(applied.is_withdrawn);
    assert_eq!(applied.refused.unwrap().code(), Code::BadCredentials);
    let snapshot = sidecar.snapshot();
    assert!(snapshot.secured.is_none());
    let trusted = snapshot.trust.get("shop.test").unwrap().authorities();
    assert_eq!(trusted, [new.der()]);

    // With a certificate of the new root it goes on.
    let (chain, key) = new.svid(PAYMENTS).pem();
    sidecar.write("svid.pem", &chain);
    sidecar.write("key.pem", &key);
    assert!(sidecar.applied().secured.is_some());
}

#[test]
fn a_rule_that_asks_a_tcp_port_for_http_is_refused_and_the_last_good_set_stays() {
    const ASKS: &str = "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\n\
        metadata: {name: callers}\n\
        spec: {action: Deny, rules: [{to: [{ports: [5432], methods: [GET]}]}]}\n";
    for (protocols, is_refused) in
        [(&["tcp"][..], true), (&["http"], false), (&["auto"], false), (&["tcp", "http"], false)]
    {
        let mut sidecar = Sidecar::of(&Root::new());
        let listens = protocols.iter().zip(15006..).map(|(protocol, port)| {
            format!("- {{listen: '127.0.0.1:{port}', forward: '127.0.0.1:5432', protocol: {protocol}}}\n")
        });
        let text = format!("{CONFIG}inbound:\n{}", listens.collect::<String>());
        sidecar.config = Config::parse(&sidecar.folder.path().join("proxy.yaml"), &text).unwrap();
        sidecar.applied();
        sidecar.write("policies.yaml", ASKS);
        match sidecar.apply().refused {
            Some(FilesError::Policies(errors)) => {
                assert!(is_refused, "{protocols:?}");
                assert_eq!(errors[0].field.as_deref(), Some("spec.rules[0].to[0]"));
            }
            other => assert!(!is_refused && other.is_none(), "{protocols:?}: {other:?}"),
        }
    }
}

/// A file of this length, all of it zeros.
fn zeros(path: &Path, length: u64) {
    std::fs::File::create(path).unwrap().set_len(length).unwrap();
}

#[test]
fn a_policies_file_is_read_no_further_than_its_parser_needs_to_refuse_it() {
    let mut sidecar = Sidecar::of(&Root::new());
    sidecar.applied();
    let path = sidecar.folder.path().join("policies.yaml");
    // A terabyte, none of which is on the disk.
    zeros(&path, 1 << 40);
    assert_eq!(sidecar.apply().refused.unwrap().code(), Code::PolicyTooLarge);
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert_eq!(sidecar.apply().refused.unwrap().code(), Code::PolicyTooLarge);
    assert!(sidecar.snapshot().is_complete, "the last good set stays");
}

#[test]
fn policies_of_more_than_a_set_may_have_refuse_the_folder() {
    let mut sidecar = Sidecar::of(&Root::new());
    let folder = sidecar.folder.path().join("policies");
    std::fs::create_dir(&folder).unwrap();
    let text = CONFIG.replace("policies.yaml", "policies");
    sidecar.config = Config::parse(&sidecar.folder.path().join("proxy.yaml"), &text).unwrap();
    std::fs::write(folder.join("a.yaml"), POLICY).unwrap();
    sidecar.applied();
    let each = sidegate_policy::FILE_BYTES;
    for number in 0..=sidegate_policy::SET_BYTES / each {
        zeros(&folder.join(format!("b{number}.yaml")), each as u64);
    }
    let refused = sidecar.apply().refused.unwrap();
    assert_eq!(refused.code(), Code::PolicyTooLarge);
    assert!(refused.to_string().contains("it holds more than 67108864 bytes"), "{refused}");
    assert!(sidecar.snapshot().is_complete, "the last good set stays");
}

#[test]
fn a_certificate_of_more_than_a_file_may_have_is_not_read() {
    let mut sidecar = Sidecar::of(&Root::new());
    sidecar.applied();
    zeros(&sidecar.folder.path().join("bundle.pem"), 1 << 40);
    let refused = sidecar.apply().refused.unwrap();
    assert!(refused.to_string().contains("it is larger than 4194304 bytes"), "{refused}");
    assert!(sidecar.snapshot().secured.is_some(), "the last good bundle stays");
}

#[test]
fn a_root_that_is_taken_out_is_trusted_no_longer_even_if_a_policy_cannot_be_read() {
    let (own, other) = (Root::new(), Root::new());
    let mut sidecar = Sidecar::of(&own);
    sidecar.write("bundle.pem", &(own.pem() + &other.pem()));
    sidecar.applied();
    sidecar.write("policies.yaml", "kind: [");
    sidecar.write("bundle.pem", &own.pem());
    assert!(matches!(sidecar.apply().refused, Some(FilesError::Policies(_))));
    let snapshot = sidecar.snapshot();
    assert_eq!(snapshot.trust.get("shop.test").unwrap().authorities().len(), 1);
    assert!(snapshot.secured.is_some() && snapshot.is_complete);
}

#[test]
fn a_certificate_that_was_replaced_before_its_key_leaves_the_one_there_is() {
    let root = Root::new();
    let mut sidecar = Sidecar::of(&root);
    sidecar.applied();
    let before = sidecar.presented();
    let (chain, key) = root.svid(PAYMENTS).pem();
    sidecar.write("svid.pem", &chain);
    let applied = sidecar.apply();
    assert!(applied.refused.is_some() && !applied.is_withdrawn);
    assert_eq!(sidecar.presented(), before);
    sidecar.write("key.pem", &key);
    sidecar.applied();
    assert_ne!(sidecar.presented(), before);
}

#[test]
fn a_certificate_whose_time_is_not_now_is_refused_as_a_matter_of_clocks_and_the_present_one_stays() {
    use time::{Duration, OffsetDateTime};
    let root = Root::new();
    for off in [Duration::hours(2), -Duration::hours(2)] {
        let mut sidecar = Sidecar::of(&root);
        sidecar.applied();
        let before = sidecar.presented();
        let (chain, key) = root.svid_from(PAYMENTS, OffsetDateTime::now_utc() + off).pem();
        sidecar.write("svid.pem", &chain);
        sidecar.write("key.pem", &key);
        let applied = sidecar.apply();
        assert_eq!(applied.renewal, Some(Renewal::Refused));
        assert_eq!(applied.refused.unwrap().code(), Code::CertificateNotValidNow);
        assert_eq!(sidecar.presented(), before);
        assert_eq!(sidecar.apply().renewal, None, "it is counted once");
    }
}

#[test]
fn a_key_that_others_may_read_is_refused_whatever_link_leads_to_it() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let mut sidecar = Sidecar::of(&Root::new());
    let at = |name: &str| sidecar.folder.path().join(name);
    std::fs::rename(at("key.pem"), at("elsewhere.pem")).unwrap();
    std::fs::set_permissions(at("elsewhere.pem"), std::fs::Permissions::from_mode(0o640)).unwrap();
    symlink("elsewhere.pem", at("key.pem")).unwrap();
    assert_eq!(sidecar.apply().refused.unwrap().code(), Code::UnsafeKeyFile);
    assert!(sidecar.presented().is_none());
}

#[test]
fn a_certificate_of_another_identity_is_not_presented() {
    let root = Root::new();
    let mut sidecar = Sidecar::of(&root);
    let (chain, key) = root.svid("spiffe://shop.test/ns/shop/sa/orders").pem();
    sidecar.write("svid.pem", &chain);
    sidecar.write("key.pem", &key);
    assert!(sidecar.apply().refused.is_some());
    assert!(sidecar.presented().is_none());
}

#[test]
fn a_changed_policy_leaves_upstream_connections_as_they_are_and_a_new_certificate_does_not() {
    let root = Root::new();
    let mut sidecar = Sidecar::of(&root);
    let first = sidecar.applied();
    sidecar.write("policies.yaml", &POLICY.replace("shop/orders", "shop/web"));
    let second = sidecar.applied();
    assert!(!Arc::ptr_eq(&first.policies, &second.policies));
    assert_eq!(upstream_tls(&first), upstream_tls(&second));
    let (chain, key) = root.svid(PAYMENTS).pem();
    sidecar.write("svid.pem", &chain);
    sidecar.write("key.pem", &key);
    assert_ne!(upstream_tls(&second), upstream_tls(&sidecar.applied()));
}

fn upstream_tls(snapshot: &Snapshot) -> PeerTls {
    let service = snapshot.outbound[0].services[0].as_ref().unwrap();
    service.tls.clone().unwrap()
}

#[test]
fn what_has_not_changed_is_not_published_again() {
    let mut sidecar = Sidecar::of(&Root::new());
    assert!(sidecar.apply().has_changed);
    assert!(!sidecar.apply().has_changed);
}
