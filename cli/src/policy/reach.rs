//! `sidegate policy who-can-reach` and `what-can`: calls that the policies let in, found by trying what their Allow
//! rules describe, and ways out of the mesh, by what rules of egress name. Everything listed was allowed by the evaluator;
//! a call that no rule describes is not tried.

mod outside;
mod sample;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::PathBuf,
    sync::Arc,
};

use serde::Serialize;
use sidegate_identity::{SpiffeId, TrustDomain};
use sidegate_policy::{Action, Mode, PathPattern, Peer, Rule, Sourced, Verdict};

use self::sample::{Sample, samples};
use super::{
    called::{Called, label},
    files::{self, Around, Mesh, Policies},
    outside::Target,
};
use crate::{
    args::Output,
    exit::Exit,
    failure::Failure,
    short,
    table::{self, Format},
};

/// Arguments of `sidegate policy who-can-reach`.
#[derive(clap::Args, Debug)]
pub(crate) struct WhoArgs {
    /// Who is called: namespace/account, or a SPIFFE ID. Or a destination outside of the mesh: HOST or ADDRESS, each perhaps with :PORT.
    #[arg(value_name = "SVC")]
    service: String,
    #[command(flatten)]
    rest: Rest,
    /// A label of SVC as key=value, where there is no `mesh.yaml`; app=ACCOUNT if none is given.
    #[arg(long, value_name = "LABEL", value_parser = label, conflicts_with = "mesh")]
    label: Vec<(String, String)>,
}

/// Arguments of `sidegate policy what-can`.
#[derive(clap::Args, Debug)]
pub(crate) struct WhatArgs {
    /// Who calls: namespace/account, or a SPIFFE ID.
    #[arg(value_name = "ID")]
    identity: String,
    #[command(flatten)]
    rest: Rest,
}

#[derive(clap::Args, Debug)]
struct Rest {
    /// The policies: a folder of YAML files, or one file. Left out: the folder that `mesh.yaml` names.
    #[arg(value_name = "DIR")]
    policies: Option<PathBuf>,
    /// Only calls with this HTTP method.
    #[arg(long)]
    method: Option<String>,
    /// Only calls to this path: normalised, without query.
    #[arg(long)]
    path: Option<PathPattern>,
    #[command(flatten)]
    around: Around,
    #[command(flatten)]
    output: Output,
}

/// A call that is let in.
#[derive(Serialize)]
struct Way {
    caller: String,
    called: String,
    example: String,
    policy: Arc<str>,
    rule: Arc<str>,
    at: Arc<str>,
}

/// A rule for callers whom it does not name one by one.
#[derive(PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Open {
    policy: Arc<str>,
    rule: String,
    at: Arc<str>,
}

#[derive(Default, Serialize)]
struct Report {
    ways: Vec<Way>,
    /// Ways out of the mesh.
    outside: Vec<Way>,
    open: BTreeSet<Open>,
    /// Whether what no rule names leaves the mesh as well, if it goes to the public Internet.
    #[serde(rename = "egressByDefault")]
    egress_by_default: bool,
}

/// Lists the callers of a workload.
pub(super) fn who(args: &WhoArgs) -> Result<Exit, Failure> {
    if let Some(target) = Target::of(&args.service) {
        return who_outside(args, &target?);
    }
    let mesh = args.rest.around.read()?;
    let called = Called::of(&args.service, &mesh, &args.label)?;
    let read = mesh.policies(args.rest.policies.as_deref(), Some(&called.namespace))?;
    let selecting = selecting(&read, &called, &mesh);
    let services = mesh.services.iter().flatten().map(|service| service.identity.clone());
    let callers: BTreeSet<SpiffeId> = services.chain(named(&selecting, &called.trust_domain)).collect();
    let mut ways = args.rest.ways(&callers, &called, &read, &mesh);
    ways.extend(args.rest.without_tls(&called, &read, &mesh));
    let report = Report { ways, open: allowing(&selecting).filter_map(open).collect(), ..Report::default() };
    args.rest.print("WhoCanReach", &report)
}

fn who_outside(args: &WhoArgs, target: &Target) -> Result<Exit, Failure> {
    let mesh = args.rest.around.read()?;
    let read = args.rest.read(&mesh)?;
    let mut report = Report { egress_by_default: outside::is_open(&mesh), ..Report::default() };
    for identity in identities(&mesh)? {
        let caller = Called::of(identity.as_str(), &mesh, &[])?;
        report.outside.extend(outside::ways_to(target, &caller, &read, &mesh));
    }
    args.rest.print("WhoCanReach", &report)
}

/// Lists what an identity can call.
pub(super) fn what(args: &WhatArgs) -> Result<Exit, Failure> {
    let mesh = args.rest.around.read()?;
    let identities = identities(&mesh)?;
    let asked = files::identity(&args.identity, mesh.trust_domain.as_ref())?;
    let read = args.rest.read(&mesh)?;
    let mut report = Report::default();
    // Only a service of this mesh has a sidecar that a policy of egress could select.
    if identities.contains(&asked) {
        let workload = Called::of(asked.as_str(), &mesh, &[])?;
        report.outside = outside::ways(&workload, &read, &mesh, &args.rest);
        report.egress_by_default = outside::is_open(&mesh);
    }
    let callers = BTreeSet::from([asked]);
    for identity in &identities {
        let called = Called::of(identity.as_str(), &mesh, &[])?;
        report.ways.extend(args.rest.ways(&callers, &called, &read, &mesh));
    }
    args.rest.print("WhatCan", &report)
}

/// Those of all services.
fn identities(mesh: &Mesh) -> Result<BTreeSet<SpiffeId>, Failure> {
    let services = mesh.services.as_ref().ok_or_else(|| {
        let why = "which services there are is written in mesh.yaml";
        Failure::new(Exit::Usage, "the services are unknown", why, "add --mesh mesh.yaml")
    })?;
    Ok(services.iter().map(|service| service.identity.clone()).collect())
}

impl Way {
    /// Whether it is between the same ends, by the same rule and in the same way.
    fn is_as(&self, other: &Self) -> bool {
        (&self.caller, &self.called, &self.example) == (&other.caller, &other.called, &other.example)
            && (&self.policy, &self.rule) == (&other.policy, &other.rule)
    }
}

impl Rest {
    fn read(&self, mesh: &Mesh) -> Result<Policies, Failure> {
        mesh.policies(self.policies.as_deref(), None)
    }

    /// Whether only requests are asked for.
    fn is_http(&self) -> bool {
        self.method.is_some() || self.path.is_some()
    }

    /// One way for each caller and rule that lets it in.
    fn ways(&self, callers: &BTreeSet<SpiffeId>, called: &Called, read: &Policies, mesh: &Mesh) -> Vec<Way> {
        let policies = read.set.compile(&called.workload(mesh.root_namespace.as_deref()));
        let samples: Vec<Sample> = samples(&selecting(read, called, mesh), &called.account)
            .into_iter()
            .map(|sample| sample.with(self.method.as_deref(), self.path.as_ref(), &called.account))
            .collect();
        let now = super::now();
        let mut ways = Vec::new();
        for caller in callers {
            let mut by_rule = BTreeMap::new();
            for sample in &samples {
                let decision = policies.judge(&sample.request(Some(caller), now));
                let (Some(policy), Some(rule), Some(at)) = (decision.policy, decision.rule, decision.source)
                else {
                    continue;
                };
                if decision.verdict == Verdict::Allow {
                    by_rule.entry((policy, rule)).or_insert((sample, at));
                }
            }
            ways.extend(by_rule.into_iter().map(|((policy, rule), (sample, at))| Way {
                caller: caller.to_string(),
                called: called.identity.to_string(),
                example: sample.to_string(),
                policy: Arc::clone(policy),
                rule: Arc::clone(rule),
                at: Arc::clone(at),
            }));
        }
        ways
    }

    /// One way for each exception and each of its blocks, from the first address of that.
    fn without_tls(&self, called: &Called, read: &Policies, mesh: &Mesh) -> Vec<Way> {
        let workload = called.workload(mesh.root_namespace.as_deref());
        let policies = read.set.compile(&workload);
        let now = super::now();
        let mut ways = Vec::new();
        for exception in read.set.exceptions(&workload) {
            let samples = sample::of_exception(exception.policy(), &called.account).into_iter();
            let mut seen = BTreeSet::new();
            for (block, sample) in samples {
                let sample = sample.with(self.method.as_deref(), self.path.as_ref(), &called.account);
                let decision = policies.judge(&sample.request(None, now));
                let is_by_it = decision.policy == Some(exception.name());
                if decision.verdict == Verdict::Allow && is_by_it && seen.insert(block.clone()) {
                    ways.push(Way {
                        caller: format!("{} from {block}", files::PLAINTEXT),
                        called: called.identity.to_string(),
                        example: sample.to_string(),
                        policy: Arc::clone(exception.name()),
                        rule: exception.policy().metadata.name.to_string().into(),
                        at: Arc::clone(exception.source()),
                    });
                }
            }
        }
        ways
    }

    fn print(&self, kind: &'static str, report: &Report) -> Result<Exit, Failure> {
        match self.output.output {
            Format::Json => table::print_json(kind, report)?,
            form @ (Format::Table | Format::Wide) => table::print(&text(report, form == Format::Wide))?,
        }
        Ok(Exit::Ok)
    }
}

fn text(report: &Report, wide: bool) -> String {
    let end = |id: &str| {
        if wide { id.to_owned() } else { short::identity(Some(id)) }
    };
    let rows = report.ways.iter().chain(&report.outside).map(|way| {
        [
            if wide || way.caller.starts_with(files::PLAINTEXT) {
                way.caller.clone()
            } else {
                end(&way.caller)
            },
            end(&way.called),
            way.example.clone(),
            format!("{}/{}", way.policy, way.rule),
            way.at.to_string(),
        ]
    });
    let mut text = table::columns(["CALLER", "CALLED", "EXAMPLE", "RULE", "AT"], rows);
    for Open { policy, rule, at } in &report.open {
        let _ = writeln!(text, "rule {rule} of {policy} ({at}) may let in callers that are not listed here");
    }
    if report.egress_by_default {
        text.push_str(
            "egress: Allow lets every service leave for any other address of the public Internet as well\n",
        );
    }
    text
}

fn selecting<'p>(read: &'p Policies, called: &Called, mesh: &Mesh) -> Vec<&'p Sourced> {
    let workload = called.workload(mesh.root_namespace.as_deref());
    read.set.selecting(&workload).collect()
}

/// The rules that let in.
fn allowing<'p>(selecting: &[&'p Sourced]) -> impl Iterator<Item = (&'p Sourced, &'p Rule, &'p Arc<str>)> {
    let spec = |sourced: &&Sourced| {
        let spec = &sourced.policy().spec;
        spec.action == Action::Allow && spec.mode == Mode::Enforce
    };
    let allowing: Vec<&'p Sourced> = selecting.iter().copied().filter(spec).collect();
    allowing.into_iter().flat_map(|sourced| sourced.rules().map(move |(rule, at)| (sourced, rule, at)))
}

/// Everybody whom a rule names.
fn named(selecting: &[&Sourced], local: &TrustDomain) -> impl Iterator<Item = SpiffeId> {
    let mut named = Vec::new();
    for peer in allowing(selecting).flat_map(|(_, rule, _)| rule.from.iter().flat_map(|from| from.iter())) {
        named.extend(peer.principals.iter().flat_map(|list| list.iter().cloned()));
        let domains = peer.trust_domains.as_deref().unwrap_or(std::slice::from_ref(local));
        let accounts = peer.service_accounts.iter().flat_map(|list| list.iter());
        for account in accounts {
            let (namespace, name) = (account.namespace.as_str(), account.name.as_str());
            let ids = domains.iter().map(|domain| SpiffeId::for_workload(domain, namespace, name));
            named.extend(ids.filter_map(Result::ok));
        }
    }
    named.into_iter()
}

fn open((sourced, rule, at): (&Sourced, &Rule, &Arc<str>)) -> Option<Open> {
    let names_nobody = |peer: &Peer| peer.principals.is_none() && peer.service_accounts.is_none();
    let is_open = rule.from.as_ref().is_none_or(|from| from.iter().any(names_nobody));
    is_open.then(|| Open {
        policy: Arc::clone(sourced.name()),
        rule: rule.name.to_string(),
        at: Arc::clone(at),
    })
}
