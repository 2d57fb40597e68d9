//! Who asks for a certificate: a join token of a service, or the verified certificate that is to be renewed, never
//! both. Hands on an `Attested` identity that is in the mesh now; refuses everybody else and keeps tokens to itself.

use std::{net::IpAddr, time::Instant};

use sha2::{Digest, Sha256};
use sidegate_codes::Code;
use sidegate_identity::{SpiffeId, VerifiedSvid};
use subtle::ConstantTimeEq;

use crate::{
    config::Config,
    hex,
    mesh::Mesh,
    rate::{Buckets, Rate},
};

/// A caller whose identity is proven and entitled.
#[derive(Debug)]
pub(crate) struct Attested {
    pub(crate) identity: SpiffeId,
    /// "join-token" or "svid".
    pub(crate) attestor: &'static str,
    /// What shows it, for the registry: never the token.
    pub(crate) evidence: String,
}

/// The caller is not attested. It learns no more than the reason's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("neither a join token nor a client certificate was presented")]
    Nothing,
    #[error("a join token and a client certificate were presented; use one of them")]
    Both,
    #[error("the join token belongs to no service of the mesh")]
    UnknownToken,
    #[error("the presented identity is not a service of the mesh any more")]
    NotEntitled,
    #[error("the identity is in quarantine")]
    Quarantined,
    #[error("the presented certificate has ended")]
    Ended,
    #[error("too many failed attempts from this source; wait")]
    TooManyFailures,
}

/// Attests callers and remembers who failed.
#[derive(Debug)]
pub(crate) struct Attestor {
    failures: Buckets<IpAddr>,
}

/// What a caller presented.
pub(crate) struct Presented<'a> {
    pub(crate) join_token: &'a str,
    pub(crate) svid: Option<&'a VerifiedSvid>,
    pub(crate) source: IpAddr,
}

impl Attestor {
    pub(crate) fn new() -> Self {
        Self { failures: Buckets::new(FAILURES) }
    }

    /// Judges what was presented against the mesh as it is now.
    pub(crate) fn attest(
        &self,
        presented: &Presented<'_>,
        mesh: &Mesh,
        unix_seconds: u64,
        now: Instant,
    ) -> Result<Attested, Refusal> {
        let (config, quarantine) = (&mesh.config, &mesh.quarantine.quarantine);
        let attested = match (presented.join_token.trim(), presented.svid) {
            ("", None) => Err(Refusal::Nothing),
            // What is refused elsewhere does not get itself a successor.
            ("", Some(svid)) if quarantine.refuses(svid) => Err(Refusal::Quarantined),
            ("", Some(svid)) => renewal(svid, config, unix_seconds),
            (_, Some(_)) => Err(Refusal::Both),
            (token, None) => self.join(token, presented.source, config, now),
        }?;
        if quarantine.excludes(&attested.identity) {
            return Err(Refusal::Quarantined);
        }
        Ok(attested)
    }

    /// Only failures are counted: a fleet that starts behind one address is not slowed down.
    fn join(&self, token: &str, source: IpAddr, config: &Config, now: Instant) -> Result<Attested, Refusal> {
        if !self.failures.has(&source, now) {
            return Err(Refusal::TooManyFailures);
        }
        by_token(token, config).ok_or_else(|| {
            self.failures.take(source, now);
            Refusal::UnknownToken
        })
    }
}

impl Refusal {
    /// The code that the caller and the log are told.
    pub(crate) fn code(self) -> Code {
        match self {
            Self::Quarantined => Code::IdentityQuarantined,
            _ => Code::IssuanceRefused,
        }
    }

    /// The metric's label.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Nothing => "nothing_presented",
            Self::Both => "both_presented",
            Self::UnknownToken => "unknown_token",
            Self::NotEntitled => "not_entitled",
            Self::Quarantined => "quarantined",
            Self::Ended => "ended",
            Self::TooManyFailures => "too_many_failures",
        }
    }
}

/// Compares with every digest, whatever matched before: the time says nothing about which.
fn by_token(token: &str, config: &Config) -> Option<Attested> {
    let digest: [u8; 32] = Sha256::digest(token).into();
    let mut found = None;
    for service in &config.services {
        for expected in &service.join_tokens {
            if bool::from(expected.0.ct_eq(&digest)) {
                found = Some(service);
            }
        }
    }
    found.map(|service| Attested {
        identity: service.identity.clone(),
        attestor: "join-token",
        evidence: hex::encode(&digest).chars().take(16).collect(),
    })
}

/// The same identity only, and only while the mesh still has it. The handshake verified the certificate; it may have
/// ended since.
fn renewal(svid: &VerifiedSvid, config: &Config, unix_seconds: u64) -> Result<Attested, Refusal> {
    if unix_seconds > svid.not_after().as_secs() {
        return Err(Refusal::Ended);
    }
    let service = config.workload(svid.id()).ok_or(Refusal::NotEntitled)?;
    Ok(Attested {
        identity: service.identity.clone(),
        attestor: "svid",
        evidence: hex::encode(svid.serial()),
    })
}

/// Per source address. A token has 256 bits; this keeps the log and the CPU quiet, not the token safe.
const FAILURES: Rate = Rate { burst: 20.0, per_second: 1.0 };

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, path::Path, sync::Arc};

    use sidegate_identity::{Quarantine, Refused};

    use super::*;
    use crate::{quarantine::LoadedQuarantine, resource};

    fn config() -> Config {
        let text = format!(
            r#"{{apiVersion: sidegate.dev/v1alpha1, kind: Mesh, trustDomain: shop.test, policies: p, state: s,
            listen: {{grpc: "127.0.0.1:0", api: "127.0.0.1:0"}}, services: [
            {{namespace: shop, name: orders, joinTokens: ["{}"]}},
            {{namespace: shop, name: payments, joinTokens: ["{}", "{}"]}}]}}"#,
            digest("for-orders"),
            digest("old"),
            digest("new"),
        );
        Config::parse(Path::new("mesh.yaml"), &text).unwrap()
    }

    fn mesh(quarantined: &[&str]) -> Mesh {
        let entries = quarantined.iter().map(|id| (SpiffeId::parse(id).unwrap(), Refused::All));
        let quarantine: Quarantine = entries.collect();
        Mesh {
            config: Arc::new(config()),
            policies: None,
            quarantine: Arc::new(LoadedQuarantine {
                resource: Arc::new(resource::quarantine(&quarantine)),
                quarantine,
            }),
            bundles: Vec::new(),
            config_problems: Vec::new(),
            policy_problems: Vec::new(),
        }
    }

    #[test]
    fn an_identity_in_quarantine_is_attested_by_nothing() {
        let (attestor, source) = (Attestor::new(), Ipv4Addr::LOCALHOST.into());
        let mesh = mesh(&["spiffe://shop.test/ns/shop/sa/payments"]);
        let join = |join_token| {
            let presented = Presented { join_token, svid: None, source };
            attestor
                .attest(&presented, &mesh, 0, Instant::now())
                .map(|attested| attested.identity.to_string())
        };
        assert_eq!(join("old"), Err(Refusal::Quarantined));
        assert_eq!(join("new"), Err(Refusal::Quarantined));
        assert_eq!(join("for-orders").unwrap(), "spiffe://shop.test/ns/shop/sa/orders");
    }

    fn digest(token: &str) -> String {
        format!("sha256:{}", hex::encode(&Sha256::digest(token)))
    }

    fn join(attestor: &Attestor, token: &str) -> Result<String, Refusal> {
        let source = Ipv4Addr::LOCALHOST.into();
        let presented = Presented { join_token: token, svid: None, source };
        attestor
            .attest(&presented, &mesh(&[]), 0, Instant::now())
            .map(|attested| attested.identity.to_string())
    }

    #[test]
    fn a_token_attests_its_service_and_no_other() {
        let attestor = Attestor::new();
        let payments = "spiffe://shop.test/ns/shop/sa/payments";
        assert_eq!(join(&attestor, "for-orders").unwrap(), "spiffe://shop.test/ns/shop/sa/orders");
        assert_eq!(join(&attestor, "old").unwrap(), payments, "two tokens hold during a rotation");
        assert_eq!(join(&attestor, " new\n").unwrap(), payments, "a file ends in a newline");
    }

    #[test]
    fn a_wrong_token_and_none_are_refused() {
        let attestor = Attestor::new();
        assert_eq!(join(&attestor, "wrong"), Err(Refusal::UnknownToken));
        assert_eq!(join(&attestor, ""), Err(Refusal::Nothing));
        assert_eq!(join(&attestor, &digest("old")), Err(Refusal::UnknownToken), "a digest is no token");
    }

    #[test]
    fn a_source_that_keeps_failing_is_not_compared_any_more() {
        let attestor = Attestor::new();
        while join(&attestor, "wrong") == Err(Refusal::UnknownToken) {}
        assert_eq!(join(&attestor, "wrong"), Err(Refusal::TooManyFailures));
        assert_eq!(join(&attestor, "new"), Err(Refusal::TooManyFailures));
    }

    #[test]
    fn the_evidence_is_not_the_token() {
        let attested = by_token("new", &config()).unwrap();
        assert_eq!(attested.evidence.len(), 16);
        assert!(!attested.evidence.contains("new"));
    }
}
