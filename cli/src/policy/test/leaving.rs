//! What a workload wants from outside of the mesh, and what it must get: judged as its sidecar does, by the name first,
//! where there is one, and then by the address.

use std::{fmt, net::IpAddr};

use serde::Deserialize;
use sidegate_identity::SpiffeId;
use sidegate_policy::{Decision, Egress, Named, Outside, Verdict};

use super::document::{Want, moment};

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
    pub(super) fn judged<'e>(
        &self,
        egress: &'e Egress,
        identity: &SpiffeId,
    ) -> (Decision<'e>, Option<String>) {
        let host = self.host.as_deref().map(Named::Host);
        let outside = Outside {
            identity: Some(identity),
            name: host.or(self.sni.as_deref().map(Named::ServerName)),
            port: self.port,
            // Before 1970 nothing has expired either.
            now: u64::try_from(self.at.unix_timestamp()).unwrap_or_default(),
        };
        let by_name = outside.name.map(|_| egress.judge_name(&outside));
        let decision = by_name
            .filter(|decision| decision.verdict == Verdict::Deny)
            .unwrap_or_else(|| egress.judge_address(&outside, self.ip, self.in_mesh));
        let nearest = (decision.verdict == Verdict::Deny)
            .then(|| egress.nearest(&outside, Some(self.ip), self.in_mesh))
            .flatten();
        (decision, nearest)
    }
}

impl fmt::Display for Leaving {
    /// `shop/orders  to api.test at 8.8.8.8 port 443`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  to ", self.from)?;
        if let Some(name) = self.host.as_ref().or(self.sni.as_ref()) {
            write!(f, "{name} at ")?;
        }
        write!(f, "{} port {}", self.ip, self.port)
    }
}
