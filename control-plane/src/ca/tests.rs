use rcgen::KeyPair;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

const RETENTION: Duration = Duration::from_hours(24);

struct Scratch {
    parent: tempfile::TempDir,
    trust_domain: TrustDomain,
}

impl Scratch {
    fn new() -> Self {
        Self { parent: tempfile::tempdir().unwrap(), trust_domain: TrustDomain::parse("shop.test").unwrap() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.parent.path().join("state").join(name)
    }

    fn open(&self) -> Result<Authority, StateError> {
        let state = StateFolder::open(&self.parent.path().join("state"))?;
        Authority::open(state, &self.trust_domain, Duration::from_hours(48), RETENTION)
    }

    fn records(&self) -> Vec<String> {
        let registry = rusqlite::Connection::open(self.path("registry.db")).unwrap();
        let mut bodies = registry.prepare("SELECT body FROM record").unwrap();
        bodies.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn refusal(&self) -> String {
        self.open().err().unwrap().to_string()
    }
}

fn order(life: Duration) -> Order {
    Order {
        identity: SpiffeId::parse("spiffe://shop.test/ns/shop/sa/payments").unwrap(),
        key: ProvenKey::of_own_pair(&KeyPair::generate().unwrap()).unwrap(),
        life,
        attestor: "join-token",
        evidence: "abcd".into(),
        caller: "127.0.0.1:1".into(),
        new_source: false,
    }
}

#[test]
fn an_issued_certificate_closes_every_trap_of_the_builder() {
    let scratch = Scratch::new();
    let authority = scratch.open().unwrap();
    let issued = authority.issue(&order(Duration::from_mins(1))).unwrap();
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    let now = clock::now_ms() / 1000;
    let (start, end) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    assert!(u64::try_from(start).unwrap().abs_diff(now - 60) <= 1);
    assert!(u64::try_from(end).unwrap().abs_diff(now + 60) <= 1);
    assert_eq!(serial::issued_at_ms(leaf.raw_serial()), Some(issued.at_ms));
    assert_eq!(leaf.subject().iter().count(), 0);
    assert!(leaf.subject_alternative_name().unwrap().unwrap().critical, "the subject is empty");
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && usage.value.flags == 1);
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && extended.server_auth && !extended.any);
    let authority_key = x509_parser::oid_registry::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER;
    assert!(leaf.get_extension_unique(&authority_key).unwrap().is_some());
}

#[test]
fn two_certificates_for_one_key_have_two_serials() {
    let scratch = Scratch::new();
    let authority = scratch.open().unwrap();
    let order = order(Duration::from_mins(1));
    let serial =
        |issued: &Issued| X509Certificate::from_der(&issued.chain[0]).unwrap().1.raw_serial().to_vec();
    assert_ne!(serial(&authority.issue(&order).unwrap()), serial(&authority.issue(&order).unwrap()));
}

#[test]
fn a_leaf_never_outlives_the_root() {
    let scratch = Scratch::new();
    let state = StateFolder::open(&scratch.parent.path().join("state")).unwrap();
    let authority =
        Authority::open(state, &scratch.trust_domain, Duration::from_secs(100), RETENTION).unwrap();
    let issued = authority.issue(&order(Duration::from_hours(1))).unwrap();
    assert_eq!(issued.not_after, authority.root().not_after());
}

#[test]
fn a_life_beyond_the_verifiers_limit_does_not_leave() {
    let scratch = Scratch::new();
    let refused = scratch.open().unwrap().issue(&order(Duration::from_hours(26)));
    assert!(matches!(refused, Err(IssueError::SelfCheck(_))), "{refused:?}");
}

#[test]
fn a_restart_keeps_the_root_and_the_records() {
    let scratch = Scratch::new();
    let first = scratch.open().unwrap();
    first.issue(&order(Duration::from_mins(1))).unwrap();
    let fingerprint = first.root().fingerprint().to_owned();
    drop(first);
    assert_eq!(scratch.open().unwrap().root().fingerprint(), fingerprint);
    assert_eq!(scratch.records().len(), 1);
}

#[test]
fn every_issuance_is_on_record_with_its_key_and_evidence() {
    let scratch = Scratch::new();
    scratch.open().unwrap().issue(&order(Duration::from_mins(1))).unwrap();
    let line = scratch.records().concat();
    for field in ["spiffe://shop.test/ns/shop/sa/payments", "join-token", "abcd", "127.0.0.1:1", "\"key\":\""]
    {
        assert!(line.contains(field), "{field} in {line}");
    }
}

#[test]
fn no_new_root_is_made_over_an_old_one() {
    let scratch = Scratch::new();
    drop(scratch.open().unwrap());
    std::fs::remove_file(scratch.path("root.key")).unwrap();
    assert!(scratch.refusal().contains("no new root"), "{}", scratch.refusal());
}

#[test]
fn a_public_copy_of_another_root_is_refused() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    drop((scratch.open().unwrap(), other.open().unwrap()));
    std::fs::copy(other.path("root.pem"), scratch.path("root.pem")).unwrap();
    assert!(scratch.refusal().contains("root.pem: is not the certificate"), "{}", scratch.refusal());
}

#[test]
fn the_root_of_another_trust_domain_is_refused() {
    let mut scratch = Scratch::new();
    drop(scratch.open().unwrap());
    scratch.trust_domain = TrustDomain::parse("other.test").unwrap();
    assert!(scratch.refusal().contains("another trust domain"), "{}", scratch.refusal());
}

#[test]
fn a_root_that_is_no_ca_is_refused_and_not_replaced() {
    let scratch = Scratch::new();
    drop(scratch.open().unwrap());
    let key = rcgen::KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::default();
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.subject_alt_names = vec![SanType::URI("spiffe://shop.test".try_into().unwrap())];
    let text = format!("{}{}", key.serialize_pem(), leaf.self_signed(&key).unwrap().pem());
    std::fs::write(scratch.path("root.key"), &text).unwrap();
    std::fs::remove_file(scratch.path("root.pem")).unwrap();
    assert!(scratch.refusal().contains("SG0408"), "{}", scratch.refusal());
    assert_eq!(std::fs::read_to_string(scratch.path("root.key")).unwrap(), text);
}

#[test]
fn a_damaged_root_is_refused_and_not_replaced() {
    let scratch = Scratch::new();
    drop(scratch.open().unwrap());
    std::fs::write(scratch.path("root.key"), "-----BEGIN PRIVATE KEY-----").unwrap();
    assert!(scratch.refusal().contains("SG0408"), "{}", scratch.refusal());
    assert_eq!(std::fs::read_to_string(scratch.path("root.key")).unwrap(), "-----BEGIN PRIVATE KEY-----");
}
