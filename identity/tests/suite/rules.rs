//! The twenty rules of an X.509-SVID: each broken in a certificate of its own, with positive twins beside them.

use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use sidegate_codes::Code;
use sidegate_identity::{
    AuthorityFault, InvalidSpiffeId, Malformed, Quarantine, Refused, SvidError, SvidLimits, TrustBundle,
    TrustBundles, Usage, VerifiedSvid, serial, verify,
};

use crate::authority::{
    Authority, DNS, Issued, KEY_USAGE, NAME_CONSTRAINTS, SUBJECT_ALT_NAME, URI, earlier, extension, id,
    later, moment, names, now, tlv,
};

const PAYMENTS: &str = "spiffe://shop.test/ns/shop/sa/payments";

fn judge(issued: &Issued, bundles: &TrustBundles) -> Result<VerifiedSvid, SvidError> {
    let limits = SvidLimits::default();
    let client = verify(&issued.chain, Usage::Client, bundles, &limits, now());
    let server = verify(&issued.chain, Usage::Server, bundles, &limits, now());
    assert_eq!(client, server, "both directions obey the same rules");
    client
}

/// What is found wrong with a leaf that `change` was made to.
fn refusal(change: impl FnOnce(&mut CertificateParams)) -> SvidError {
    let root = Authority::root("shop.test");
    judge(&root.issue_with(PAYMENTS, change), &root.bundles()).expect_err("a rule is broken")
}

fn refusal_of_id(id: &str) -> SvidError {
    let root = Authority::root("shop.test");
    judge(&root.issue(id), &root.bundles()).expect_err("a rule is broken")
}

fn accepted(change: impl FnOnce(&mut CertificateParams)) -> VerifiedSvid {
    let root = Authority::root("shop.test");
    judge(&root.issue_with(PAYMENTS, change), &root.bundles()).expect("no rule is broken")
}

fn refusal_under(root: &Authority, intermediate: &Authority) -> SvidError {
    judge(&intermediate.issue(PAYMENTS), &root.bundles()).expect_err("a rule is broken")
}

/// The positive twin of every rule below.
#[test]
fn an_svid_in_good_order_is_accepted_and_says_whose_it_is() {
    let svid = accepted(|_| {});
    assert_eq!(svid.id(), &id(PAYMENTS));
    assert_eq!(svid.not_after().as_secs() - svid.not_before().as_secs(), 6 * 3600 + 60);
    assert_eq!(svid.serial().len(), 16);
    let issued = svid.issued_at().expect("the serial number says when");
    assert!(now().as_secs() - issued.as_secs() < 60);
}

/// Rule 1: path validation to an authority of the SVID's own trust domain.
#[test]
fn a_certificate_of_a_foreign_authority_is_refused() {
    let (ours, foreign) = (Authority::root("shop.test"), Authority::root("shop.test"));
    let error = judge(&foreign.issue(PAYMENTS), &ours.bundles()).unwrap_err();
    assert!(matches!(error, SvidError::Untrusted { .. }), "{error}");
    assert_eq!(error.code(), Code::UntrustedCertificate);
}

/// Rule 1: never a pooled store.
#[test]
fn an_authority_of_another_trusted_domain_does_not_vouch_for_ours() {
    let (ours, theirs) = (Authority::root("shop.test"), Authority::root("bank.test"));
    let bundles: TrustBundles = [ours.bundle(), theirs.bundle()].into_iter().collect();
    let error = judge(&theirs.issue(PAYMENTS), &bundles).unwrap_err();
    assert!(matches!(error, SvidError::Untrusted { .. }), "{error}");
    judge(&theirs.issue("spiffe://bank.test/teller"), &bundles).unwrap();
    judge(&ours.issue(PAYMENTS), &bundles).unwrap();
}

/// Rule 1: a trust domain without a bundle is not trusted, whoever signed.
#[test]
fn an_identity_of_an_unknown_trust_domain_is_refused() {
    let error = refusal_of_id("spiffe://other.test/ns/shop/sa/payments");
    assert_eq!(error, SvidError::UnknownTrustDomain(id("spiffe://other.test/ns/shop/sa/payments")));
    let root = Authority::root("shop.test");
    let error = judge(&root.issue(PAYMENTS), &TrustBundles::default()).unwrap_err();
    assert_eq!(error, SvidError::UnknownTrustDomain(id(PAYMENTS)));
}

/// Rule 1: a bundle without authorities revokes its trust domain.
#[test]
fn a_bundle_without_authorities_vouches_for_nobody() {
    let root = Authority::root("shop.test");
    let empty = TrustBundle::from_der(root.trust_domain.clone(), []).unwrap();
    let error = judge(&root.issue(PAYMENTS), &[empty].into_iter().collect()).unwrap_err();
    assert!(matches!(error, SvidError::Untrusted { .. }), "{error}");
}

/// Rule 2: exactly one URI name.
#[test]
fn two_uri_names_are_refused_whatever_their_schemes() {
    for second in ["spiffe://shop.test/ns/shop/sa/admin", PAYMENTS, "https://shop.test/"] {
        let error = refusal(|leaf| {
            leaf.custom_extensions[0] = names(&[(URI, PAYMENTS.as_bytes()), (URI, second.as_bytes())]);
        });
        assert_eq!(error, SvidError::UriNames(2), "{second}");
    }
}

/// Rule 3: a URI name must be present.
#[test]
fn a_certificate_without_a_uri_name_is_refused() {
    assert_eq!(refusal(|leaf| leaf.custom_extensions.clear()), SvidError::UriNames(0));
    let dns_only = refusal(|leaf| leaf.custom_extensions[0] = names(&[(DNS, b"payments.shop.test")]));
    assert_eq!(dns_only, SvidError::UriNames(0));
}

/// Rule 3: a name of another kind is not a URI, whatever it spells.
#[test]
fn a_dns_name_that_spells_a_spiffe_id_is_no_identity() {
    let error = refusal(|leaf| leaf.custom_extensions[0] = names(&[(DNS, PAYMENTS.as_bytes())]));
    assert_eq!(error, SvidError::UriNames(0));
}

/// Rule 3: the scheme is spiffe.
#[test]
fn a_uri_of_another_scheme_is_refused() {
    assert_eq!(refusal_of_id("https://shop.test/ns/shop/sa/payments"), InvalidSpiffeId::Scheme.into());
}

/// Rule 3, positive twin: names of other kinds may stand beside the one URI.
#[test]
fn a_dns_name_beside_the_uri_is_accepted() {
    let beside = names(&[(DNS, b"payments.shop.test"), (URI, PAYMENTS.as_bytes())]);
    accepted(|leaf| leaf.custom_extensions[0] = beside);
}

/// Rule 4: the ID of a leaf has a path.
#[test]
fn a_leaf_named_after_the_trust_domain_itself_is_refused() {
    assert_eq!(refusal_of_id("spiffe://shop.test"), SvidError::NoPath(id("spiffe://shop.test")));
}

/// Rule 5: the leaf is no CA.
#[test]
fn a_leaf_that_is_a_ca_is_refused() {
    let error = refusal(|leaf| leaf.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    assert_eq!(error, SvidError::LeafIsCa);
}

/// Rule 5, positive twin: absent basic constraints mean the same as `cA=false`.
#[test]
fn a_leaf_without_basic_constraints_is_accepted() {
    accepted(|leaf| leaf.is_ca = IsCa::NoCa);
}

/// Rule 6: a leaf may sign neither certificates nor CRLs.
#[test]
fn a_leaf_that_may_sign_certificates_or_crls_is_refused() {
    for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        let error = refusal(|leaf| leaf.key_usages.push(usage));
        assert_eq!(error, SvidError::LeafMaySign);
    }
}

/// Rule 7: key usage is present.
#[test]
fn a_leaf_without_key_usage_is_refused() {
    assert_eq!(refusal(|leaf| leaf.key_usages.clear()), SvidError::KeyUsage);
}

/// Rule 7: key usage is critical.
#[test]
fn a_leaf_whose_key_usage_is_not_critical_is_refused() {
    let error = refusal(|leaf| {
        leaf.key_usages.clear();
        leaf.custom_extensions.push(extension(KEY_USAGE, false, vec![0x03, 0x02, 0x07, 0x80]));
    });
    assert_eq!(error, SvidError::KeyUsage);
}

/// Rule 7: key usage includes digitalSignature.
#[test]
fn a_leaf_that_may_not_sign_handshakes_is_refused() {
    let error = refusal(|leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement]);
    assert_eq!(error, SvidError::KeyUsage);
}

/// Rule 8: extended key usage, if present, holds both.
#[test]
fn a_leaf_for_one_side_of_tls_only_is_refused_on_both_sides() {
    for only in [
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::Any,
    ] {
        assert_eq!(refusal(|leaf| leaf.extended_key_usages = vec![only]), SvidError::ExtendedKeyUsage);
    }
}

/// Rule 8, positive twin: extended key usage may be absent.
#[test]
fn a_leaf_without_extended_key_usage_is_accepted() {
    accepted(|leaf| leaf.extended_key_usages.clear());
}

/// Rule 9: no query, fragment, user information or port; a trust domain of the allowed characters.
#[test]
fn a_trust_domain_with_strange_characters_is_refused() {
    for uri in [
        "spiffe://shop.test:8443/a",
        "spiffe://root@shop.test/a",
        "spiffe://shop%2etest/a",
        "spiffe://shop.test?a/b",
        "spiffe://shop.test#a/b",
        "spiffe://*.test/a",
    ] {
        assert_eq!(refusal_of_id(uri), InvalidSpiffeId::TrustDomainCharacter.into(), "{uri}");
    }
    assert_eq!(refusal_of_id("spiffe:///a"), InvalidSpiffeId::EmptyTrustDomain.into());
    let long = format!("spiffe://{}/a", "a".repeat(256));
    assert_eq!(refusal_of_id(&long), InvalidSpiffeId::LongTrustDomain.into());
}

/// Rule 10: path segments of the allowed characters, none empty, none of dots.
#[test]
fn a_path_that_is_not_canonical_is_refused() {
    for (path, fault) in [
        ("/ns/a/../b", InvalidSpiffeId::DotSegment),
        ("/ns/./b", InvalidSpiffeId::DotSegment),
        ("/ns//b", InvalidSpiffeId::EmptySegment),
        ("/ns/b/", InvalidSpiffeId::EmptySegment),
        ("/", InvalidSpiffeId::EmptySegment),
        ("/ns/%2e/b", InvalidSpiffeId::PathCharacter),
        ("/ns/b?q", InvalidSpiffeId::PathCharacter),
        ("/ns/b#f", InvalidSpiffeId::PathCharacter),
    ] {
        assert_eq!(refusal_of_id(&format!("spiffe://shop.test{path}")), fault.into(), "{path}");
    }
}

/// Rule 11: at most 2048 bytes.
#[test]
fn an_id_of_2049_bytes_is_refused_and_one_of_2048_is_not() {
    let longest = format!("spiffe://shop.test/{}", "a".repeat(2048 - "spiffe://shop.test/".len()));
    let root = Authority::root("shop.test");
    judge(&root.issue(&longest), &root.bundles()).unwrap();
    assert_eq!(refusal_of_id(&format!("{longest}a")), InvalidSpiffeId::TooLong.into());
}

/// Rule 12: upper case in scheme or trust domain is refused rather than folded.
#[test]
fn upper_case_in_scheme_or_trust_domain_is_refused() {
    assert_eq!(refusal_of_id("SPIFFE://shop.test/a"), InvalidSpiffeId::Scheme.into());
    assert_eq!(refusal_of_id("spiffe://Shop.test/a"), InvalidSpiffeId::TrustDomainCharacter.into());
}

/// Rule 12: the path is case-sensitive.
#[test]
fn paths_that_differ_in_case_are_different_identities() {
    let root = Authority::root("shop.test");
    let shouted = judge(&root.issue("spiffe://shop.test/ns/shop/sa/Payments"), &root.bundles()).unwrap();
    assert_ne!(shouted.id(), &id(PAYMENTS));
}

/// Rule 13, positive twin, with and without a SPIFFE ID of its own.
#[test]
fn a_leaf_under_an_intermediate_in_good_order_is_accepted() {
    let root = Authority::root("shop.test");
    judge(&root.intermediate_with(|_| {}).issue(PAYMENTS), &root.bundles()).unwrap();
    let named =
        root.intermediate_with(|ca| ca.custom_extensions = vec![names(&[(URI, b"spiffe://shop.test")])]);
    judge(&named.issue(PAYMENTS), &root.bundles()).unwrap();
}

/// Rule 13: a signing certificate has `cA=true`.
#[test]
fn an_intermediate_that_is_no_ca_is_refused() {
    let root = Authority::root("shop.test");
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
        let error = refusal_under(&root, &root.intermediate_with(|ca| ca.is_ca = is_ca));
        assert!(matches!(error, SvidError::Untrusted { .. }), "{error}");
    }
}

/// Rule 13: a signing certificate has `keyCertSign`.
#[test]
fn an_intermediate_that_may_not_sign_certificates_is_refused() {
    let root = Authority::root("shop.test");
    for usages in [vec![], vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign]] {
        let error = refusal_under(&root, &root.intermediate_with(|ca| ca.key_usages = usages));
        assert_eq!(error, SvidError::Intermediate(AuthorityFault::NoCertSign));
    }
}

/// Rule 13: a signing certificate's SPIFFE ID has no path and is of the same trust domain.
#[test]
fn an_intermediate_with_a_workloads_or_a_foreign_name_is_refused() {
    let root = Authority::root("shop.test");
    for (uri, fault) in [
        (PAYMENTS, AuthorityFault::IdWithPath),
        ("spiffe://bank.test", AuthorityFault::OtherTrustDomain),
        ("https://shop.test", AuthorityFault::Id(InvalidSpiffeId::Scheme)),
    ] {
        let intermediate =
            root.intermediate_with(|ca| ca.custom_extensions = vec![names(&[(URI, uri.as_bytes())])]);
        assert_eq!(refusal_under(&root, &intermediate), SvidError::Intermediate(fault), "{uri}");
    }
}

/// Rule 14: a signing certificate is never a credential, trusted though it is.
#[test]
fn a_trusted_authority_cannot_present_its_own_certificate() {
    let root = Authority::root_with("shop.test", |ca| {
        ca.custom_extensions = vec![names(&[(URI, b"spiffe://shop.test")])];
    });
    let chain = [root.certificate.clone()];
    let error = verify(&chain, Usage::Client, &root.bundles(), &SvidLimits::default(), now()).unwrap_err();
    assert_eq!(error, SvidError::NoPath(id("spiffe://shop.test")));

    let root = Authority::root("shop.test");
    let intermediate =
        root.intermediate_with(|ca| ca.custom_extensions = vec![names(&[(URI, PAYMENTS.as_bytes())])]);
    let chain = [intermediate.certificate];
    let error = verify(&chain, Usage::Client, &root.bundles(), &SvidLimits::default(), now()).unwrap_err();
    assert_eq!(error, SvidError::LeafIsCa);
}

/// Rule 15: an expired anchor vouches for nobody; webpki alone would accept it.
#[test]
fn an_authority_that_has_expired_or_is_not_yet_valid_vouches_for_nobody() {
    let expired = Authority::root_with("shop.test", |ca| ca.not_after = moment(-1));
    let future = Authority::root_with("shop.test", |ca| ca.not_before = moment(60));
    for root in [expired, future] {
        let error = judge(&root.issue(PAYMENTS), &root.bundles()).unwrap_err();
        assert!(matches!(error, SvidError::Untrusted { .. }), "{error}");
    }
}

/// Rule 15, positive twin: an expired authority does not spoil the valid one beside it.
#[test]
fn a_valid_authority_counts_beside_an_expired_one() {
    let old = Authority::root_with("shop.test", |ca| ca.not_after = moment(-1));
    let new = Authority::root("shop.test");
    let both = [old.certificate.clone(), new.certificate.clone()];
    let bundles = [TrustBundle::from_der(new.trust_domain.clone(), both).unwrap()].into_iter().collect();
    judge(&new.issue(PAYMENTS), &bundles).unwrap();
    judge(&old.issue(PAYMENTS), &bundles).unwrap_err();
}

/// Rule 16: URI name constraints are not evaluated, so an authority that has one vouches for nobody.
#[test]
fn an_authority_with_a_uri_name_constraint_fails_closed() {
    let permitted = tlv(0x30, &tlv(0xa0, &tlv(0x30, &tlv(URI, b"shop.test"))));
    let root = Authority::root_with("shop.test", |ca| {
        ca.custom_extensions = vec![extension(NAME_CONSTRAINTS, true, permitted)];
    });
    let error = judge(&root.issue(PAYMENTS), &root.bundles()).unwrap_err();
    assert!(matches!(error, SvidError::Untrusted { .. }), "{error}");
}

/// Rule 17: with an empty subject the alternative names are critical.
#[test]
fn an_empty_subject_needs_critical_alternative_names() {
    let error = refusal(|leaf| leaf.distinguished_name = DistinguishedName::new());
    assert_eq!(error, SvidError::NamesNotCritical);
    accepted(|leaf| {
        leaf.distinguished_name = DistinguishedName::new();
        leaf.custom_extensions[0].set_criticality(true);
    });
}

/// Rule 18: a leaf lives for a bounded time.
#[test]
fn a_leaf_that_lives_longer_than_the_limit_is_refused() {
    let limit = SvidLimits::default().max_leaf_life;
    assert_eq!(limit, Duration::from_hours(25));
    // Both ends from one reading of the clock.
    let lasting = |seconds: i64| {
        move |leaf: &mut CertificateParams| {
            leaf.not_before = moment(-3600);
            leaf.not_after = leaf.not_before + time::Duration::seconds(seconds);
        }
    };
    accepted(lasting(25 * 3600));
    assert_eq!(refusal(lasting(25 * 3600 + 1)), SvidError::LifeTooLong(limit + Duration::from_secs(1)));
    let ten_years = refusal(lasting(10 * 365 * 24 * 3600));
    assert_eq!(ten_years.reason(), "life_too_long");
}

/// Rule 19: no tolerance for clocks; issuers backdate.
#[test]
fn a_leaf_counts_from_its_first_second_to_its_last_and_not_one_beside_them() {
    let root = Authority::root("shop.test");
    let (bundles, limits) = (root.bundles(), SvidLimits::default());
    let issued = root.issue(PAYMENTS);
    let at = |time| verify(&issued.chain, Usage::Client, &bundles, &limits, time);
    let svid = at(now()).unwrap();
    at(svid.not_before()).unwrap();
    at(svid.not_after()).unwrap();
    let early = earlier(svid.not_before(), 1);
    assert_eq!(at(early), Err(SvidError::NotValidNow));
    assert_eq!(at(later(svid.not_after(), 1)), Err(SvidError::NotValidNow));
    assert_eq!(SvidError::NotValidNow.code(), Code::CertificateNotValidNow);
}

/// Rule 19: what holds for the leaf holds for what lies between it and the anchor.
#[test]
fn an_expired_intermediate_is_refused() {
    let root = Authority::root("shop.test");
    let error = refusal_under(&root, &root.intermediate_with(|ca| ca.not_after = moment(-1)));
    assert_eq!(error, SvidError::NotValidNow);
}

/// Rule 20: a second URI that cannot be read is still a second URI.
#[test]
fn a_second_uri_hidden_behind_invalid_utf8_is_seen() {
    let error = refusal(|leaf| {
        leaf.custom_extensions[0] = names(&[(URI, PAYMENTS.as_bytes()), (URI, b"spiffe://shop.test/\xff")]);
    });
    assert_eq!(error, Malformed::Name.into());
}

/// Rule 20: a URI in the constructed form is one reader's URI and another's noise.
#[test]
fn a_second_uri_in_constructed_form_is_seen() {
    let error = refusal(|leaf| {
        leaf.custom_extensions[0] = names(&[(URI, PAYMENTS.as_bytes()), (URI | 0x20, PAYMENTS.as_bytes())]);
    });
    assert!(matches!(error, SvidError::Malformed(_) | SvidError::UriNames(2)), "{error}");
}

/// Rule 20: webpki and x509-parser read a lone URI in constructed form differently.
#[test]
fn a_certificate_that_the_two_parsers_read_differently_is_refused() {
    let error = refusal(|leaf| leaf.custom_extensions[0] = names(&[(URI | 0x20, PAYMENTS.as_bytes())]));
    assert_eq!(error, Malformed::Ambiguous.into());
}

/// Rule 20: names that cannot be read, or that no mesh certificate needs, are refused rather than skipped.
#[test]
fn alternative_names_that_cannot_be_read_are_refused() {
    let other_name = [tlv(0x06, &[0x2a, 0x03]), tlv(0xa0, &tlv(0x0c, b"root\0"))].concat();
    for stranger in [
        (0xa0, other_name.as_slice()),
        (0x89, b"?"),
        (0xa3, b""),
        (0xa5, b""),
        (0x82, b"\xff"),
        (0x16, b"shop.test"),
    ] {
        let error =
            refusal(|leaf| leaf.custom_extensions[0] = names(&[(URI, PAYMENTS.as_bytes()), stranger]));
        assert!(matches!(error, SvidError::Malformed(_)), "{stranger:?}: {error}");
    }
}

/// Rule 20: a NUL ends a name for one reader and not for another.
#[test]
fn a_nul_in_any_alternative_name_is_refused() {
    for names_with_nul in [
        names(&[(URI, b"spiffe://shop.test/ns/shop/sa/payments\0.evil")]),
        names(&[(URI, PAYMENTS.as_bytes()), (DNS, b"shop.test\0.evil")]),
    ] {
        let error = refusal(|leaf| leaf.custom_extensions[0] = names_with_nul);
        assert_eq!(error, Malformed::Name.into());
    }
}

/// Rule 20: nothing follows the certificate.
#[test]
fn bytes_after_the_certificate_are_refused() {
    let root = Authority::root("shop.test");
    let bent = root.issue(PAYMENTS).bent(|der| der.push(0));
    assert_eq!(judge(&bent, &root.bundles()), Err(Malformed::TrailingBytes.into()));
}

/// Rule 20: nothing follows the value inside an extension.
#[test]
fn bytes_after_the_names_within_their_extension_are_refused() {
    let second = tlv(0x30, &tlv(URI, b"spiffe://shop.test/ns/shop/sa/admin"));
    let error = refusal(|leaf| {
        let content = [leaf.custom_extensions[0].content(), &second].concat();
        leaf.custom_extensions[0] = extension(SUBJECT_ALT_NAME, false, content);
    });
    assert_eq!(error, Malformed::TrailingBytes.into());
}

/// Rule 20: one extension of a kind.
#[test]
fn an_extension_given_twice_is_refused() {
    let error = refusal(|leaf| {
        leaf.custom_extensions.push(names(&[(URI, b"spiffe://shop.test/ns/shop/sa/admin")]));
    });
    assert_eq!(error, Malformed::DuplicateExtension.into());
    let error = refusal(|leaf| {
        leaf.custom_extensions.push(extension(KEY_USAGE, true, vec![0x03, 0x02, 0x07, 0x80]));
    });
    assert_eq!(error, Malformed::DuplicateExtension.into());
}

/// Rule 20: an extension whose value is broken is not taken for an absent one.
#[test]
fn an_extension_that_cannot_be_read_is_refused() {
    let error = refusal(|leaf| {
        leaf.key_usages.clear();
        leaf.custom_extensions.push(extension(KEY_USAGE, true, tlv(0x04, b"?")));
    });
    assert_eq!(error, Malformed::Extension.into());
}

/// The limit on the number of certificates.
#[test]
fn a_chain_of_three_is_accepted_and_one_of_four_is_not() {
    let root = Authority::root("shop.test");
    let second = root.intermediate_with(|ca| rename(ca, "second"));
    let third = second.intermediate_with(|ca| rename(ca, "third"));
    judge(&third.issue(PAYMENTS), &root.bundles()).unwrap();
    let fourth = third.intermediate_with(|ca| rename(ca, "fourth"));
    assert_eq!(refusal_under(&root, &fourth), SvidError::ChainTooLong(4));
}

/// The limit on the bytes of a chain, which counts before anything is parsed.
#[test]
fn a_chain_of_more_than_16_kib_is_refused_unread() {
    let root = Authority::root("shop.test");
    let mut issued = root.issue(PAYMENTS);
    issued.chain.push(vec![0; 16 * 1024].into());
    assert!(matches!(judge(&issued, &root.bundles()), Err(SvidError::ChainTooLarge(_))));
}

/// Nothing presented is nothing proved.
#[test]
fn an_empty_chain_is_refused_as_no_certificate() {
    let error =
        verify(&[], Usage::Client, &TrustBundles::default(), &SvidLimits::default(), now()).unwrap_err();
    assert_eq!(error, SvidError::NoCertificate);
    assert_eq!(error.code(), Code::NoClientCertificate);
}

/// In quarantine every certificate of an identity is refused, and nobody else's.
#[test]
fn an_identity_in_quarantine_is_refused_although_its_certificate_is_in_order() {
    let root = Authority::root("shop.test");
    let issued = root.issue(PAYMENTS);
    let refusing = |name: &str| {
        let quarantine: Quarantine = [(id(name), Refused::All)].into_iter().collect();
        judge(&issued, &root.bundles().without(quarantine))
    };
    let error = refusing(PAYMENTS).unwrap_err();
    assert_eq!(error, SvidError::Quarantined(id(PAYMENTS)));
    assert_eq!(error.code(), Code::IdentityQuarantined);
    assert!(refusing("spiffe://shop.test/ns/shop/sa/payments2").is_ok());
    assert!(refusing("spiffe://other.test/ns/shop/sa/payments").is_ok());
}

/// A new epoch refuses what was issued before it, to the millisecond.
#[test]
fn certificates_of_before_an_epoch_are_refused_and_later_ones_are_not() {
    let root = Authority::root("shop.test");
    let issued = root.issue(PAYMENTS);
    let svid = judge(&issued, &root.bundles()).unwrap();
    let at = serial::issued_at_ms(svid.serial()).unwrap();
    let beginning = |epoch| {
        let quarantine: Quarantine = [(id(PAYMENTS), Refused::IssuedBefore(epoch))].into_iter().collect();
        judge(&issued, &root.bundles().without(quarantine))
    };
    assert!(beginning(at).is_ok());
    assert_eq!(beginning(at + 1), Err(SvidError::Quarantined(id(PAYMENTS))));
}

/// A serial number that says no time leaves the certificate's first second, which issuers date back.
#[test]
fn without_a_time_of_issue_the_first_second_counts() {
    let root = Authority::root("shop.test");
    let issued = root.issue_with(PAYMENTS, |leaf| leaf.serial_number = Some(vec![42].into()));
    let svid = judge(&issued, &root.bundles()).unwrap();
    let begins = svid.not_before().as_secs() * 1000;
    for (epoch, is_refused) in [(begins, false), (begins + 1, true)] {
        let quarantine: Quarantine = [(id(PAYMENTS), Refused::IssuedBefore(epoch))].into_iter().collect();
        assert_eq!(judge(&issued, &root.bundles().without(quarantine)).is_err(), is_refused);
    }
}

#[test]
fn of_two_entries_for_one_identity_the_stricter_stands() {
    let of =
        |entries: &[Refused]| entries.iter().map(|refused| (id(PAYMENTS), *refused)).collect::<Quarantine>();
    let (early, late) = (Refused::IssuedBefore(1), Refused::IssuedBefore(2));
    for (entries, want) in [
        ([early, late], late),
        ([late, early], late),
        ([Refused::All, late], Refused::All),
        ([late, Refused::All], Refused::All),
    ] {
        assert_eq!(of(&entries).iter().collect::<Vec<_>>(), [(&id(PAYMENTS), want)]);
    }
}

/// A serial number of a foreign format is never read as a time.
#[test]
fn a_foreign_serial_number_says_no_time_of_issue() {
    let by_chance = accepted(|leaf| leaf.serial_number = Some(vec![1; 16].into()));
    assert_eq!(by_chance.issued_at(), None);
    let counter = accepted(|leaf| leaf.serial_number = Some(vec![42].into()));
    assert_eq!(counter.issued_at(), None);
}

fn rename(params: &mut CertificateParams, name: &str) {
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
}
