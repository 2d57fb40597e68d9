use proptest::prelude::*;

use super::*;

fn refusal(text: &str) -> InvalidSpiffeId {
    SpiffeId::parse(text).expect_err(text)
}

#[test]
fn a_workload_id_is_read_into_its_parts() {
    let id = SpiffeId::parse("spiffe://shop.test/ns/shop/sa/payments").unwrap();
    assert_eq!(id.trust_domain(), "shop.test");
    assert_eq!(id.path(), "/ns/shop/sa/payments");
    assert_eq!(id.namespace(), Some("shop"));
    assert_eq!(id.service_account(), Some("payments"));
    assert_eq!(id.to_string(), "spiffe://shop.test/ns/shop/sa/payments");
}

#[test]
fn a_trust_domain_alone_is_an_id_without_a_path() {
    let id = SpiffeId::parse("spiffe://shop.test").unwrap();
    assert_eq!((id.trust_domain(), id.path()), ("shop.test", ""));
    assert_eq!((id.namespace(), id.service_account()), (None, None));
}

#[test]
fn every_character_of_the_standard_is_accepted() {
    SpiffeId::parse("spiffe://a-b_c.0/A.b-C_9/...").unwrap();
}

#[test]
fn only_the_exact_workload_path_has_a_namespace() {
    for path in
        ["/ns/shop", "/ns/shop/sa", "/ns/shop/sa/a/b", "/x/ns/shop/sa/a", "/NS/shop/sa/a", "/ns/shop/SA/a"]
    {
        let id = SpiffeId::parse(&format!("spiffe://shop.test{path}")).unwrap();
        assert_eq!((id.namespace(), id.service_account()), (None, None), "{path}");
    }
}

#[test]
fn ids_of_other_schemes_or_other_spellings_of_it_are_refused() {
    for text in [
        "",
        "shop.test/a",
        "https://shop.test/a",
        "SPIFFE://shop.test/a",
        "Spiffe://shop.test/a",
        "spiffe:/shop.test/a",
        " spiffe://shop.test/a",
    ] {
        assert_eq!(refusal(text), InvalidSpiffeId::Scheme, "{text:?}");
    }
}

#[test]
fn user_information_port_percent_upper_case_and_strangers_in_the_trust_domain_are_refused() {
    for text in [
        "spiffe://user@shop.test/a",
        "spiffe://shop.test:443/a",
        "spiffe://shop%2etest/a",
        "spiffe://Shop.test/a",
        "spiffe://shop.test?q/a",
        "spiffe://shop.test#f/a",
        "spiffe://[::1]/a",
        "spiffe://shop\0.test/a",
        "spiffe://shöp.test/a",
        "spiffe://shop.test\n/a",
        "spiffe://*.test/a",
        "spiffe://shop.test\\a",
    ] {
        assert_eq!(refusal(text), InvalidSpiffeId::TrustDomainCharacter, "{text:?}");
    }
    assert_eq!(refusal("spiffe://"), InvalidSpiffeId::EmptyTrustDomain);
    assert_eq!(refusal("spiffe:///a"), InvalidSpiffeId::EmptyTrustDomain);
}

#[test]
fn query_fragment_percent_and_strangers_in_the_path_are_refused() {
    for path in [
        "/a?q=1", "/a#f", "/a%2fb", "/%2e%2e", "/a b", "/a:b", "/a;b", "/a@b", "/a*", "/a\\b", "/a\0", "/ä",
        "/a\n",
    ] {
        assert_eq!(refusal(&format!("spiffe://shop.test{path}")), InvalidSpiffeId::PathCharacter, "{path:?}");
    }
}

#[test]
fn dot_segments_empty_segments_and_a_trailing_slash_are_refused() {
    for path in ["/.", "/..", "/a/./b", "/a/../b", "/a/.."] {
        assert_eq!(refusal(&format!("spiffe://shop.test{path}")), InvalidSpiffeId::DotSegment, "{path}");
    }
    for path in ["/", "//", "//a", "/a//b", "/a/"] {
        assert_eq!(refusal(&format!("spiffe://shop.test{path}")), InvalidSpiffeId::EmptySegment, "{path}");
    }
}

#[test]
fn an_id_may_have_2048_bytes_and_not_one_more() {
    let longest = format!("spiffe://shop.test/{}", "a".repeat(2048 - "spiffe://shop.test/".len()));
    assert_eq!(SpiffeId::parse(&longest).unwrap().as_str().len(), 2048);
    assert_eq!(refusal(&format!("{longest}a")), InvalidSpiffeId::TooLong);
}

#[test]
fn a_trust_domain_may_have_255_bytes_and_not_one_more() {
    let longest = "a".repeat(255);
    TrustDomain::parse(&longest).unwrap();
    SpiffeId::parse(&format!("spiffe://{longest}/a")).unwrap();
    assert_eq!(TrustDomain::parse(&format!("{longest}a")), Err(InvalidSpiffeId::LongTrustDomain));
    assert_eq!(refusal(&format!("spiffe://{longest}a/a")), InvalidSpiffeId::LongTrustDomain);
}

#[test]
fn a_trust_domain_is_a_bare_lower_case_name() {
    for text in ["", "Shop.test", "shop.test/", "spiffe://shop.test", "shop.test:1", "shop test"] {
        assert!(TrustDomain::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_namespace_cannot_smuggle_a_path_into_a_workload_id() {
    let td = TrustDomain::parse("shop.test").unwrap();
    for part in ["", ".", "..", "a/b", "shop/sa/admin", "a?b", "a%2fb"] {
        assert!(SpiffeId::for_workload(&td, part, "a").is_err(), "{part}");
        assert!(SpiffeId::for_workload(&td, "a", part).is_err(), "{part}");
    }
}

proptest! {
    #[test]
    fn what_is_composed_reads_back_the_same(
        td in "[a-z0-9._-]{1,60}", ns in "[a-zA-Z0-9_-]{1,30}", sa in "[a-zA-Z0-9_-]{1,30}",
    ) {
        let td = TrustDomain::parse(&td).unwrap();
        let id = SpiffeId::for_workload(&td, &ns, &sa).unwrap();
        prop_assert_eq!(id.trust_domain(), td.as_str());
        prop_assert_eq!(id.namespace(), Some(ns.as_str()));
        prop_assert_eq!(id.service_account(), Some(sa.as_str()));
        prop_assert_eq!(&SpiffeId::parse(id.as_str()).unwrap(), &id);
    }

    #[test]
    fn arbitrary_text_never_panics_and_what_is_accepted_is_kept_byte_for_byte(
        text in prop_oneof![".*", "spiffe://.*", "spiffe://[a-z.]{1,9}(/[a-zA-Z.%?#]{0,4}){0,5}"],
    ) {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.as_str(), text.as_str());
            prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
            prop_assert!(!id.path().split('/').any(|segment| matches!(segment, "." | "..")));
        }
    }
}
