use std::{fs, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
use serde_json::json;

use super::*;

fn partner() -> TrustDomain {
    TrustDomain::parse("partner.test").unwrap()
}

/// A root of this trust domain, or a leaf that says so.
fn certificate(trust_domain: &str, is_ca: IsCa) -> rcgen::Certificate {
    let mut params = CertificateParams::default();
    params.is_ca = is_ca;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into().unwrap())];
    params.self_signed(&KeyPair::generate().unwrap()).unwrap()
}

fn root(trust_domain: &str) -> rcgen::Certificate {
    certificate(trust_domain, IsCa::Ca(BasicConstraints::Unconstrained))
}

fn of_file(path: std::path::PathBuf) -> Federated {
    Federated { trust_domain: partner(), source: BundleSource::File(path) }
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn load(&self, text: &str, before: &[Foreign]) -> (Vec<Foreign>, Vec<Problem>) {
        let path = self.0.path().join("partner.bundle");
        fs::write(&path, text).unwrap();
        ForeignFiles::read(&[of_file(path)]).load(before)
    }

    fn refused(&self, text: &str) -> String {
        let (loaded, problems) = self.load(text, &[]);
        assert!(loaded.is_empty() && problems.len() == 1, "{text}: {problems:?}");
        problems[0].to_string()
    }
}

#[test]
fn what_is_published_is_read_back_as_the_same_bundle() {
    let roots = [root("partner.test"), root("partner.test")];
    let bundle = TrustBundle::from_der(partner(), roots.map(|root| root.der().clone())).unwrap();
    let text = document::written(&bundle, 7, Duration::from_secs(9)).unwrap().to_string();
    assert_eq!(parse(&partner(), &text).unwrap(), bundle);
}

#[test]
fn pem_and_json_make_the_same_bundle() {
    let (scratch, root) = (Scratch::new(), root("partner.test"));
    let bundle = TrustBundle::from_der(partner(), [root.der().clone()]).unwrap();
    let (pem, _) = scratch.load(&root.pem(), &[]);
    let (json, _) =
        scratch.load(&document::written(&bundle, 7, Duration::from_secs(9)).unwrap().to_string(), &[]);
    assert_eq!(pem[0].resource, json[0].resource);
    assert_eq!(pem[0].resource.name, "bundle/partner.test");
}

#[test]
fn keys_of_other_uses_are_left_alone_and_no_keys_at_all_trust_nobody() {
    let text =
        json!({"keys": [{"use": "jwt-svid", "kty": "EC", "kid": "1"}, {"kty": "new"}], "spiffe_sequence": 7});
    assert_eq!(parse(&partner(), &text.to_string()).unwrap().authorities().len(), 0);
    assert_eq!(parse(&partner(), r#"{"keys": []}"#).unwrap().authorities().len(), 0);
}

#[test]
fn a_leaf_a_root_of_ours_and_what_is_no_bundle_are_refused_whole() {
    let scratch = Scratch::new();
    let good = root("partner.test").pem();
    let leaf = certificate("partner.test", IsCa::ExplicitNoCa).pem();
    for (text, why) in [
        (format!("{good}{leaf}"), "certificate 2"),
        (root("shop.test").pem(), "SG0313"),
        (format!("{good}{}", KeyPair::generate().unwrap().serialize_pem()), "SG0313"),
        (String::new(), "SG0313"),
        ("{}".to_owned(), "keys"),
        (r#"{"keys": [{"use": "x509-svid"}]}"#.to_owned(), "keys[0].x5c"),
        (r#"{"keys": [{"use": "x509-svid", "x5c": ["AA", "AA"]}]}"#.to_owned(), "not one"),
        (r#"{"keys": [{"use": "x509-svid", "x5c": ["%"]}]}"#.to_owned(), "keys[0].x5c[0]"),
    ] {
        let told = scratch.refused(&text);
        assert!(told.contains(why), "{why} in {told}");
    }
}

#[test]
fn a_file_that_breaks_or_is_gone_leaves_the_last_good_bundle_in_force() {
    let scratch = Scratch::new();
    let (good, _) = scratch.load(&root("partner.test").pem(), &[]);
    let (kept, problems) = scratch.load("broken", &good);
    assert_eq!(kept[0].resource, good[0].resource);
    assert_eq!(problems[0].code, Code::BadCredentials);
    let gone = of_file(scratch.0.path().join("gone"));
    let (kept, problems) = ForeignFiles::read(&[gone]).load(&good);
    assert_eq!(kept[0].resource, good[0].resource);
    assert_eq!(problems[0].code, Code::ConfigUnreadable);
}

#[test]
fn a_trust_domain_that_is_not_named_any_more_is_trusted_no_longer() {
    let scratch = Scratch::new();
    let (good, _) = scratch.load(&root("partner.test").pem(), &[]);
    assert!(ForeignFiles::read(&[]).load(&good).0.is_empty());
}

/// A document of an endpoint.
fn told(roots: &[&rcgen::Certificate], sequence: Option<u64>) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let keys: Vec<_> = roots
        .iter()
        .map(|root| json!({"kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(root.der())]}))
        .collect();
    json!({"keys": keys, "spiffe_sequence": sequence}).to_string()
}

#[test]
fn a_bundle_is_replaced_by_a_later_one_and_by_no_other() {
    let (old, new) = (root("partner.test"), root("partner.test"));
    let take = |held: &Held, text: String| held.take(&partner(), text).map(|(held, _)| held);
    let held = take(&Held::default(), told(&[&old], Some(7))).unwrap();
    for (why, text) in [
        ("smaller than 7", told(&[&new], Some(6))),
        ("the same spiffe_sequence 7", told(&[&new], Some(7))),
        ("no spiffe_sequence any more", told(&[&new], None)),
        ("another trust domain", told(&[&root("shop.test")], Some(8))),
        ("another trust domain", told(&[&new, &root("other.test")], Some(8))),
        ("not a CA", told(&[&certificate("partner.test", IsCa::ExplicitNoCa)], Some(8))),
        ("expected value", "<html>".to_owned()),
    ] {
        let refused = take(&held, text).unwrap_err();
        assert!(refused.contains(why), "{why}: {refused}");
    }
    assert_eq!(take(&held, told(&[&old], Some(7))).unwrap(), held, "the same again is no news");
    let next = take(&held, told(&[&old, &new], Some(8))).unwrap();
    assert_ne!(next, held);
    assert!(take(&next, told(&[], Some(9))).is_ok(), "nobody is trusted any more: that is theirs to say");
}

#[test]
fn a_new_root_is_published_for_five_times_as_long_as_partners_may_wait_before_they_look_again() {
    let bundle = TrustBundle::from_der(partner(), [root("partner.test").der().clone()]).unwrap();
    let life = Duration::from_hours(6);
    assert_eq!(lead(life), Duration::from_mins(25));
    let text = document::written(&bundle, 7, lead(life) / 5).unwrap().to_string();
    assert_eq!(document::parse(&text).unwrap().refresh_hint() * 5, lead(life));
}
