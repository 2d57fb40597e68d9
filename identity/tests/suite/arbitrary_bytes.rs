//! Bytes that nobody meant as a certificate, and certificates that somebody bent.

use std::sync::LazyLock;

use proptest::prelude::*;
use sidegate_identity::{SvidLimits, TrustBundle, Usage, verify};

use crate::authority::{Authority, Issued, names, now};

const PAYMENTS: &str = "spiffe://shop.test/ns/shop/sa/payments";

static GOOD: LazyLock<(Authority, Issued)> = LazyLock::new(|| {
    let root = Authority::root("shop.test");
    let issued = root.intermediate_with(|_| {}).issue(PAYMENTS);
    (root, issued)
});

fn verifies(chain: &[Vec<u8>]) -> bool {
    let chain: Vec<_> = chain.iter().map(|der| der.as_slice().into()).collect();
    verify(&chain, Usage::Client, &GOOD.0.bundles(), &SvidLimits::default(), now()).is_ok()
}

fn good_chain() -> Vec<Vec<u8>> {
    GOOD.1.chain.iter().map(|der| der.to_vec()).collect()
}

#[test]
fn the_chain_that_is_bent_below_is_good_when_straight() {
    assert!(verifies(&good_chain()));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_never_verify(chain in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..4)) {
        prop_assert!(!verifies(&chain));
    }

    #[test]
    fn arbitrary_bytes_never_panic_as_a_bundle(der in prop::collection::vec(any::<u8>(), 0..300)) {
        let td = GOOD.0.trust_domain.clone();
        prop_assert!(TrustBundle::from_pem(td.clone(), &der).is_err());
        prop_assert!(TrustBundle::from_der(td, [der.into()]).is_err());
    }

    #[test]
    fn a_chain_with_any_byte_changed_never_panics_and_never_verifies(
        which in 0_usize..2, place in any::<prop::sample::Index>(), change in 1_u8..,
    ) {
        let mut chain = good_chain();
        let place = place.index(chain[which].len());
        chain[which][place] ^= change;
        prop_assert!(!verifies(&chain));
    }

    #[test]
    fn a_chain_cut_short_anywhere_never_panics_and_never_verifies(which in 0_usize..2, place in any::<prop::sample::Index>()) {
        let mut chain = good_chain();
        let place = place.index(chain[which].len());
        chain[which].truncate(place);
        prop_assert!(!verifies(&chain));
    }

    #[test]
    fn arbitrary_alternative_names_in_a_signed_leaf_never_panic_and_name_at_most_themselves(
        tag in prop_oneof![Just(0x86_u8), any::<u8>()], bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            "spiffe://shop.test(/[a-zA-Z.%?#]{0,4}){0,3}".prop_map(String::into_bytes),
        ],
    ) {
        let root = &GOOD.0;
        let issued = root.issue_with(PAYMENTS, |leaf| leaf.custom_extensions[0] = names(&[(tag, &bytes)]));
        let verdict = verify(&issued.chain, Usage::Client, &root.bundles(), &SvidLimits::default(), now());
        if let Ok(svid) = verdict {
            prop_assert_eq!(svid.id().as_str().as_bytes(), bytes.as_slice());
        }
    }
}
