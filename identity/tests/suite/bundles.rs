//! Trust bundles: what may enter one, and that they stay apart.

use rcgen::{IsCa, KeyUsagePurpose};
use sidegate_identity::{
    AuthorityFault, BundleError, InvalidSpiffeId, MAX_AUTHORITIES, Malformed, TrustBundle, TrustBundles,
    TrustDomain,
};

use crate::authority::{Authority, URI, names};

fn fault_of(root: &Authority) -> AuthorityFault {
    match TrustBundle::from_der(root.trust_domain.clone(), [root.certificate.clone()]) {
        Err(BundleError::Authority { position: 1, fault, .. }) => fault,
        other => panic!("expected a refused authority, got {other:?}"),
    }
}

fn named(uri: &str) -> Authority {
    Authority::root_with("shop.test", |ca| {
        ca.custom_extensions = vec![names(&[(URI, uri.as_bytes())])];
    })
}

fn pem(kind: &str, der: &[u8]) -> String {
    let base64 = {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in der.chunks(3) {
            let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - chunk.len()));
            for position in 0..4 {
                let letter = alphabet[usize::try_from(bits >> (18 - 6 * position) & 63).unwrap()];
                text.push(if position <= chunk.len() { char::from(letter) } else { '=' });
            }
        }
        text
    };
    format!("-----BEGIN {kind}-----\n{base64}\n-----END {kind}-----\n")
}

#[test]
fn a_bundle_holds_its_authorities_and_their_expiries() {
    let (one, two) = (Authority::root("shop.test"), Authority::root("shop.test"));
    let text = pem("CERTIFICATE", &one.certificate) + &pem("CERTIFICATE", &two.certificate);
    let bundle = TrustBundle::from_pem(one.trust_domain.clone(), text.as_bytes()).unwrap();
    assert_eq!(bundle.authorities(), [one.certificate, two.certificate]);
    assert_eq!(bundle.trust_domain().as_str(), "shop.test");
    assert!(bundle.earliest_expiry() <= bundle.latest_expiry());
}

/// Rule 13, for anchors.
#[test]
fn a_certificate_that_may_not_sign_cannot_enter_a_bundle() {
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
        assert_eq!(
            fault_of(&Authority::root_with("shop.test", |ca| ca.is_ca = is_ca)),
            AuthorityFault::NotCa
        );
    }
    for usages in [vec![], vec![KeyUsagePurpose::CrlSign]] {
        let root = Authority::root_with("shop.test", |ca| ca.key_usages = usages);
        assert_eq!(fault_of(&root), AuthorityFault::NoCertSign);
    }
}

/// Rule 13, for anchors that carry a SPIFFE ID.
#[test]
fn an_authority_with_a_workloads_or_a_foreign_name_cannot_enter_a_bundle() {
    assert_eq!(fault_of(&named("spiffe://shop.test/ca")), AuthorityFault::IdWithPath);
    assert_eq!(fault_of(&named("spiffe://bank.test")), AuthorityFault::OtherTrustDomain);
    assert_eq!(fault_of(&named("https://shop.test")), AuthorityFault::Id(InvalidSpiffeId::Scheme));
    let twice = Authority::root_with("shop.test", |ca| {
        ca.custom_extensions = vec![names(&[(URI, b"spiffe://shop.test"), (URI, b"spiffe://bank.test")])];
    });
    assert_eq!(fault_of(&twice), AuthorityFault::SeveralIds);
    named("spiffe://shop.test").bundle();
}

#[test]
fn one_bad_certificate_refuses_the_whole_bundle() {
    let good = Authority::root("shop.test");
    let error =
        TrustBundle::from_der(good.trust_domain.clone(), [good.certificate.clone(), vec![0x30, 0].into()])
            .unwrap_err();
    let BundleError::Authority { position, fault, .. } = &error else { panic!("{error}") };
    assert_eq!((*position, *fault), (2, AuthorityFault::Malformed(Malformed::Der)));
}

#[test]
fn a_bundle_text_without_certificates_or_with_other_things_is_refused() {
    let root = Authority::root("shop.test");
    let read = |text: &str| TrustBundle::from_pem(root.trust_domain.clone(), text.as_bytes());
    assert_eq!(read(""), Err(BundleError::Empty));
    assert_eq!(read("certificates follow"), Err(BundleError::Empty));
    let with_key = pem("CERTIFICATE", &root.certificate) + &pem("PRIVATE KEY", root.own_key().secret_der());
    assert_eq!(read(&with_key), Err(BundleError::NotACertificate));
    let whole = pem("CERTIFICATE", &root.certificate);
    assert!(matches!(read(&whole[..whole.len() - 40]), Err(BundleError::Pem(_))), "a file cut short");
}

#[test]
fn a_bundle_over_its_limit_is_refused() {
    let root = Authority::root("shop.test");
    let many = |count| {
        TrustBundle::from_der(root.trust_domain.clone(), std::iter::repeat_n(root.certificate.clone(), count))
    };
    many(MAX_AUTHORITIES).unwrap();
    assert_eq!(many(MAX_AUTHORITIES + 1), Err(BundleError::TooMany));
}

#[test]
fn bundles_of_one_trust_domain_replace_each_other_and_never_merge() {
    let (old, new) = (Authority::root("shop.test"), Authority::root("shop.test"));
    let bundles: TrustBundles = [old.bundle(), new.bundle()].into_iter().collect();
    assert_eq!(bundles, new.bundles());
    let mut inserted = old.bundles();
    assert_eq!(inserted.insert(new.bundle()), Some(old.bundle()));
    assert_eq!(inserted, bundles);
    assert_eq!(bundles.iter().count(), 1);
    assert_eq!(bundles.get("bank.test"), None);
    assert_eq!(
        bundles.get("shop.test").map(TrustBundle::trust_domain),
        Some(&TrustDomain::parse("shop.test").unwrap())
    );
}
