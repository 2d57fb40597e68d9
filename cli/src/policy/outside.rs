//! Destinations outside of the mesh: one that was typed, and each kind that policies of egress tell apart. Judged as the sidecar
//! does, by the name first, where there is one, and then by the address.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use sidegate_control_plane::config::EgressDefault;
use sidegate_identity::SpiffeId;
use sidegate_policy::{
    Decision, Document, Egress, EgressPolicy, EgressRule, HostPattern, IpBlock, Named, Outside, PolicySet,
    Sourced, Verdict, Workload, is_public,
};

use crate::{exit::Exit, failure::Failure};

pub(crate) mod kinds;

/// What was typed in place of a workload: a host or an address, and perhaps its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) end: End,
    pub(crate) port: Option<u16>,
}

/// A name in lower case, or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Name(String),
    Address(IpAddr),
}

/// How a name is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum As {
    /// As the host of an HTTP request, or of a CONNECT.
    Host,
    /// As the server name of the application's own TLS.
    Sni,
}

/// One connection out of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Destination {
    pub(crate) name: Option<(As, String)>,
    /// Where it goes, or the one address that the name has.
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
    /// Whether a workload of the mesh is at the address.
    pub(crate) in_mesh: bool,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judged<'e> {
    pub(crate) decision: Decision<'e>,
    /// Whether it leaves: by a rule, or because what none names is let out.
    pub(crate) leaves: bool,
}

impl Target {
    /// `None`: it is a workload, `namespace/account` or a SPIFFE ID, or meant to be one.
    pub(crate) fn of(text: &str) -> Option<Result<Self, Failure>> {
        let is_outside = !text.contains('/') && text.contains(['.', ':']);
        is_outside.then(|| {
            Self::parse(text).map_err(|why| {
                let next = "as in api.example.com:443, 203.0.113.7:5432 or [2001:db8::7]:443";
                Failure::new(Exit::Usage, "the destination outside is unknown", why, next).seen(text)
            })
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { end: End::Address(address.ip().to_canonical()), port: Some(address.port()) });
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Self { end: End::Address(ip.to_canonical()), port: None });
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => {
                let port = port.parse::<u16>().ok().filter(|port| *port > 0);
                (name, Some(port.ok_or("a port is between 1 and 65535")?))
            }
            None => (text, None),
        };
        let last = name.rsplit('.').next().unwrap_or_default();
        let is_name = name.parse::<HostPattern>().is_ok() && !name.starts_with('*');
        if !is_name || last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("it is neither the name of a host nor an address".to_owned());
        }
        Ok(Self { end: End::Name(name.to_ascii_lowercase()), port })
    }
}

impl fmt::Display for Target {
    /// `api.test:443`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.end, self.port) {
            (End::Name(name), Some(port)) => write!(f, "{name}:{port}"),
            (End::Name(name), None) => f.write_str(name),
            (End::Address(ip), Some(port)) => SocketAddr::new(*ip, port).fmt(f),
            (End::Address(ip), None) => ip.fmt(f),
        }
    }
}

impl Destination {
    pub(crate) fn judge<'e>(
        &self,
        egress: &'e Egress,
        default: EgressDefault,
        identity: &SpiffeId,
        now: u64,
    ) -> Judged<'e> {
        let outside = self.outside(identity, now);
        let by_name = self.name.as_ref().map(|_| egress.judge_name(&outside));
        let decision = by_name
            .filter(|decision| decision.verdict == Verdict::Deny)
            .unwrap_or_else(|| egress.judge_address(&outside, self.ip, self.in_mesh));
        let is_let_out = default == EgressDefault::Allow && !self.in_mesh && is_public(self.ip);
        Judged { leaves: decision.verdict == Verdict::Allow || is_let_out, decision }
    }

    /// The rule that came closest to letting it out, and what kept it from that.
    pub(crate) fn nearest(&self, egress: &Egress, identity: &SpiffeId, now: u64) -> Option<String> {
        let outside = self.outside(identity, now);
        // A name that no rule takes is not looked up: it has no address that could be the reason.
        let is_named = self.name.is_none() || egress.judge_name(&outside).verdict == Verdict::Allow;
        egress.nearest(&outside, is_named.then_some(self.ip), self.in_mesh)
    }

    fn outside<'a>(&'a self, identity: &'a SpiffeId, now: u64) -> Outside<'a> {
        let name = self.name.as_ref().map(|(how, name)| match how {
            As::Host => Named::Host(name),
            As::Sni => Named::ServerName(name),
        });
        Outside { identity: Some(identity), name, port: self.port, now }
    }
}

impl fmt::Display for Destination {
    /// `TLS to api.test port 443  at 203.0.113.7`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_mesh = if self.in_mesh { ", a host of the mesh" } else { "" };
        match &self.name {
            Some((As::Host, name)) => write!(f, "HTTP to {name} port {}  at {}{of_mesh}", self.port, self.ip),
            Some((As::Sni, name)) => write!(f, "TLS to {name} port {}  at {}{of_mesh}", self.port, self.ip),
            None => write!(f, "to {} port {}{of_mesh}", self.ip, self.port),
        }
    }
}

/// The policies of egress that select a workload.
pub(crate) fn selecting<'p>(
    set: &'p PolicySet,
    workload: &Workload<'_>,
) -> impl Iterator<Item = &'p Sourced<EgressPolicy>> {
    set.documents_selecting(workload).filter_map(|document| match document {
        Document::Egress(sourced) => Some(sourced),
        Document::Authorization(_) | Document::Plaintext(_) => None,
    })
}

/// Their rules, each with its policy and where it is written.
pub(crate) fn rules<'p>(
    policies: &[&'p Sourced<EgressPolicy>],
) -> Vec<(&'p Sourced<EgressPolicy>, &'p EgressRule, &'p Arc<str>)> {
    let rules =
        policies.iter().flat_map(|sourced| sourced.rules().map(move |(rule, at)| (*sourced, rule, at)));
    rules.collect()
}

/// Every block that a rule names.
pub(crate) fn blocks<'p>(rules: impl IntoIterator<Item = &'p EgressRule>) -> BTreeSet<IpBlock> {
    let destinations = rules.into_iter().flat_map(|rule| rule.to.iter());
    destinations.flat_map(|to| to.ip_blocks.iter().flat_map(|blocks| blocks.iter().copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Option<String> {
        Target::of(text).map(|target| match target {
            Ok(target) => target.to_string(),
            Err(_) => "refused".to_owned(),
        })
    }

    #[test]
    fn what_has_a_slash_is_a_workload_and_what_has_a_dot_or_a_port_is_outside() {
        for workload in ["shop/payments", "spiffe://shop.test/ns/shop/sa/payments", "payments"] {
            assert_eq!(target(workload), None, "{workload}");
        }
        for (text, read) in [
            ("API.cards.test:443", "api.cards.test:443"),
            ("api.cards.test", "api.cards.test"),
            ("localhost:80", "localhost:80"),
            ("10.9.0.7:5432", "10.9.0.7:5432"),
            ("::ffff:10.9.0.7", "10.9.0.7"),
            ("[2001:db8::7]:443", "[2001:db8::7]:443"),
        ] {
            assert_eq!(target(text).as_deref(), Some(read), "{text}");
        }
        for bad in ["*.cards.test:443", "api.test:0", "api.test:https", "api..test", "10.9.0:80", ":80"] {
            assert_eq!(target(bad).as_deref(), Some("refused"), "{bad}");
        }
    }
}
