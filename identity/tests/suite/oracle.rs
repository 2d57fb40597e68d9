//! Our verification beside that of the `spiffe` crate, whose authors are others. It judges an SVID and its signing
//! certificates and leaves paths, times and trust domains to its caller, so the promise is one way: what it refuses is
//! refused here. Where the two differ is written down, case by case.

use proptest::prelude::*;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use sidegate_identity::{SpiffeId, SvidLimits, Usage, verify};
use spiffe::X509Svid;

use crate::authority::{Authority, Issued, KEY_USAGE, URI, extension, moment, names, now};

const PAYMENTS: &str = "spiffe://shop.test/ns/shop/sa/payments";

/// What becomes of a certificate in the two hands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Accepted,
    Refused,
    /// By the rules that the other leaves to its caller, or does not have.
    RefusedHereAlone,
    /// RFC 5280 says that absent basic constraints are those of no CA; the other asks for them.
    RefusedThereAlone,
}

type Change = fn(&mut CertificateParams);

/// Changes of a leaf, and what comes of each alone.
const LEAVES: [(&str, Fate, Change); 18] = [
    ("in good order", Fate::Accepted, |_| {}),
    ("two URI names", Fate::Refused, |leaf| uris(leaf, &[PAYMENTS, "spiffe://shop.test/ns/shop/sa/admin"])),
    ("a URI name of each kind", Fate::Refused, |leaf| uris(leaf, &[PAYMENTS, "https://shop.test/"])),
    ("no names", Fate::Refused, |leaf| leaf.custom_extensions.clear()),
    ("a web address", Fate::Refused, |leaf| uris(leaf, &["https://shop.test/payments"])),
    ("a trust domain's name", Fate::Refused, |leaf| uris(leaf, &["spiffe://shop.test"])),
    ("dot segments", Fate::Refused, |leaf| uris(leaf, &["spiffe://shop.test/ns/../sa"])),
    ("percent-encoding", Fate::Refused, |leaf| uris(leaf, &["spiffe://shop.test/ns/%2e/sa"])),
    ("a CA", Fate::Refused, |leaf| leaf.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
    ("no basic constraints", Fate::RefusedThereAlone, |leaf| leaf.is_ca = IsCa::NoCa),
    ("signs certificates", Fate::Refused, |leaf| leaf.key_usages.push(KeyUsagePurpose::KeyCertSign)),
    ("signs lists", Fate::Refused, |leaf| leaf.key_usages.push(KeyUsagePurpose::CrlSign)),
    ("signs no handshakes", Fate::Refused, |leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
    ("no key usage", Fate::Refused, |leaf| leaf.key_usages.clear()),
    ("a key usage that is not critical", Fate::RefusedHereAlone, |leaf| {
        leaf.key_usages.clear();
        leaf.custom_extensions.push(extension(KEY_USAGE, false, vec![0x03, 0x02, 0x07, 0x80]));
    }),
    ("for servers alone", Fate::RefusedHereAlone, |leaf| {
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    }),
    ("ten years", Fate::RefusedHereAlone, |leaf| leaf.not_after = moment(10 * 365 * 24 * 3600)),
    ("expired", Fate::RefusedHereAlone, |leaf| leaf.not_after = moment(-1)),
];

/// The same of an intermediate.
const SIGNERS: [(&str, Fate, Change); 5] = [
    ("in good order", Fate::Accepted, |_| {}),
    ("no CA", Fate::Refused, |ca| ca.is_ca = IsCa::ExplicitNoCa),
    ("without the word CA", Fate::Refused, |ca| ca.is_ca = IsCa::NoCa),
    ("signs no certificates", Fate::Refused, |ca| ca.key_usages = vec![KeyUsagePurpose::CrlSign]),
    ("of another trust domain", Fate::RefusedHereAlone, |ca| uris(ca, &["spiffe://bank.test"])),
];

fn uris(params: &mut CertificateParams, uris: &[&str]) {
    let uris: Vec<_> = uris.iter().map(|uri| (URI, uri.as_bytes())).collect();
    params.custom_extensions.clear();
    params.custom_extensions.push(names(&uris));
}

fn accepted_here(issued: &Issued, root: &Authority) -> bool {
    verify(&issued.chain, Usage::Client, &root.bundles(), &SvidLimits::default(), now()).is_ok()
}

fn accepted_there(issued: &Issued) -> bool {
    let chain: Vec<u8> = issued.chain.iter().flat_map(AsRef::as_ref).copied().collect();
    X509Svid::parse_from_der(&chain, issued.key().secret_der()).is_ok()
}

fn fate(issued: &Issued, root: &Authority) -> Fate {
    match (accepted_here(issued, root), accepted_there(issued)) {
        (true, true) => Fate::Accepted,
        (false, false) => Fate::Refused,
        (false, true) => Fate::RefusedHereAlone,
        (true, false) => Fate::RefusedThereAlone,
    }
}

#[test]
fn each_broken_rule_has_the_fate_that_is_written_down() {
    let root = Authority::root("shop.test");
    for (case, want, change) in LEAVES {
        assert_eq!(fate(&root.issue_with(PAYMENTS, change), &root), want, "{case}");
    }
    for (case, want, change) in SIGNERS {
        assert_eq!(fate(&root.intermediate_with(change).issue(PAYMENTS), &root), want, "signer: {case}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Rules that are broken together: one must not hide another.
    #[test]
    fn what_the_spiffe_crate_refuses_is_refused_here(
        leaf in proptest::sample::subsequence((0..LEAVES.len()).collect::<Vec<_>>(), 0..4),
        signer in 0..SIGNERS.len(),
        is_under_signer in any::<bool>(),
    ) {
        let root = Authority::root("shop.test");
        let intermediate = root.intermediate_with(SIGNERS[signer].2);
        let issuer = if is_under_signer { &intermediate } else { &root };
        let issued = issuer.issue_with(PAYMENTS, |params| {
            for change in &leaf {
                LEAVES[*change].2(params);
            }
        });
        let may_differ = leaf.iter().any(|change| LEAVES[*change].1 == Fate::RefusedThereAlone);
        prop_assert!(may_differ || !accepted_here(&issued, &root) || accepted_there(&issued));
    }

    /// Texts near the edge of the grammar.
    #[test]
    fn a_text_is_a_spiffe_id_for_both_or_for_neither(
        text in "(spiffe://|spiffe:/|https://)[a-z0-9._%:@-]{0,6}(/[a-zA-Z0-9._%~?#-]{0,4}){0,3}"
    ) {
        let (here, there) = (SpiffeId::parse(&text), spiffe::SpiffeId::new(&text));
        let trust_domain = text.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next());
        if trust_domain.is_some_and(|name| name.bytes().any(|byte| byte.is_ascii_uppercase())) {
            // The crate makes it lower case. Its letters are lower case (SPIFFE-ID §2.1), and two spellings of one ID help nobody.
            prop_assert!(here.is_err(), "{text}: {here:?}");
            return Ok(());
        }
        prop_assert_eq!(here.is_ok(), there.is_ok(), "{}: {:?} {:?}", text, here, there);
    }
}
