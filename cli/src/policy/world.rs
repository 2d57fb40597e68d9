//! The requests that a set of policies tells apart: one of each kind, so that two sets which agree on all of them agree on every
//! request. Where there are exceptions to mutual TLS, one of the callers is nobody. Receives the rules that select a workload;
//! hands on its callers, and for each of them the calls. Where there are more than are tried, or a `when` or `jwt` asks what
//! cannot be listed, it says that not everything was.

mod call;
mod paths;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use sidegate_identity::{SpiffeId, TrustDomain};
use sidegate_policy::{Claims, Condition, HostPattern, Jwt, Operation, Peer, PolicySet, Rule, Workload};

pub(super) use call::{Asked, Call};

/// What the rules for one workload name.
pub(super) struct World<'p> {
    rules: Vec<&'p Rule>,
    /// What may come without TLS.
    exceptions: Vec<Rule>,
    local: TrustDomain,
    callers: Vec<SpiffeId>,
    /// The host of the workload's own, where no rule says one.
    host: String,
}

/// The calls of one caller.
pub(super) struct Calls {
    pub(super) list: Vec<Call>,
    /// Whether there is one for each kind that the rules tell apart.
    pub(super) is_complete: bool,
}

/// What is known of a call beforehand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known<'k> {
    pub(super) port: Option<u16>,
    pub(super) is_http: Option<bool>,
    pub(super) method: Option<&'k str>,
    pub(super) path: Option<&'k str>,
    /// A pattern that the path matches.
    pub(super) route: Option<&'k str>,
}

impl<'p> World<'p> {
    /// Of all sets together. `services` call too, and come first, since examples with them say more.
    pub(super) fn of(
        sets: &[&'p PolicySet],
        workload: &Workload<'_>,
        local: &TrustDomain,
        host: &str,
        services: &[SpiffeId],
    ) -> Self {
        let selecting = sets.iter().flat_map(|set| set.selecting(workload));
        let rules: Vec<&Rule> = selecting.flat_map(|sourced| sourced.rules().map(|(rule, _)| rule)).collect();
        let mut callers = services.to_vec();
        for caller in callers_of(&rules, local) {
            if !callers.contains(&caller) {
                callers.push(caller);
            }
        }
        let exceptions = sets.iter().flat_map(|set| set.exceptions(workload));
        let exceptions = exceptions.map(|sourced| sourced.policy().rule()).collect();
        Self { rules, exceptions, local: local.clone(), callers, host: host.to_owned() }
    }

    /// Those who have an identity, and `None` if something may come without.
    pub(super) fn callers(&self) -> impl Iterator<Item = Option<&SpiffeId>> {
        let nobody = (!self.exceptions.is_empty()).then_some(None);
        self.callers.iter().map(Some).chain(nobody)
    }

    /// The calls of a caller, as far as rules that may be for it tell them apart. At most `most` of them.
    pub(super) fn calls(&self, caller: Option<&SpiffeId>, known: Known<'_>, most: usize) -> Calls {
        let takes = |peer: &Peer| match caller {
            Some(caller) => takes(peer, caller, &self.local),
            None => names_nobody(peer),
        };
        let may_be_for = |rule: &&Rule| rule.from.as_ref().is_none_or(|from| from.iter().any(takes));
        let exceptions = self.exceptions.iter().filter(|_| caller.is_none());
        let rules: Vec<&Rule> = self.rules.iter().copied().chain(exceptions).filter(may_be_for).collect();
        let operations: Vec<&Operation> =
            rules.iter().flat_map(|rule| rule.to.iter().flat_map(|to| to.iter())).collect();
        let conditions: Vec<&Condition> = rules.iter().filter_map(|rule| rule.when.as_ref()).collect();
        let tokens: Vec<&Jwt> = rules.iter().filter_map(|rule| rule.jwt.as_ref()).collect();
        let (asked, is_complete) = self.asked(&operations, &conditions, &tokens, known);
        let ports = match known.port {
            Some(port) => vec![port],
            None => ports(&operations, &conditions),
        };
        let mut list = Vec::new();
        for ip in addresses(&rules) {
            for port in &ports {
                list.extend(
                    asked.iter().map(|asked| Call { ip, port: *port, asked: asked.clone() }).take(most + 1),
                );
                if list.len() > most {
                    list.truncate(most);
                    return Calls { list, is_complete: false };
                }
            }
        }
        Calls { list, is_complete: is_complete && conditions.is_empty() && tokens.is_empty() }
    }

    fn asked(
        &self,
        operations: &[&Operation],
        conditions: &[&Condition],
        tokens: &[&Jwt],
        known: Known<'_>,
    ) -> (Vec<Asked>, bool) {
        let mut asked = Vec::new();
        if known.is_http != Some(true) {
            let names = hosts(operations.iter().flat_map(|to| to.sni.iter().flat_map(|names| names.iter())));
            asked.push(Asked::Opaque { sni: None });
            asked.extend(names.into_iter().map(|name| Asked::Opaque { sni: Some(name) }));
        }
        if known.is_http == Some(false) {
            return (asked, true);
        }
        let methods = match known.method {
            Some(method) => vec![method.to_owned()],
            None => methods(operations),
        };
        let (paths, is_complete) = match known.path {
            Some(path) => (vec![path.to_owned()], true),
            None => paths::of(&patterns(operations), known.route),
        };
        let mut names =
            hosts(operations.iter().flat_map(|to| to.hosts.iter().flat_map(|hosts| hosts.iter())));
        names.insert(0, self.host.clone());
        names.dedup();
        let mut headers = vec![Vec::new()];
        headers
            .extend(conditions.iter().map(|when| when.likely_headers()).filter(|fields| !fields.is_empty()));
        let mut claims: Vec<Option<Arc<Claims>>> = vec![None];
        claims
            .extend(tokens.iter().filter_map(|jwt| jwt.likely_claims()).map(|claims| Some(Arc::new(claims))));
        claims.dedup();
        let besides: Vec<_> =
            headers.iter().flat_map(|headers| claims.iter().map(move |claims| (headers, claims))).collect();
        for path in &paths {
            for method in &methods {
                for host in &names {
                    asked.extend(besides.iter().map(|(headers, claims)| Asked::Http {
                        method: method.clone(),
                        host: host.clone(),
                        path: path.clone(),
                        headers: (*headers).clone(),
                        claims: (*claims).clone(),
                    }));
                    if asked.len() > MOST_ASKED {
                        return (asked, false);
                    }
                }
            }
        }
        (asked, is_complete)
    }
}

/// One identity of each kind that sources tell apart.
fn callers_of(rules: &[&Rule], local: &TrustDomain) -> Vec<SpiffeId> {
    let peers: Vec<&Peer> =
        rules.iter().flat_map(|rule| rule.from.iter().flat_map(|from| from.iter())).collect();
    let named = peers.iter().flat_map(|peer| peer.trust_domains.iter().flat_map(|list| list.iter()));
    let mut domains: BTreeSet<&str> = named.map(TrustDomain::as_str).collect();
    domains.insert(local.as_str());
    let mut callers: BTreeSet<SpiffeId> =
        peers.iter().flat_map(|peer| peer.principals.iter().flat_map(|list| list.iter().cloned())).collect();
    let mut add = |domain: &str, namespace: &str, account: &str| {
        let domain = TrustDomain::parse(domain).ok();
        let id = domain.and_then(|domain| SpiffeId::for_workload(&domain, namespace, account).ok());
        callers.extend(id);
    };
    for peer in &peers {
        let of_peer: Vec<&str> = match &peer.trust_domains {
            Some(list) => list.iter().map(TrustDomain::as_str).collect(),
            None => vec![local.as_str()],
        };
        for domain in of_peer {
            for account in peer.service_accounts.iter().flat_map(|list| list.iter()) {
                add(domain, account.namespace.as_str(), account.name.as_str());
            }
        }
        for namespace in peer.namespaces.iter().flat_map(|list| list.iter()) {
            for domain in &domains {
                add(domain, namespace.as_str(), ANYBODY);
            }
        }
    }
    for domain in &domains {
        add(domain, ANYWHERE, ANYBODY);
    }
    add(STRANGE_DOMAIN, ANYWHERE, ANYBODY);
    callers.into_iter().collect()
}

/// Whether a source may be for the caller, addresses aside.
fn takes(peer: &Peer, caller: &SpiffeId, local: &TrustDomain) -> bool {
    let domain = caller.trust_domain();
    let is_local = peer.service_accounts.is_some() || peer.namespaces.is_some();
    let in_domain = match &peer.trust_domains {
        Some(list) => list.iter().any(|it| it.as_str() == domain),
        None => !is_local || local.as_str() == domain,
    };
    let (namespace, account) = (caller.namespace(), caller.service_account());
    in_domain
        && peer.principals.as_ref().is_none_or(|list| list.contains(caller))
        && peer.service_accounts.as_ref().is_none_or(|list| {
            list.iter()
                .any(|it| namespace == Some(it.namespace.as_str()) && account == Some(it.name.as_str()))
        })
        && peer.namespaces.as_ref().is_none_or(|list| list.iter().any(|it| namespace == Some(it.as_str())))
}

/// Whether a source describes callers by their addresses alone.
fn names_nobody(peer: &Peer) -> bool {
    let Peer { principals, service_accounts, namespaces, trust_domains, ip_blocks: _ } = peer;
    principals.is_none() && service_accounts.is_none() && namespaces.is_none() && trust_domains.is_none()
}

/// One address of each stretch between the ends of blocks.
fn addresses(rules: &[&Rule]) -> Vec<IpAddr> {
    let peers = rules.iter().flat_map(|rule| rule.from.iter().flat_map(|from| from.iter()));
    let blocks = peers.flat_map(|peer| peer.ip_blocks.iter().flat_map(|blocks| blocks.iter()));
    let mut addresses = BTreeSet::from([IpAddr::from([10, 0, 0, 7])]);
    for block in blocks {
        let text = block.to_string();
        let Some((first, length)) = text
            .split_once('/')
            .and_then(|(ip, length)| Some((ip.parse::<IpAddr>().ok()?, length.parse::<u32>().ok()?)))
        else {
            continue;
        };
        addresses.insert(first);
        match first {
            IpAddr::V4(ip) => {
                let size = 1_u32.checked_shl(32_u32.saturating_sub(length));
                let next = size.and_then(|size| u32::from(ip).checked_add(size));
                addresses.extend(next.map(|ip| IpAddr::V4(Ipv4Addr::from(ip))));
                addresses.insert(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            }
            IpAddr::V6(ip) => {
                let size = 1_u128.checked_shl(128_u32.saturating_sub(length));
                let next = size.and_then(|size| u128::from(ip).checked_add(size));
                addresses.extend(next.map(|ip| IpAddr::V6(Ipv6Addr::from(ip))));
                addresses.insert(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            }
        }
    }
    addresses.into_iter().collect()
}

/// Those that are named, and one that is not.
fn ports(operations: &[&Operation], conditions: &[&Condition]) -> Vec<u16> {
    let named = operations.iter().flat_map(|to| to.ports.iter().flat_map(|ports| ports.iter().copied()));
    let asked = conditions.iter().flat_map(|when| when.ports());
    let mut ports: BTreeSet<u16> = named.chain(asked).filter(|port| *port > 0).collect();
    ports.extend(std::iter::once(8080).chain(1..=u16::MAX).find(|port| !ports.contains(port)));
    ports.into_iter().collect()
}

/// Those that are named, and one that is not.
fn methods(operations: &[&Operation]) -> Vec<String> {
    const COMMON: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
    let named = operations.iter().flat_map(|to| to.methods.iter().flat_map(|methods| methods.iter()));
    let mut methods: BTreeSet<String> = named.map(ToString::to_string).collect();
    if operations.iter().any(|to| to.grpc.is_some()) {
        methods.insert("POST".to_owned());
    }
    let other = COMMON.into_iter().chain(["X-OTHER"]).find(|method| !methods.contains(*method));
    methods.extend(other.map(str::to_owned));
    methods.into_iter().collect()
}

fn patterns(operations: &[&Operation]) -> BTreeSet<String> {
    let named = operations.iter().flat_map(|to| to.paths.iter().flat_map(|paths| paths.iter()));
    let mut patterns: BTreeSet<String> = named.map(ToString::to_string).collect();
    for grpc in operations.iter().filter_map(|to| to.grpc.as_ref()) {
        let method = grpc.method.as_ref().map_or_else(|| "{method}".to_owned(), ToString::to_string);
        patterns.insert(format!("/{}/{method}", grpc.service));
    }
    patterns
}

/// A host of each pattern, as few others match it as can be, and one that none matches.
pub(super) fn hosts<'h>(patterns: impl Iterator<Item = &'h HostPattern>) -> Vec<String> {
    let patterns: Vec<&HostPattern> = patterns.collect();
    let mut hosts: BTreeSet<String> =
        patterns.iter().map(|pattern| pattern.to_string().replacen('*', ANYBODY, 1)).collect();
    if !patterns.is_empty() {
        let is_free = |host: &String| !patterns.iter().any(|pattern| pattern.matches(host));
        hosts.extend((0..=patterns.len()).map(|index| format!("host-{index}.invalid")).find(is_free));
    }
    hosts.into_iter().collect()
}

/// Names that a policy would have to mean on purpose.
pub(super) const ANYBODY: &str = "anybody-else";
const ANYWHERE: &str = "anywhere-else";
const STRANGE_DOMAIN: &str = "another-domain.invalid";
/// What is asked of one caller at one port.
const MOST_ASKED: usize = 200_000;

#[cfg(test)]
mod tests;
