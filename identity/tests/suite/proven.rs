//! A path that was validated once is not validated again, and nothing is trusted for it that would not be without.

use std::time::Duration;

use proptest::{prelude::*, test_runner::Config};
use rustls_pki_types::UnixTime;
use sidegate_identity::{
    Quarantine, Refused, SvidError, SvidLimits, TrustBundles, Usage, VerifiedSvid, verify,
};

use crate::authority::{Authority, Issued, earlier, id, later, moment, now};

const PAYMENTS: &str = "spiffe://shop.test/ns/shop/sa/payments";

fn judge(issued: &Issued, bundles: &TrustBundles, at: UnixTime) -> Result<VerifiedSvid, SvidError> {
    verify(&issued.chain, Usage::Client, bundles, &SvidLimits::default(), at)
}

#[test]
fn a_path_that_was_validated_ends_with_its_intermediate() {
    let root = Authority::root("shop.test");
    let intermediate = root.intermediate_with(|ca| ca.not_after = moment(600));
    let (svid, bundles) = (intermediate.issue(PAYMENTS), root.bundles());
    judge(&svid, &bundles, now()).expect("it is valid");
    judge(&svid, &bundles, later(now(), 500)).expect("and still is");
    let refused = judge(&svid, &bundles, later(now(), 700)).expect_err("its signer has ended");
    assert_eq!(refused, SvidError::NotValidNow);
}

#[test]
fn a_path_that_was_validated_ends_with_its_root() {
    let root = Authority::root_with("shop.test", |ca| ca.not_after = moment(600));
    let (svid, bundles) = (root.issue(PAYMENTS), root.bundles());
    judge(&svid, &bundles, now()).expect("it is valid");
    let refused = judge(&svid, &bundles, later(now(), 700)).expect_err("its root has ended");
    assert!(matches!(refused, SvidError::Untrusted { .. }), "{refused:?}");
}

#[test]
fn what_one_bundle_vouched_for_is_nothing_to_another() {
    let (old, new) = (Authority::root("shop.test"), Authority::root("shop.test"));
    let svid = old.issue(PAYMENTS);
    judge(&svid, &old.bundles(), now()).expect("it is valid");
    let refused = judge(&svid, &new.bundles(), now()).expect_err("its root has left");
    assert!(matches!(refused, SvidError::Untrusted { .. }), "{refused:?}");
}

#[test]
fn an_identity_that_was_accepted_is_refused_once_it_is_in_quarantine() {
    let root = Authority::root("shop.test");
    let (svid, bundles) = (root.issue(PAYMENTS), root.bundles());
    judge(&svid, &bundles, now()).expect("it is valid");
    let quarantine: Quarantine = [(id(PAYMENTS), Refused::All)].into_iter().collect();
    let refused = judge(&svid, &bundles.without(quarantine), now()).expect_err("it is in quarantine");
    assert_eq!(refused, SvidError::Quarantined(id(PAYMENTS)));
}

#[test]
fn a_leaf_that_was_accepted_is_refused_when_one_bit_of_it_differs() {
    let root = Authority::root("shop.test");
    let (svid, bundles) = (root.issue(PAYMENTS), root.bundles());
    judge(&svid, &bundles, now()).expect("it is valid");
    let bent = svid.bent(|der| *der.last_mut().expect("a signature") ^= 1);
    judge(&bent, &bundles, now()).expect_err("its signature is no signature");
}

#[test]
fn bounds_hold_for_what_was_accepted_without_them() {
    let root = Authority::root("shop.test");
    let (svid, bundles) = (root.issue(PAYMENTS), root.bundles());
    judge(&svid, &bundles, now()).expect("it is valid");
    let limits = SvidLimits { max_leaf_life: Duration::from_mins(1), ..SvidLimits::default() };
    let refused =
        verify(&svid.chain, Usage::Client, &bundles, &limits, now()).expect_err("it lives too long");
    assert!(matches!(refused, SvidError::LifeTooLong(_)), "{refused:?}");
}

proptest! {
    #![proptest_config(Config::with_cases(32))]

    /// Whatever was asked of a bundle before: the answer is that of a bundle that was asked nothing.
    #[test]
    fn a_bundle_answers_as_if_it_had_never_been_asked(
        ends in prop::array::uniform3(-300_i64..900),
        asked in prop::collection::vec((0..3_usize, -400_i64..1000, any::<bool>()), 1..24),
    ) {
        let root = Authority::root_with("shop.test", |ca| ca.not_after = moment(ends[0]));
        let intermediate = root.intermediate_with(|ca| ca.not_after = moment(ends[1]));
        let foreign = Authority::root("shop.test");
        let leaves = [
            root.issue(PAYMENTS),
            intermediate.issue_with(PAYMENTS, |leaf| leaf.not_after = moment(ends[2])),
            foreign.issue(PAYMENTS),
        ];
        let bundles = root.bundles();
        for (leaf, offset, as_client) in asked {
            let usage = if as_client { Usage::Client } else { Usage::Server };
            let at = match u64::try_from(offset) {
                Ok(ahead) => later(now(), ahead),
                Err(_) => earlier(now(), offset.unsigned_abs()),
            };
            let ask = |bundles| verify(&leaves[leaf].chain, usage, bundles, &SvidLimits::default(), at);
            prop_assert_eq!(ask(&bundles), ask(&root.bundles()));
        }
    }
}
