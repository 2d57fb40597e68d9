//! What a workload wants from outside of the mesh, and what it must get.

use std::{fmt, net::IpAddr};

use serde::Deserialize;
use sidegate_control_plane::config::EgressDefault;
use sidegate_identity::SpiffeId;
use sidegate_policy::{Decision, Egress, Verdict};

use super::document::{Want, moment};
use crate::policy::outside::{As, Destination};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Leaving {
    /// The workload: a SPIFFE ID, or `namespace/account` of its trust domain.
    pub(super) from: String,
    /// The host of its request or `CONNECT`.
    host: Option<String>,
    /// The server name of its own TLS.
    sni: Option<String>,
    /// The one address that the name has, or that the connection goes to.
    ip: IpAddr,
    port: u16,
    /// Whether a workload of the mesh is at the address.
    #[serde(default)]
    in_mesh: bool,
    #[serde(default = "moment", deserialize_with = "time::serde::rfc3339::deserialize")]
    at: time::OffsetDateTime,
    pub(super) want: Want,
}

impl Leaving {
    /// By the rules alone, whatever becomes of what they do not name.
    pub(super) fn judged<'e>(
        &self,
        egress: &'e Egress,
        identity: &SpiffeId,
    ) -> (Decision<'e>, Option<String>) {
        let (destination, now) = (self.destination(), self.now());
        let decision = destination.judge(egress, EgressDefault::Deny, identity, now).decision;
        let nearest =
            (decision.verdict == Verdict::Deny).then(|| destination.nearest(egress, identity, now)).flatten();
        (decision, nearest)
    }

    fn destination(&self) -> Destination {
        let named = |how, name: &Option<String>| name.clone().map(|name| (how, name));
        let name = named(As::Host, &self.host).or_else(|| named(As::Sni, &self.sni));
        Destination { name, ip: self.ip, port: self.port, in_mesh: self.in_mesh }
    }

    /// Before 1970 nothing has expired either.
    fn now(&self) -> u64 {
        u64::try_from(self.at.unix_timestamp()).unwrap_or_default()
    }
}

impl fmt::Display for Leaving {
    /// `shop/orders  TLS to api.test port 443  at 8.8.8.8`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}", self.from, self.destination())
    }
}
