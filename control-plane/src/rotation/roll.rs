//! The certificates that are alive: whose, by which root, and what their holders have in force. Filled from the registry
//! at the start and by each issuance; what holders say is heard again after a restart, so it need not be kept.

use std::{collections::HashMap, time::Duration};

use crate::registry::Issuance;

/// Certificates by serial number, hex.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    standings: HashMap<String, Standing>,
    /// What was issued last for a certificate, by whose serial number: all before it are replaced.
    renewals: HashMap<String, String>,
}

/// What is known of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) identity: String,
    /// The issuing root's fingerprint.
    pub(crate) issuer: String,
    /// SHA-256 of the subject public key info, hex.
    pub(crate) key: String,
    /// Unix seconds.
    pub(crate) not_after: u64,
    /// The serial number that it was issued for, if it is a renewal.
    parent: Option<String>,
    /// The version of the trust bundle that its holder has acknowledged.
    pub(crate) bundle: Option<String>,
    /// Its holder uses a newer one, or never got this one.
    pub(crate) replaced: bool,
    pub(crate) connected: bool,
    /// Where its holder was seen; empty: nowhere.
    pub(crate) address: String,
}

impl Roll {
    /// Puts a certificate on the roll: before it is signed, so that none is alive and not here.
    pub(crate) fn enroll(&mut self, issuance: &Issuance) {
        if issuance.attestor == SELF {
            // The control plane renews its own when the signing root changes, before anything else does.
            return;
        }
        let parent = (issuance.attestor == RENEWAL).then(|| issuance.evidence.clone());
        if let Some(parent) = &parent {
            self.asked_by(parent);
            self.renewals.insert(parent.clone(), issuance.serial.clone());
        }
        let standing = Standing {
            identity: issuance.identity.clone(),
            issuer: issuance.issuer.clone(),
            key: issuance.key.clone(),
            not_after: issuance.not_after,
            parent,
            bundle: None,
            replaced: false,
            connected: false,
            address: String::new(),
        };
        self.standings.insert(issuance.serial.clone(), standing);
    }

    /// It was never signed.
    pub(crate) fn withdraw(&mut self, serial: &str) {
        self.standings.remove(serial);
    }

    /// Nobody is connected, until they are seen.
    pub(crate) fn forget_connections(&mut self) {
        self.standings.values_mut().for_each(|standing| standing.connected = false);
    }

    /// A sidecar subscribed with this certificate: what it used before is used no longer.
    pub(crate) fn seen(&mut self, serial: &str, address: &str, connected: bool, bundle: Option<&str>) {
        let Some(standing) = self.standings.get_mut(serial) else { return };
        standing.connected = connected;
        address.clone_into(&mut standing.address);
        standing.bundle = bundle.map(str::to_owned).or(standing.bundle.take());
        let parent = standing.parent.clone();
        self.replace(parent);
    }

    /// Leaves out those that ended longer ago than the margin.
    pub(crate) fn sweep(&mut self, now_ms: u64, margin: Duration) {
        self.standings.retain(|_, standing| standing.is_alive(now_ms, margin));
        self.renewals.retain(|_, serial| self.standings.contains_key(serial));
    }

    /// Every certificate that somebody may take for valid.
    pub(crate) fn alive(&self, now_ms: u64, margin: Duration) -> impl Iterator<Item = (&str, &Standing)> {
        let entries = self.standings.iter().map(|(serial, standing)| (serial.as_str(), standing));
        entries.filter(move |(_, standing)| standing.is_alive(now_ms, margin))
    }

    pub(crate) fn get(&self, serial: &str) -> Option<&Standing> {
        self.standings.get(serial)
    }

    /// The holder of `parent` asks for a new one: it uses this one, and does not have what it was issued for it before. It
    /// asks for one at a time.
    fn asked_by(&mut self, parent: &str) {
        if let Some(renewal) = self.renewals.get(parent).and_then(|serial| self.standings.get_mut(serial)) {
            renewal.replaced = true;
        }
        let before = self.standings.get(parent).and_then(|standing| standing.parent.clone());
        self.replace(before);
    }

    /// This one and those before it.
    fn replace(&mut self, mut next: Option<String>) {
        while let Some(serial) = next.take() {
            let Some(standing) = self.standings.get_mut(&serial).filter(|standing| !standing.replaced) else {
                return;
            };
            standing.replaced = true;
            next.clone_from(&standing.parent);
        }
    }
}

impl Standing {
    fn is_alive(&self, now_ms: u64, margin: Duration) -> bool {
        // The last second counts whole.
        let end = Duration::from_secs(self.not_after.saturating_add(1)).saturating_add(margin);
        Duration::from_millis(now_ms) < end
    }
}

/// How `attest` and `server::credentials` name themselves in the registry.
const RENEWAL: &str = "svid";
const SELF: &str = "self";

#[cfg(test)]
mod tests {
    use super::*;

    const MARGIN: Duration = Duration::from_mins(1);

    fn issuance(serial: &str, attestor: &str, evidence: &str) -> Issuance {
        Issuance {
            serial: serial.to_owned(),
            identity: "spiffe://shop.test/ns/shop/sa/orders".to_owned(),
            key: String::new(),
            attestor: attestor.to_owned(),
            evidence: evidence.to_owned(),
            caller: String::new(),
            new_source: false,
            not_before: 0,
            not_after: 100,
            issuer: "old".to_owned(),
        }
    }

    fn replaced(roll: &Roll) -> Vec<&str> {
        let mut serials: Vec<_> = roll
            .standings
            .iter()
            .filter(|(_, standing)| standing.replaced)
            .map(|(serial, _)| serial.as_str())
            .collect();
        serials.sort_unstable();
        serials
    }

    #[test]
    fn a_renewal_replaces_what_it_renews_once_it_is_used_and_not_before() {
        let mut roll = Roll::default();
        roll.enroll(&issuance("a", "join-token", "x"));
        roll.enroll(&issuance("b", "svid", "a"));
        assert_eq!(replaced(&roll), [""; 0], "the answer may have been lost");
        roll.seen("b", "", true, None);
        assert_eq!(replaced(&roll), ["a"]);
    }

    #[test]
    fn who_asks_again_did_not_get_the_first_answer() {
        let mut roll = Roll::default();
        roll.enroll(&issuance("a", "join-token", "x"));
        roll.enroll(&issuance("lost", "svid", "a"));
        roll.enroll(&issuance("c", "svid", "a"));
        assert_eq!(replaced(&roll), ["lost"]);
        roll.enroll(&issuance("d", "svid", "c"));
        assert_eq!(replaced(&roll), ["a", "lost"], "c asks, so c is in use");
        roll.withdraw("d");
        roll.enroll(&issuance("e", "svid", "c"));
        roll.enroll(&issuance("f", "svid", "c"));
        assert_eq!(replaced(&roll), ["a", "e", "lost"]);
    }

    #[test]
    fn a_join_token_replaces_nothing_for_another_instance_may_live() {
        let mut roll = Roll::default();
        roll.enroll(&issuance("a", "join-token", "x"));
        roll.enroll(&issuance("b", "join-token", "x"));
        roll.seen("b", "", true, None);
        assert_eq!(replaced(&roll), [""; 0]);
    }

    #[test]
    fn a_certificate_counts_until_no_clock_takes_it_for_valid() {
        let mut roll = Roll::default();
        roll.enroll(&issuance("a", "join-token", "x"));
        let alive = |roll: &Roll, seconds: u64| roll.alive(seconds * 1000, MARGIN).count();
        assert_eq!((alive(&roll, 160), alive(&roll, 161)), (1, 0));
        roll.enroll(&issuance("b", "svid", "a"));
        roll.sweep(161_000, MARGIN);
        assert!(roll.get("a").is_none() && roll.get("b").is_none());
        assert!(roll.renewals.is_empty());
    }

    #[test]
    fn what_was_acknowledged_is_not_forgotten_with_the_connection() {
        let mut roll = Roll::default();
        roll.enroll(&issuance("a", "join-token", "x"));
        roll.seen("a", "10.0.0.1:1", true, Some("v2"));
        roll.forget_connections();
        let standing = roll.get("a").unwrap();
        assert_eq!((standing.bundle.as_deref(), standing.connected), (Some("v2"), false));
    }
}
