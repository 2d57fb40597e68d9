//! What callers and clocks get wrong: told by a code and on record; nothing is issued, and nothing is lost. `registry.rs`
//! has the disk and the damage.

use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P521_SHA512};
use rustls_pki_types::{CertificateDer, UnixTime};
use sidegate_codes::Code;
use sidegate_identity::{SvidLimits, Usage, verify};

use crate::{
    mesh::{Mesh, mesh_yaml},
    sidecar::{Key, issue},
};

const PAYMENTS: &str = "spiffe://shop.test/ns/shop/sa/payments";

fn unsigned() -> Vec<u8> {
    let mut csr = Key::new().csr;
    *csr.last_mut().unwrap() ^= 1;
    csr
}

/// 100 KB of names, all of them nobody's business.
fn wordy() -> Vec<u8> {
    let names: Vec<_> = (0..5_000).map(|number| format!("name-{number}.shop.test")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let csr = Key::asking_for(&names).csr;
    assert!(csr.len() > 100_000, "{}", csr.len());
    csr
}

fn of_another_curve() -> Vec<u8> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
    CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
}

#[tokio::test]
async fn each_wrong_request_is_told_and_recorded_and_brings_nothing() {
    let mesh = Mesh::started().await;
    let (_, good) = mesh.token(PAYMENTS, Some(1));
    let expired = mesh.expired_token(PAYMENTS);
    let (revoked, revoked_secret) = mesh.token(PAYMENTS, None);
    mesh.revoke(&revoked);
    let (_, used) = mesh.token(PAYMENTS, Some(1));
    issue(&mesh, None, Key::new().csr, used.as_str()).await.unwrap();
    let wrong = [
        ("", Key::new().csr, "SG0306", "nothing_presented"),
        ("no-token", Key::new().csr, "SG0306", "unknown_token"),
        (expired.as_str(), Key::new().csr, "SG0351", "token_expired"),
        (revoked_secret.as_str(), Key::new().csr, "SG0351", "token_revoked"),
        (used.as_str(), Key::new().csr, "SG0351", "token_used_up"),
        (good.as_str(), unsigned(), "SG0306", "bad_request"),
        (good.as_str(), wordy(), "SG0306", "bad_request"),
        (good.as_str(), of_another_curve(), "SG0306", "bad_request"),
        (good.as_str(), Vec::new(), "SG0306", "bad_request"),
        (good.as_str(), b"-----BEGIN CERTIFICATE REQUEST-----".to_vec(), "SG0306", "bad_request"),
    ];
    let expected: Vec<_> = wrong.iter().map(|(.., code, reason)| (*code, *reason)).collect();
    for (token, csr, code, reason) in wrong {
        let refusal = issue(&mesh, None, csr, token).await.unwrap_err();
        assert!(refusal.message().starts_with(code), "{reason}: {refusal}");
    }
    let (issued, refused) = mesh.records();
    assert_eq!(issued.iter().filter(|issued| issued.attestor == "join-token").count(), 1, "the one before");
    let refused: Vec<_> =
        refused.iter().map(|refused| (refused.code.as_str(), refused.reason.as_str())).collect();
    assert_eq!(refused, expected);
    issue(&mesh, None, Key::new().csr, good.as_str()).await.unwrap();
}

#[tokio::test]
async fn a_clock_that_is_two_hours_off_is_told_from_a_bad_certificate() {
    let mut mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh_yaml("1h"));
    mesh.start().await.unwrap();
    let response = issue(&mesh, None, Key::new().csr, "payments").await.unwrap();
    let chain: Vec<_> = response.certificate_chain.into_iter().map(CertificateDer::from).collect();
    let now = UnixTime::now().as_secs();
    let judged = |seconds| {
        let moment = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        verify(&chain, Usage::Client, &mesh.trust(), &SvidLimits::default(), moment)
    };
    for off in [now - 7_200, now + 7_200] {
        assert_eq!(judged(off).unwrap_err().code(), Code::CertificateNotValidNow);
    }
    // As much as clocks differ in practice does not count.
    for off in [now - 30, now + 30] {
        judged(off).unwrap();
    }
}
