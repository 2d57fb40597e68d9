use std::path::PathBuf;

use rcgen::{CertificateSigningRequestParams, CertifiedIssuer, ExtendedKeyUsagePurpose};
use time::OffsetDateTime;

use super::*;
use crate::{
    ca::{Authority, Issued, Order, csr::ProvenKey},
    registry::Place,
    rotation::{machine::Moment, store::Store},
};

const LIFE: Duration = Duration::from_mins(1);
const KEPT: Duration = Duration::from_hours(24);

/// The root's owner, far from the control plane.
struct Offline(CertifiedIssuer<'static, KeyPair>);

impl Offline {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = authority("root", Duration::from_hours(24 * 365));
        change(&mut params);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for the request's key, as PEM.
    fn sign(&self, request: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let request = CertificateSigningRequestParams::from_pem(request).unwrap();
        let mut params = authority("intermediate", Duration::from_hours(24 * 30));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        change(&mut params);
        params.signed_by(&request.public_key, &self.0).unwrap().pem()
    }

    /// An authority between the root and the intermediate.
    fn below(&self, name: &str) -> (String, Self) {
        let params = authority(name, Duration::from_hours(24 * 60));
        let below = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.0).unwrap();
        (below.pem(), Self(below))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }
}

fn authority(name: &str, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = OffsetDateTime::now_utc() - Duration::from_mins(10);
    params.not_after = OffsetDateTime::now_utc() + life;
    params
}

struct Host {
    folder: tempfile::TempDir,
    config: Config,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = "apiVersion: sidegate.dev/v1alpha1\nkind: Mesh\ntrustDomain: shop.test\nrootNamespace: sidegate\n\
                    policies: policies/\nstate: state/\nlisten: {grpc: '127.0.0.1:0', api: '127.0.0.1:0'}\nservices: []\n";
        let config = Config::parse(&folder.path().join("mesh.yaml"), text).unwrap();
        Self { folder, config }
    }

    /// Under this root from the beginning.
    fn under(root: &Offline) -> Self {
        let host = Self::new();
        let placed = host.place(&root.sign(&host.request(), |_| {}), &root.pem()).unwrap();
        assert!(matches!(placed, Placed::First));
        host
    }

    fn request(&self) -> String {
        request(&self.config).unwrap()
    }

    fn place(&self, certificates: &str, root: &str) -> Result<Placed, IntermediateError> {
        place(&self.config, certificates.as_bytes(), root.as_bytes(), false, "a test")
    }

    fn refusal(&self, certificates: &str, root: &str) -> String {
        self.place(certificates, root).unwrap_err().to_string()
    }

    fn open(&self) -> Authority {
        let folder = StateFolder::open(&self.config.state).unwrap();
        Authority::open(
            folder,
            &self.config.trust_domain,
            Duration::from_hours(48),
            (Place::Folder, KEPT),
            None,
        )
        .unwrap()
    }

    /// Asks a running authority, as the command does.
    fn ask(&self, authority: &Authority, request: &Request) -> Result<(), String> {
        let folder = StateFolder::open_to_read(&self.config.state).unwrap();
        let store = Store::open_existing(&folder).unwrap().unwrap();
        let number = store.ask(request, 0).unwrap();
        authority.answer_requests(Duration::from_hours(48)).unwrap();
        let answer = store.answered(number).unwrap().unwrap();
        if answer.done { taken(&self.config).map_err(|error| error.to_string()) } else { Err(answer.message) }
    }

    /// Has this root sign the next intermediate and asks for it to be taken.
    fn install(&self, authority: &Authority, root: &Offline, taint: bool) -> Result<(), String> {
        let certificate = root.sign(&self.request(), |_| {});
        let (certificate, root) = (certificate.as_bytes(), root.pem());
        match place(&self.config, certificate, root.as_bytes(), taint, "a test").unwrap() {
            Placed::First => unreachable!("the mesh runs"),
            Placed::Ask(request) => self.ask(authority, &request),
        }
    }

    fn keys(&self) -> Vec<String> {
        let mut names = StateFolder::open_to_read(&self.config.state).unwrap().names().unwrap();
        names.retain(|name| name.ends_with("key") && name != "registry.key");
        names.sort();
        names
    }

    fn state(&self, file: &str) -> PathBuf {
        self.folder.path().join("state").join(file)
    }
}

fn order(life: Duration) -> Order {
    Order {
        identity: SpiffeId::parse("spiffe://shop.test/ns/shop/sa/payments").unwrap(),
        key: ProvenKey::of_own_pair(&KeyPair::generate().unwrap()).unwrap(),
        life,
        attestor: "join-token",
        evidence: String::new(),
        caller: String::new(),
        new_source: false,
    }
}

/// By whoever trusts this root and nothing else.
fn verifies(issued: &Issued, root: &Offline) -> bool {
    let domain = TrustDomain::parse("shop.test").unwrap();
    let bundle = TrustBundle::from_der(domain, [root.0.der().clone()]).unwrap();
    let now = clock::unix_time(clock::now_ms());
    let bundles = TrustBundles::from_iter([bundle]);
    [Usage::Client, Usage::Server]
        .iter()
        .all(|usage| verify(&issued.chain, *usage, &bundles, &SvidLimits::default(), now).is_ok())
}

#[test]
fn a_mesh_under_an_offline_root_serves_chains_that_its_root_alone_vouches_for() {
    let root = Offline::new();
    let host = Host::under(&root);
    let authority = host.open();
    let issued = authority.issue(&order(LIFE)).unwrap();
    assert_eq!(issued.chain.len(), 2, "the leaf and the intermediate");
    assert!(verifies(&issued, &root) && !verifies(&issued, &Offline::new()));
    let bundle = std::fs::read(host.state("root.pem")).unwrap();
    assert_eq!(sections(&bundle).unwrap(), sections(root.pem().as_bytes()).unwrap(), "the root alone");
    assert_eq!(host.keys(), ["intermediate.key"]);
    drop(authority);
    assert!(verifies(&host.open().issue(&order(LIFE)).unwrap(), &root), "after a restart, too");
}

#[test]
fn a_leaf_lives_no_longer_than_the_intermediate() {
    let (root, host) = (Offline::new(), Host::new());
    let ends = OffsetDateTime::now_utc() + Duration::from_secs(100);
    let short = root.sign(&host.request(), |params| params.not_after = ends);
    host.place(&short, &root.pem()).unwrap();
    let issued = host.open().issue(&order(Duration::from_hours(1))).unwrap();
    assert_eq!(issued.not_after.as_secs(), u64::try_from(ends.unix_timestamp()).unwrap());
}

#[test]
fn the_request_asks_for_what_may_sign_and_is_of_the_same_key_when_asked_again() {
    let host = Host::new();
    let requests = [host.request(), host.request()];
    let [first, second] =
        requests.each_ref().map(|pem| CertificateSigningRequestParams::from_pem(pem).unwrap());
    assert_eq!(first.public_key, second.public_key);
    assert_eq!(first.params.key_usages, [KeyUsagePurpose::KeyCertSign]);
    assert!(!requests[0].contains("PRIVATE"));
}

#[test]
fn what_may_not_sign_leaves_of_this_trust_domain_is_not_installed() {
    let (root, host) = (Offline::new(), Host::new());
    let request = host.request();
    let sign = |change: &dyn Fn(&mut CertificateParams)| root.sign(&request, change);
    let past = OffsetDateTime::now_utc() - Duration::from_secs(1);
    let narrow = Offline::with(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let foreign = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![SanType::URI("spiffe://other.test".try_into().unwrap())];
    };
    let crls_only = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let servers_only = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let cases = [
        ("not a CA", sign(&|params| params.is_ca = IsCa::ExplicitNoCa), root.pem()),
        ("no keyCertSign", sign(&crls_only), root.pem()),
        ("a use of its own", sign(&servers_only), root.pem()),
        ("another trust domain", sign(&foreign), root.pem()),
        ("expired", sign(&|params| params.not_after = past), root.pem()),
        ("a root that may have none", narrow.sign(&request, |_| {}), narrow.pem()),
        ("another root", sign(&|_| {}), Offline::new().pem()),
        ("another key", root.sign(&Host::new().request(), |_| {}), root.pem()),
        ("a foreign root", sign(&|_| {}), Offline::with(foreign).pem()),
    ];
    for (case, certificate, root) in cases {
        assert!(matches!(host.place(&certificate, &root), Err(IntermediateError::Unusable(_))), "{case}");
    }
    assert!(host.keys().is_empty(), "nothing was installed");
    host.place(&sign(&|_| {}), &root.pem()).unwrap();
    assert!(matches!(host.place("", ""), Err(IntermediateError::NoRequest(_))), "it is installed once");
}

#[test]
fn a_private_key_beside_the_certificates_is_refused_as_it_could_be_the_roots() {
    let (root, host) = (Offline::new(), Host::new());
    let certificate = root.sign(&host.request(), |_| {});
    let with_key = root.pem() + &root.0.key().serialize_pem();
    assert!(host.refusal(&certificate, &with_key).contains("private key"));
    assert!(host.refusal(&with_key, &root.pem()).contains("private key"));
    assert!(host.refusal("", &root.pem()).contains("no certificate"));
}

#[test]
fn a_chain_that_every_sidecar_would_refuse_for_its_length_is_not_installed() {
    let (root, host) = (Offline::new(), Host::new());
    let (upper_pem, upper) = root.below("upper");
    let (lower_pem, lower) = upper.below("lower");
    let request = host.request();
    let long = [lower.sign(&request, |_| {}), lower_pem, upper_pem.clone()].concat();
    let refusal = host.refusal(&long, &root.pem());
    assert!(refusal.contains("4 certificates"), "{refusal}");
    let longest = [upper.sign(&request, |_| {}), upper_pem].concat();
    host.place(&longest, &root.pem()).unwrap();
    let issued = host.open().issue(&order(LIFE)).unwrap();
    assert!(issued.chain.len() == 3 && verifies(&issued, &root));
}

#[test]
fn another_intermediate_of_the_same_root_takes_over_at_once_and_nobody_is_waited_for() {
    let root = Offline::new();
    let host = Host::under(&root);
    let authority = host.open();
    let before = authority.issue(&order(LIFE)).unwrap();
    let bundle = authority.trust().borrow().resource.version.clone();
    host.install(&authority, &root, false).unwrap();
    let after = authority.issue(&order(LIFE)).unwrap();
    assert_ne!(before.chain[1], after.chain[1], "another intermediate");
    assert!(verifies(&before, &root) && verifies(&after, &root));
    assert_eq!(authority.trust().borrow().resource.version, bundle, "nothing to distribute");
    assert_eq!(
        (authority.rotation().phase.name(), host.keys().len()),
        ("steady", 1),
        "the old key is deleted"
    );
    drop(authority);
    std::fs::copy(host.state(&host.keys()[0]), host.state("intermediate-00ff.key")).unwrap();
    assert_eq!(host.open().issue(&order(LIFE)).unwrap().chain[1], after.chain[1]);
    assert_eq!(host.keys().len(), 1, "what a crash left is deleted at the start");
}

#[test]
fn what_needs_the_roots_key_is_refused_under_an_offline_root() {
    let root = Offline::new();
    let host = Host::under(&root);
    let authority = host.open();
    let reason = || "a test".to_owned();
    let rotated = host.ask(&authority, &Request::Start { reason: reason() }).unwrap_err();
    assert!(rotated.contains("not on this machine"), "{rotated}");
    let tainted = host.ask(&authority, &Request::Taint { root: None, reason: reason() }).unwrap_err();
    assert!(tainted.contains("not on this machine"), "{tainted}");
    let same = host.install(&authority, &root, true).unwrap_err();
    assert!(same.contains("signed by another root"), "{same}");
    let elsewhere = Request::Install { file: "../root.key".to_owned(), taint: false, reason: reason() };
    assert!(host.ask(&authority, &elsewhere).is_err());
    // It is due by far, and still nothing begins by itself.
    authority.start_if_due(Duration::from_hours(24 * 365), Duration::from_hours(1)).unwrap();
    assert_eq!(authority.rotation().phase.name(), "steady");
    assert_eq!(host.keys(), ["intermediate.key"], "what was refused is not kept");
}

#[test]
fn an_intermediate_of_another_root_signs_once_nobody_relies_on_the_root_before() {
    let (root, host) = (Offline::new(), Host::new());
    let mut authority = host.open();
    let own = authority.issue(&order(LIFE)).unwrap();
    assert_eq!(own.chain.len(), 1, "of a root of its own");
    host.install(&authority, &root, false).unwrap();
    assert_eq!(authority.rotation().phase.name(), "prepare");
    assert!(!verifies(&authority.issue(&order(LIFE)).unwrap(), &root), "the old root signs");
    drop(authority);
    authority = host.open();
    let turn = |authority: &Authority, later: Duration| {
        let now_ms = clock::now_ms() + u64::try_from(later.as_millis()).unwrap();
        authority
            .turn(&[], Moment { now_ms, up: later, margin: Duration::from_secs(1) }, Duration::ZERO)
            .unwrap();
    };
    // Nobody comes: their certificates end.
    for times in 1..=3 {
        turn(&authority, LIFE * 2 * times);
    }
    let issued = authority.issue(&order(LIFE)).unwrap();
    assert!(verifies(&issued, &root) && issued.chain.len() == 2);
    assert_eq!(authority.rotation().phase.name(), "steady");
    assert!(host.keys().len() == 1 && !host.state("root.key").exists(), "the own root's key is deleted");
    drop(authority);
    assert!(verifies(&host.open().issue(&order(LIFE)).unwrap(), &root));
}
