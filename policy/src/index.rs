//! The rules of one stage, found by who calls, then by port, then by path: a request pays for the rules that are for
//! its caller, port and path, however many others there are. The rule that decides comes with what is found.
//!
//! Of what it yields, port and path are matched for good; every other condition is still to be asked.

use std::{slice, sync::Arc};

use hashbrown::HashMap;
use sidegate_identity::{SpiffeId, TrustDomain};

use crate::{
    Condition, Jwt, Rego, Request,
    compile::CompiledRule,
    limits,
    model::{Operation, Peer, Rule},
    values::{Date, HostPattern, Method, PathPattern},
};

mod callers;
mod paths;

use callers::Callers;
pub(crate) use callers::PeerTest;
use paths::PathIndex;

/// The rules of one stage.
#[derive(Debug, Default)]
pub(crate) struct RuleIndex {
    /// In the order of policy names, then of positions.
    rules: Vec<Arc<CompiledRule>>,
    /// How many clauses the rules have.
    clauses: usize,
    /// For callers that rules name exactly.
    exact: HashMap<SpiffeId, PortIndex>,
    /// For callers that rules describe otherwise.
    open: PortIndex,
}

/// One way to match a rule: one of its operations, with one of that operation's paths.
#[derive(Clone, Debug)]
pub(crate) struct Clause {
    pub(crate) rule: Arc<CompiledRule>,
    ports: Option<Arc<[u16]>>,
    pub(crate) methods: Option<Arc<[Method]>>,
    pub(crate) hosts: Option<Arc<[HostPattern]>>,
    pub(crate) server_names: Option<Arc<[HostPattern]>>,
    pub(crate) path: Option<PathPattern>,
    /// This, `jwt`, `when` and `rego` as the rule says; here because every judgement asks.
    pub(crate) expires: Option<Date>,
    pub(crate) jwt: Option<Arc<Jwt>>,
    pub(crate) when: Option<Condition>,
    pub(crate) rego: Option<Rego>,
}

/// A clause that a caller may match.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// The place of its clause among all of the index: of several that match, the first decides.
    pub(crate) rank: usize,
    pub(crate) clause: Arc<Clause>,
    /// `None`: nothing is left to ask of the peer.
    pub(crate) peer: Option<Arc<PeerTest>>,
}

/// The candidates of one caller.
#[derive(Debug, Default)]
struct PortIndex {
    by_port: HashMap<u16, PathIndex>,
    any: PathIndex,
    /// The first of its rules, for explanations.
    rules: Vec<Arc<CompiledRule>>,
}

impl RuleIndex {
    /// Shows `visit` every list that can hold a match of the request, each in the order of candidates.
    pub(crate) fn visit_matches<'i>(
        &'i self,
        caller: Option<&SpiffeId>,
        request: &Request<'_>,
        mut visit: impl FnMut(&'i [Candidate]),
    ) {
        let path = request.http.map(|http| http.path);
        for paths in self.at(caller, request.port) {
            paths.visit_matches(path, &mut visit);
        }
    }

    /// Shows `visit` every list whose clauses an opaque connection leaves in doubt.
    pub(crate) fn visit_doubtful<'i>(
        &'i self,
        caller: Option<&SpiffeId>,
        port: u16,
        mut visit: impl FnMut(&'i [Candidate]),
    ) {
        for paths in self.at(caller, port) {
            visit(paths.doubtful());
        }
    }

    /// Some rules, those that are near to matching first; a rule may come twice.
    pub(crate) fn near<'i>(
        &'i self,
        caller: Option<&SpiffeId>,
        request: &Request<'_>,
    ) -> impl Iterator<Item = &'i CompiledRule> {
        let mut matched = Vec::new();
        self.visit_matches(caller, request, |candidates| {
            let wanted = limits::EXPLAINED_RULES.saturating_sub(matched.len());
            matched.extend(candidates.iter().take(wanted).map(|candidate| &candidate.clause.rule));
        });
        // Then those for this caller on any port and path, then all there are.
        let own = self.of(caller).flat_map(|ports| &ports.rules);
        matched.into_iter().chain(own).chain(&self.rules).map(|rule| &**rule)
    }

    /// All of them, in their order.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &CompiledRule> {
        self.rules.iter().map(|rule| &**rule)
    }

    /// How many rules there are.
    pub(crate) fn len(&self) -> usize {
        self.rules.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Adds a rule that comes after all others; `local` is the workload's own trust domain.
    pub(crate) fn add(&mut self, rule: CompiledRule, local: Option<&TrustDomain>) {
        let rule = Arc::new(rule);
        let callers = Callers::of(&rule.rule, local);
        // Clause by clause, so that every list is in the order of ranks.
        for clause in Clause::all_of(&rule) {
            for Callers { id, test } in &callers {
                let ports = match id {
                    Some(id) => self.exact.entry(id.clone()).or_default(),
                    None => &mut self.open,
                };
                ports.add(&Candidate { rank: self.clauses, clause: Arc::clone(&clause), peer: test.clone() });
            }
            self.clauses = self.clauses.saturating_add(1);
        }
        self.rules.push(rule);
    }

    fn of(&self, caller: Option<&SpiffeId>) -> impl Iterator<Item = &PortIndex> {
        caller.and_then(|caller| self.exact.get(caller)).into_iter().chain([&self.open])
    }

    fn at(&self, caller: Option<&SpiffeId>, port: u16) -> impl Iterator<Item = &PathIndex> {
        self.of(caller).flat_map(move |ports| ports.by_port.get(&port).into_iter().chain([&ports.any]))
    }
}

impl PortIndex {
    fn add(&mut self, candidate: &Candidate) {
        let Clause { rule, ports, .. } = &*candidate.clause;
        let is_new = self.rules.last().is_none_or(|last| last.order != rule.order);
        if is_new && self.rules.len() < limits::EXPLAINED_RULES {
            self.rules.push(Arc::clone(rule));
        }
        match ports {
            None => self.any.add(candidate.clone()),
            Some(ports) => {
                for port in ports.iter() {
                    self.by_port.entry(*port).or_default().add(candidate.clone());
                }
            }
        }
    }
}

impl Clause {
    /// In the order in which the rule says them.
    fn all_of(rule: &Arc<CompiledRule>) -> Vec<Arc<Self>> {
        let any = [Operation::default()];
        let operations = rule.rule.to.as_deref().unwrap_or(&any);
        operations.iter().flat_map(|operation| Self::of(rule, operation)).collect()
    }

    fn unconditional(rule: Arc<CompiledRule>) -> Self {
        Self {
            expires: rule.rule.expires,
            jwt: rule.rule.jwt.clone().map(Arc::new),
            when: rule.rule.when.clone(),
            rego: rule.rule.rego.clone(),
            rule,
            ports: None,
            methods: None,
            hosts: None,
            server_names: None,
            path: None,
        }
    }

    fn of(rule: &Arc<CompiledRule>, operation: &Operation) -> Vec<Arc<Self>> {
        let grpc = operation.grpc.as_ref();
        let called = grpc.map(|grpc| PathPattern::of_grpc(&grpc.service, grpc.method.as_ref()));
        let paths = operation.paths.as_deref().or(called.as_ref().map(slice::from_ref));
        let methods = match grpc {
            Some(_) => Some([Method::post()].into()),
            None => operation.methods.as_deref().map(Into::into),
        };
        let clause = Self {
            ports: operation.ports.as_deref().map(Into::into),
            methods,
            hosts: operation.hosts.as_deref().map(Into::into),
            server_names: operation.sni.as_deref().map(Into::into),
            ..Self::unconditional(Arc::clone(rule))
        };
        match paths {
            None => vec![Arc::new(clause)],
            Some(paths) => paths
                .iter()
                .map(|path| Arc::new(Self { path: Some(path.clone()), ..clause.clone() }))
                .collect(),
        }
    }
}

/// How much of an index a rule takes: every caller is found with every port and every segment of a path.
pub(crate) fn size_of(rule: &Rule) -> usize {
    let operations = rule.to.as_deref().unwrap_or_default();
    let asked = operations.iter().map(asked_in).fold(0, usize::saturating_add);
    let peers = rule.from.as_deref().unwrap_or_default();
    let called = peers.iter().map(Peer::callers).fold(0, usize::saturating_add);
    called.max(1).saturating_mul(asked.max(1))
}

fn asked_in(operation: &Operation) -> usize {
    let of_path = |path: &PathPattern| path.segments().len().saturating_add(1);
    let paths = operation.paths.as_deref().unwrap_or_default();
    let paths = paths.iter().map(of_path).fold(0, usize::saturating_add);
    let ports = operation.ports.as_ref().map_or(1, |ports| ports.len());
    ports.saturating_mul(paths.max(1))
}
