//! `sidegate policy who-can-reach` and `what-can`: calls that the policies let in, found by trying what their Allow
//! rules describe. Everything listed was allowed by the evaluator; a call that no rule describes is not tried.

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
    /// Who is called: namespace/account, or a SPIFFE ID.
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

#[derive(Serialize)]
struct Report {
    ways: Vec<Way>,
    open: BTreeSet<Open>,
}

/// Lists the callers of a workload.
pub(super) fn who(args: &WhoArgs) -> Result<Exit, Failure> {
    let mesh = args.rest.around.read()?;
    let called = Called::of(&args.service, &mesh, &args.label)?;
    let read = mesh.policies(args.rest.policies.as_deref(), Some(&called.namespace))?;
    let selecting = selecting(&read, &called, &mesh);
    let services = mesh.services.iter().flatten().map(|service| service.identity.clone());
    let callers: BTreeSet<SpiffeId> = services.chain(named(&selecting, &called.trust_domain)).collect();
    let report = Report {
        ways: args.rest.ways(&callers, &called, &read, &mesh),
        open: allowing(&selecting).filter_map(open).collect(),
    };
    args.rest.print("WhoCanReach", &report)
}

/// Lists what an identity can call.
pub(super) fn what(args: &WhatArgs) -> Result<Exit, Failure> {
    let mesh = args.rest.around.read()?;
    let services = mesh.services.as_ref().ok_or_else(|| {
        let why = "which services there are is written in mesh.yaml";
        Failure::new(Exit::Usage, "the services are unknown", why, "add --mesh mesh.yaml")
    })?;
    let callers = BTreeSet::from([files::identity(&args.identity, mesh.trust_domain.as_ref())?]);
    let read = mesh.policies(args.rest.policies.as_deref(), None)?;
    let mut ways = Vec::new();
    let identities: BTreeSet<&SpiffeId> = services.iter().map(|service| &service.identity).collect();
    for identity in identities {
        let called = Called::of(identity.as_str(), &mesh, &[])?;
        ways.extend(args.rest.ways(&callers, &called, &read, &mesh));
    }
    args.rest.print("WhatCan", &Report { ways, open: BTreeSet::new() })
}

impl Rest {
    /// One way for each caller and rule that lets it in.
    fn ways(&self, callers: &BTreeSet<SpiffeId>, called: &Called, read: &Policies, mesh: &Mesh) -> Vec<Way> {
        let policies = read.set.compile(&called.workload(mesh.root_namespace.as_deref()));
        let samples: Vec<Sample> = samples(&selecting(read, called, mesh), &called.account)
            .into_iter()
            .map(|sample| sample.with(self.method.as_deref(), self.path.as_ref(), &called.account))
            .collect();
        let now = u64::try_from(time::OffsetDateTime::now_utc().unix_timestamp()).unwrap_or_default();
        let mut ways = Vec::new();
        for caller in callers {
            let mut by_rule = BTreeMap::new();
            for sample in &samples {
                let decision = policies.judge(&sample.request(caller, now));
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
    let rows = report.ways.iter().map(|way| {
        [
            end(&way.caller),
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
