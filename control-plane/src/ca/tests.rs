use std::os::unix::fs::MetadataExt;

use rcgen::KeyPair;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::rotation::{
    desk::Request,
    machine::{Cause, Moment, Phase},
    store::Store,
};

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
        Authority::open(state, &self.trust_domain, Duration::from_hours(48), (Place::Folder, RETENTION), None)
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
    let authority = Authority::open(
        state,
        &scratch.trust_domain,
        Duration::from_secs(100),
        (Place::Folder, RETENTION),
        None,
    )
    .unwrap();
    let issued = authority.issue(&order(Duration::from_hours(1))).unwrap();
    assert_eq!(issued.not_after, authority.signing().not_after());
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
    let fingerprint = first.signing().fingerprint().to_owned();
    drop(first);
    assert_eq!(scratch.open().unwrap().signing().fingerprint(), fingerprint);
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
fn a_public_copy_of_another_root_is_put_right() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    drop((scratch.open().unwrap(), other.open().unwrap()));
    let own = std::fs::read(scratch.path("root.pem")).unwrap();
    std::fs::copy(other.path("root.pem"), scratch.path("root.pem")).unwrap();
    drop(scratch.open().unwrap());
    assert_eq!(std::fs::read(scratch.path("root.pem")).unwrap(), own);
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

const LEAF_LIFE: Duration = Duration::from_mins(10);

/// Everybody who is alive has acknowledged what is in force, and so much time has passed.
fn turn(authority: &Authority, later: Duration) {
    let bundle = authority.trust().borrow().resource.version.clone();
    let seen: Vec<_> = {
        let office = authority.office();
        let alive = office.roll.alive(0, Duration::ZERO);
        let serials = alive.map(|(serial, _)| serial.to_owned());
        serials
            .map(|serial| Seen {
                serial,
                address: String::new(),
                connected: true,
                bundle: Some(bundle.clone()),
            })
            .collect()
    };
    let now_ms = clock::now_ms() + u64::try_from(later.as_millis()).unwrap();
    authority
        .turn(&seen, Moment { now_ms, up: later, margin: Duration::from_secs(1) }, Duration::ZERO)
        .unwrap();
}

fn verifies(authority: &Authority, issued: &Issued) -> bool {
    let trust = authority.trust().borrow().clone();
    let now = clock::unix_time(clock::now_ms());
    [Usage::Client, Usage::Server]
        .iter()
        .all(|usage| verify(&issued.chain, *usage, &trust.bundles, &SvidLimits::default(), now).is_ok())
}

fn phase(authority: &Authority) -> &'static str {
    authority.rotation().phase.name()
}

#[test]
fn in_each_phase_and_after_each_crash_what_may_be_alive_verifies_and_what_may_not_does_not() {
    let scratch = Scratch::new();
    let mut authority = scratch.open().unwrap();
    let old = authority.issue(&order(LEAF_LIFE)).unwrap();
    authority.begin(Cause::Operator, "a test", Duration::from_hours(48)).unwrap();
    let prepared = authority.issue(&order(LEAF_LIFE)).unwrap();
    let restart = |authority: Authority, expected: &str| {
        drop(authority);
        let authority = scratch.open().unwrap();
        assert_eq!(phase(&authority), expected);
        authority
    };
    authority = restart(authority, "prepare");
    assert!(verifies(&authority, &old) && verifies(&authority, &prepared));

    turn(&authority, Duration::from_secs(20));
    authority = restart(authority, "activate");
    let new = authority.issue(&order(LEAF_LIFE)).unwrap();
    assert!([&old, &prepared, &new].iter().all(|issued| verifies(&authority, issued)));
    turn(&authority, Duration::from_mins(1));
    assert_eq!(phase(&authority), "activate", "old certificates are alive");

    turn(&authority, LEAF_LIFE + Duration::from_secs(3));
    authority = restart(authority, "retire");
    assert!(verifies(&authority, &new) && !verifies(&authority, &old) && !verifies(&authority, &prepared));
    turn(&authority, LEAF_LIFE * 2);
    authority = restart(authority, "steady");
    assert!(verifies(&authority, &new) && !verifies(&authority, &old));
    assert!(verifies(&authority, &authority.issue(&order(LEAF_LIFE)).unwrap()));
}

#[test]
fn a_rotation_ends_with_one_key_that_nobody_else_may_read_and_every_step_on_record() {
    let scratch = Scratch::new();
    let authority = scratch.open().unwrap();
    let certificates = |scratch: &Scratch| {
        std::fs::read_to_string(scratch.path("root.pem")).unwrap().matches("BEGIN").count()
    };
    authority.begin(Cause::Operator, "a test", Duration::from_hours(48)).unwrap();
    assert_eq!(certificates(&scratch), 2);
    for later in [20, 40, 60] {
        turn(&authority, Duration::from_secs(later));
    }
    let state = authority.rotation();
    assert_eq!((state.phase, certificates(&scratch)), (Phase::Steady, 1));
    let key = std::fs::metadata(scratch.path(&state.signing.file)).unwrap();
    assert_eq!(key.mode() & 0o777, 0o600);
    assert!(!scratch.path("root.key").exists(), "the old key is deleted");
    let steps = scratch.records().iter().filter(|body| body.contains("\"rotated\"")).count();
    assert_eq!(steps, 6, "the first root, and five phases");
}

#[test]
fn what_an_operator_asks_is_answered_also_if_it_cannot_be_done() {
    let scratch = Scratch::new();
    let authority = scratch.open().unwrap();
    let ask = |request: Request| {
        let folder = StateFolder::open_to_read(&scratch.parent.path().join("state")).unwrap();
        let store = Store::open_existing(&folder).unwrap().unwrap();
        let number = store.ask(&request, 0).unwrap();
        assert_eq!(store.answered(number).unwrap(), None);
        authority.answer_requests(Duration::from_hours(48)).unwrap();
        store.answered(number).unwrap().unwrap().done
    };
    let reason = || "a test".to_owned();
    assert!(!ask(Request::Abort { reason: reason() }));
    assert!(ask(Request::Start { reason: reason() }));
    assert!(!ask(Request::Start { reason: reason() }));
    assert_eq!(phase(&authority), "prepare");
    assert!(ask(Request::Abort { reason: reason() }));
    assert_eq!(phase(&authority), "retire");
}

#[test]
fn who_holds_a_rotation_up_is_named_and_for_how_much_longer_than_usual() {
    let scratch = Scratch::new();
    let authority = scratch.open().unwrap();
    authority.issue(&order(Duration::from_hours(1))).unwrap();
    let after = |passed: Duration| {
        let now_ms = clock::now_ms() + u64::try_from(passed.as_millis()).unwrap();
        let blocked = authority.blocked(Duration::from_hours(1), now_ms);
        (blocked.phase, blocked.count, blocked.some.concat(), blocked.overdue.as_secs() / 60)
    };
    assert_eq!(after(Duration::from_mins(15)), ("steady", 0, String::new(), 0));
    authority.begin(Cause::Operator, "a test", Duration::from_hours(48)).unwrap();
    let payments = "spiffe://shop.test/ns/shop/sa/payments".to_owned();
    assert_eq!(after(Duration::from_mins(5)), ("prepare", 1, payments.clone(), 0));
    assert_eq!(after(Duration::from_mins(15)), ("prepare", 1, payments, 5));
    // Its certificate has ended, so it is in the way of nothing, however long the phase takes.
    assert_eq!(after(Duration::from_hours(2)), ("prepare", 0, String::new(), 0));
}

#[test]
fn a_folder_that_lost_its_rotation_is_refused_and_no_root_is_guessed() {
    let scratch = Scratch::new();
    let authority = scratch.open().unwrap();
    authority.begin(Cause::Operator, "a test", Duration::from_hours(48)).unwrap();
    drop(authority);
    for file in ["rotation.db", "rotation.db-wal", "rotation.db-shm"] {
        let _ = std::fs::remove_file(scratch.path(file));
    }
    assert!(scratch.refusal().contains("rotation.db: is missing"), "{}", scratch.refusal());
}

#[test]
fn a_root_that_is_about_to_expire_is_replaced_by_itself_and_once() {
    let scratch = Scratch::new();
    let state = StateFolder::open(&scratch.parent.path().join("state")).unwrap();
    let life = Duration::from_mins(1);
    let authority =
        Authority::open(state, &scratch.trust_domain, life, (Place::Folder, RETENTION), None).unwrap();
    // Made with an hour before its moment: of 61 minutes one is left.
    for _ in 0..2 {
        authority.start_if_due(Duration::from_secs(2), Duration::from_hours(48)).unwrap();
    }
    assert_eq!((phase(&authority), authority.rotation().number), ("prepare", 1));
    let fresh = Scratch::new();
    let authority = fresh.open().unwrap();
    authority.start_if_due(Duration::from_secs(2), Duration::from_hours(48)).unwrap();
    assert_eq!(phase(&authority), "steady");
}
