//! Receives the egress policies that select one workload, and what that workload wants from outside of the mesh; hands
//! on whether it may have it. Refuses what no rule names, and every address that a rule may not have meant.
//!
//! A name is judged twice: as it is asked for, so that nothing is looked up that no rule names, and again with each
//! address that it turns out to have. An address that the application has chosen is judged as an address alone.

use std::{net::IpAddr, sync::Arc};

use hashbrown::HashMap;
use sidegate_codes::Code;
use sidegate_identity::{SpiffeId, TrustDomain};

use crate::{
    Decision, Sourced, Verdict, limits,
    model::{EgressDestination, EgressPolicy, EgressRule, EgressSource, Mode},
    values::{Date, HostPattern, IpBlock},
};

mod address;

pub use address::{address_kinds, is_public};

/// Where one workload may go outside of the mesh. The default is nowhere.
#[derive(Debug, Default)]
pub struct Egress {
    enforced: Rules,
    /// What would be in force if the shadow policies were enforced too; absent without shadow policies.
    trial: Option<Rules>,
    local: Option<TrustDomain>,
}

/// What a workload wants from outside of the mesh.
#[derive(Clone, Copy, Debug)]
pub struct Outside<'a> {
    /// The workload, as its certificate says; without one nothing leaves.
    pub identity: Option<&'a SpiffeId>,
    /// What it asks for by name; `None` if by nothing but an address.
    pub name: Option<Named<'a>>,
    /// The port there.
    pub port: u16,
    /// Seconds since the Unix epoch.
    pub now: u64,
}

/// How a name is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// As the host of an HTTP request or of a `CONNECT`, without port.
    Host(&'a str),
    /// As the server name of the application's own TLS.
    ServerName(&'a str),
}

#[derive(Debug, Default)]
struct Rules {
    /// Whether any policy selects the workload.
    selected: bool,
    /// In the order of policy names, then of positions.
    by_port: HashMap<u16, Vec<Arc<Entry>>>,
    all: Vec<Arc<Entry>>,
}

/// One destination of a rule.
#[derive(Debug)]
struct Entry {
    policy: Arc<str>,
    mode: Mode,
    rule: Arc<str>,
    source: Arc<str>,
    from: Option<Box<[EgressSource]>>,
    to: EgressDestination,
    expires: Option<Date>,
}

impl Egress {
    pub(crate) fn compile<'p>(
        selected: impl Iterator<Item = &'p Sourced<EgressPolicy>>,
        trust_domain: &str,
    ) -> Self {
        let selected: Vec<_> = selected.collect();
        let is_enforced = |sourced: &&Sourced<EgressPolicy>| sourced.policy().spec.mode == Mode::Enforce;
        let enforced = Rules::of(selected.iter().copied().filter(is_enforced));
        let shadowed = !selected.iter().all(is_enforced);
        let trial = shadowed.then(|| Rules::of(selected.iter().copied()));
        // A text that is no trust domain has no identities, so nothing local matches.
        Self { enforced, trial, local: TrustDomain::parse(trust_domain).ok() }
    }

    /// Whether any policy in force selects the workload.
    pub fn selects(&self) -> bool {
        self.enforced.selected
    }

    /// Whether a rule in force names hosts or server names at the port: only then is there a reason to read what the
    /// application sends there.
    pub fn reads_names(&self, port: u16, now: u64) -> bool {
        let entries = self.enforced.by_port.get(&port);
        entries.into_iter().flatten().any(|entry| entry.to.has_name() && !entry.is_over(now))
    }

    /// Judges what is asked for by name, before that is looked up. Lets nothing out yet: each address is judged too.
    pub fn judge_name(&self, asked: &Outside<'_>) -> Decision<'_> {
        self.judge(asked, |entry| asked.name.is_some() && entry.to.takes_name(asked.name))
    }

    /// Judges one address: that to which the connection is going if it has no name, or one of those that the name was
    /// found to have. `in_mesh`: a workload of the mesh is there, on whatever port.
    pub fn judge_address(&self, asked: &Outside<'_>, ip: IpAddr, in_mesh: bool) -> Decision<'_> {
        self.judge(asked, |entry| entry.to.takes_name(asked.name) && entry.to.takes_address(ip, in_mesh))
    }

    fn judge(&self, asked: &Outside<'_>, takes: impl Fn(&Entry) -> bool) -> Decision<'_> {
        let local = self.local.as_ref();
        let decided = self.enforced.judge(asked, local, &takes);
        let decision = match decided {
            Some(entry) => entry.allows(),
            None => Decision::denied(Code::EgressDenied),
        };
        let Some(trial) = &self.trial else { return decision };
        let found = trial.judge(asked, local, &takes);
        let shadow = found.filter(|entry| entry.mode == Mode::Shadow);
        Decision {
            shadow: Some(if found.is_some() { Verdict::Allow } else { Verdict::Deny }),
            shadow_policy: shadow.map(|entry| &entry.policy),
            shadow_rule: shadow.map(|entry| &entry.rule),
            ..decision
        }
    }

    /// The rule that came closest to letting it out, and what kept it from that.
    pub fn nearest(&self, asked: &Outside<'_>, ip: Option<IpAddr>, in_mesh: bool) -> Option<String> {
        let local = self.local.as_ref();
        let misses = self.enforced.all.iter().take(limits::EXPLAINED_RULES);
        let misses =
            misses.filter_map(|entry| entry.miss(asked, ip, in_mesh, local).map(|miss| (entry, miss)));
        let (entry, (_, why)) = misses.min_by_key(|(_, (conditions, _))| *conditions)?;
        Some(format!("rule {} of {}: {why}", entry.rule, entry.policy))
    }
}

impl Rules {
    fn of<'p>(policies: impl Iterator<Item = &'p Sourced<EgressPolicy>>) -> Self {
        let mut rules = Self::default();
        for sourced in policies {
            rules.selected = true;
            for (rule, source) in sourced.rules() {
                rules.add(sourced, rule, source);
            }
        }
        rules
    }

    fn add(&mut self, sourced: &Sourced<EgressPolicy>, rule: &EgressRule, source: &Arc<str>) {
        for to in rule.to.iter() {
            let entry = Arc::new(Entry {
                policy: Arc::clone(sourced.name()),
                mode: sourced.policy().spec.mode,
                rule: rule.name.shared(),
                source: Arc::clone(source),
                from: rule.from.as_deref().map(Into::into),
                to: to.clone(),
                expires: rule.expires,
            });
            for port in to.ports.iter() {
                self.by_port.entry(*port).or_default().push(Arc::clone(&entry));
            }
            self.all.push(entry);
        }
    }

    /// The first entry that lets it out.
    fn judge(
        &self,
        asked: &Outside<'_>,
        local: Option<&TrustDomain>,
        takes: impl Fn(&Entry) -> bool,
    ) -> Option<&Entry> {
        let identity = asked.identity?;
        let mut entries = self.by_port.get(&asked.port)?.iter().map(|entry| &**entry);
        entries.find(|entry| !entry.is_over(asked.now) && entry.is_for(identity, local) && takes(entry))
    }
}

impl Entry {
    fn is_over(&self, now: u64) -> bool {
        self.expires.is_some_and(|day| day.has_begun(now))
    }

    fn is_for(&self, identity: &SpiffeId, local: Option<&TrustDomain>) -> bool {
        let takes = |source: &EgressSource| source.takes(identity, local);
        self.from.as_ref().is_none_or(|from| from.iter().any(takes))
    }

    fn allows(&self) -> Decision<'_> {
        Decision {
            policy: Some(&self.policy),
            rule: Some(&self.rule),
            source: Some(&self.source),
            ..Decision::ALLOWED
        }
    }

    /// How many conditions do not hold, and the first of them; `None` if all do.
    fn miss(
        &self,
        asked: &Outside<'_>,
        ip: Option<IpAddr>,
        in_mesh: bool,
        local: Option<&TrustDomain>,
    ) -> Option<(usize, String)> {
        let identity = asked.identity.filter(|id| self.is_for(id, local));
        let misses = [
            (!self.to.takes_name(asked.name)).then(|| self.to.other_name(asked.name)),
            (!self.to.ports.contains(&asked.port)).then(|| format!("it is not for port {}", asked.port)),
            identity.is_none().then(|| "it is for other workloads".to_owned()),
            ip.filter(|ip| !self.to.takes_address(*ip, in_mesh)).map(|ip| self.to.other_address(ip)),
            self.expires.filter(|_| self.is_over(asked.now)).map(|day| format!("it ended on {day}")),
        ];
        let mut misses = misses.into_iter().flatten();
        let first = misses.next()?;
        Some((misses.count().saturating_add(1), first))
    }
}

impl EgressSource {
    fn takes(&self, identity: &SpiffeId, local: Option<&TrustDomain>) -> bool {
        let is_local = local.is_some_and(|domain| domain.as_str() == identity.trust_domain());
        let (namespace, account) = (identity.namespace(), identity.service_account());
        self.principals.as_ref().is_none_or(|list| list.contains(identity))
            && self.service_accounts.as_ref().is_none_or(|list| {
                is_local
                    && list.iter().any(|it| {
                        namespace == Some(it.namespace.as_str()) && account == Some(it.name.as_str())
                    })
            })
            && self
                .namespaces
                .as_ref()
                .is_none_or(|list| is_local && list.iter().any(|name| namespace == Some(name.as_str())))
    }
}

impl EgressDestination {
    fn has_name(&self) -> bool {
        self.hosts.is_some() || self.sni.is_some()
    }

    /// What is asked for by another word, or by none, is not what a rule with a name means; nor is a name what a rule
    /// of addresses alone means.
    fn takes_name(&self, name: Option<Named<'_>>) -> bool {
        let matches = |list: Option<&[HostPattern]>, name: &str| {
            list.is_some_and(|list| list.iter().any(|pattern| pattern.matches(name)))
        };
        match name {
            None => !self.has_name(),
            Some(Named::Host(name)) => matches(self.hosts.as_deref(), name),
            Some(Named::ServerName(name)) => matches(self.sni.as_deref(), name),
        }
    }

    /// Whoever answers for a name decides where it leads: without a block, to the public Internet and no further in.
    fn takes_address(&self, ip: IpAddr, in_mesh: bool) -> bool {
        match self.ip_blocks.as_deref() {
            Some(blocks) => blocks.iter().any(|block| address::is_meant_by(ip, block)),
            None => !in_mesh && address::is_public(ip),
        }
    }

    fn other_name(&self, name: Option<Named<'_>>) -> String {
        let list = |label: &str, list: &[HostPattern]| {
            let shown: Vec<String> =
                list.iter().take(limits::SHOWN_VALUES).map(ToString::to_string).collect();
            let more = if list.len() > limits::SHOWN_VALUES { ", …" } else { "" };
            format!("{label} [{}{more}]", shown.join(", "))
        };
        let wanted = match (self.hosts.as_deref(), self.sni.as_deref()) {
            (Some(hosts), _) => list("hosts", hosts),
            (None, Some(names)) => list("sni", names),
            (None, None) => return "it is for connections to addresses, which name nobody".to_owned(),
        };
        match name {
            None => format!("no name is asked for, to be in {wanted}"),
            Some(Named::Host(name)) => format!("host {name} is not in {wanted}"),
            Some(Named::ServerName(name)) => format!("server name {name} is not in {wanted}"),
        }
    }

    fn other_address(&self, ip: IpAddr) -> String {
        let held = |blocks: &[IpBlock]| blocks.iter().any(|block| block.contains(ip));
        match self.ip_blocks.as_deref() {
            Some(blocks) if held(blocks) => {
                format!(
                    "{ip} is not of the public Internet, and no block of ipBlocks holds such addresses alone"
                )
            }
            Some(_) => format!("{ip} is not in ipBlocks"),
            None => format!("{ip} is not of the public Internet, or of the mesh, and stands in no ipBlocks"),
        }
    }
}

/// How much of the index a rule takes.
pub(crate) fn size_of(rule: &EgressRule) -> usize {
    rule.to.iter().map(|to| to.ports.len()).fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests;
