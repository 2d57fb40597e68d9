//! `sidegate policy diff A B`: what the one set lets in, or out of the mesh, and the other does not, by trying one request of each
//! kind that either tells apart. Everything listed was judged twice by the sidecar's own evaluator.

mod outside;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::PathBuf,
};

use serde::Serialize;
use sidegate_identity::{SpiffeId, TrustDomain};
use sidegate_policy::{Decision, PolicySet, Verdict, Workload};

use super::{
    files::{self, Around, Mesh},
    now,
    world::{Known, World},
};
use crate::{
    args::Output,
    exit::Exit,
    failure::Failure,
    table::{self, Format},
};

/// Arguments of `sidegate policy diff`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The policies as they are: a folder of YAML files, or one file.
    #[arg(value_name = "A")]
    before: PathBuf,
    /// The policies as they would be.
    #[arg(value_name = "B")]
    after: PathBuf,
    #[command(flatten)]
    around: Around,
    #[command(flatten)]
    output: Output,
}

/// Requests of one caller that are decided otherwise, by the same rules.
#[derive(Serialize)]
struct Change {
    /// `allowed` or `denied`.
    newly: &'static str,
    caller: String,
    called: String,
    /// One of them.
    example: String,
    /// Kinds of requests.
    kinds: usize,
    before: String,
    after: String,
}

#[derive(Serialize)]
struct Report {
    changes: Vec<Change>,
    /// How many requests were tried.
    tried: usize,
    /// Whether that is one of each kind, so that without a change there is no difference.
    complete: bool,
}

/// A workload whose policies are compared.
struct Place {
    name: String,
    /// Of a service; of whatever a selector selects it is not known.
    identity: Option<SpiffeId>,
    host: String,
    namespace: String,
    labels: BTreeMap<String, String>,
    trust_domain: TrustDomain,
}

/// Exit code 1 if anything differs.
pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mesh = args.around.read()?;
    let (before, after) = (mesh.policies(Some(&args.before), None)?, mesh.policies(Some(&args.after), None)?);
    let mut report = Report { changes: Vec::new(), tried: 0, complete: true };
    for place in places(&mesh, [&before.set, &after.set])? {
        report.compare(&place, &mesh, &before.set, &after.set);
        outside::compare(&mut report, &place, &mesh, &before.set, &after.set);
    }
    report.changes.sort_by(|a, b| (a.newly, &a.called, &a.caller).cmp(&(b.newly, &b.called, &b.caller)));
    match args.output.output {
        Format::Json => table::print_json("PolicyDiff", &report)?,
        form @ (Format::Table | Format::Wide) => table::print(&text(&report, form == Format::Wide))?,
    }
    Ok(if report.changes.is_empty() { Exit::Ok } else { Exit::Findings })
}

impl Report {
    fn compare(&mut self, place: &Place, mesh: &Mesh, before: &PolicySet, after: &PolicySet) {
        let workload = place.workload(mesh.root_namespace.as_deref());
        let services: Vec<SpiffeId> =
            mesh.services.iter().flatten().map(|service| service.identity.clone()).collect();
        let world = World::of(&[before, after], &workload, &place.trust_domain, &place.host, &services);
        let (before, after) = (before.compile(&workload), after.compile(&workload));
        let now = now();
        for caller in world.callers() {
            let calls = world.calls(caller, Known::default(), MOST_TRIED.saturating_sub(self.tried));
            self.complete &= calls.is_complete;
            self.tried += calls.list.len();
            let mut changes: BTreeMap<(String, String), Change> = BTreeMap::new();
            for call in &calls.list {
                let request = call.request(caller, now);
                let (was, is) = (before.judge(&request), after.judge(&request));
                if was.verdict == is.verdict {
                    continue;
                }
                let decided = (decided_by(&was), decided_by(&is));
                let change = changes.entry(decided).or_insert_with(|| Change {
                    newly: if is.verdict == Verdict::Allow { "allowed" } else { "denied" },
                    caller: caller.map_or_else(|| files::PLAINTEXT.to_owned(), ToString::to_string),
                    called: place.name.clone(),
                    example: call.to_string(),
                    kinds: 0,
                    before: decided_by(&was),
                    after: decided_by(&is),
                });
                change.kinds += 1;
            }
            self.changes.extend(changes.into_values());
        }
    }
}

impl Place {
    fn workload<'a>(&'a self, root_namespace: Option<&'a str>) -> Workload<'a> {
        Workload {
            namespace: &self.namespace,
            labels: &self.labels,
            trust_domain: self.trust_domain.as_str(),
            root_namespace,
        }
    }
}

/// The services of the mesh, or else one workload for each selector that the policies have.
fn places(mesh: &Mesh, sets: [&PolicySet; 2]) -> Result<Vec<Place>, Failure> {
    let trust_domain = mesh.trust_domain.clone().ok_or_else(|| {
        let why = "which identities a namespace/account means depends on the trust domain";
        Failure::new(
            Exit::Usage,
            "the trust domain is unknown",
            why,
            "add --mesh mesh.yaml or --trust-domain",
        )
    })?;
    if let Some(services) = &mesh.services {
        let place = |it: &sidegate_control_plane::config::Service| Place {
            name: format!("{}/{}", it.name.namespace, it.name.name),
            identity: Some(it.identity.clone()),
            host: it.name.name.clone(),
            namespace: it.name.namespace.clone(),
            labels: it.labels.clone(),
            trust_domain: trust_domain.clone(),
        };
        return Ok(services.iter().map(place).collect());
    }
    let mut selected: BTreeSet<(String, BTreeMap<String, String>)> = BTreeSet::new();
    for document in sets.iter().flat_map(|set| set.documents()) {
        let namespace = document.metadata().namespace.to_string();
        // A workload without labels, and one with those that are asked for.
        selected.insert((namespace.clone(), BTreeMap::new()));
        selected.extend(document.selector().cloned().map(|labels| (namespace, labels)));
    }
    let place = |(namespace, labels): (String, BTreeMap<String, String>)| {
        let shown: Vec<String> = labels.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        let (name, host) = (format!("{namespace} {{{}}}", shown.join(", ")), "workload".to_owned());
        Place { name, identity: None, host, namespace, labels, trust_domain: trust_domain.clone() }
    };
    Ok(selected.into_iter().map(place).collect())
}

/// `rule charge of shop/payments`, or why nobody let it in.
pub(super) fn decided_by(decision: &Decision<'_>) -> String {
    let code = decision.code.map_or_else(String::new, |code| format!(" ({code})"));
    match (decision.rule, decision.policy) {
        (Some(rule), Some(policy)) => format!("{policy}/{rule}{code}"),
        (None, Some(policy)) => format!("{policy}{code}"),
        _ => format!("no rule{code}"),
    }
}

fn text(report: &Report, wide: bool) -> String {
    let name = |id: &str| if wide { id.to_owned() } else { files::caller(id) };
    let rows = report.changes.iter().map(|change| {
        [
            format!("newly {}", change.newly),
            name(&change.caller),
            change.called.clone(),
            change.example.clone(),
            change.before.clone(),
            change.after.clone(),
            change.kinds.to_string(),
        ]
    });
    let mut text = if report.changes.is_empty() {
        String::new()
    } else {
        table::columns(["CHANGE", "CALLER", "CALLED", "EXAMPLE", "BEFORE", "AFTER", "KINDS"], rows)
    };
    let count = |newly: &str| report.changes.iter().filter(|change| change.newly == newly).count();
    let _ = writeln!(
        text,
        "newly allowed {}   newly denied {}   requests tried {}",
        count("allowed"),
        count("denied"),
        report.tried
    );
    if !report.complete {
        text.push_str("not every kind of request was tried: a `when` or `jwt` asks for what cannot be listed, or there are too many\n");
    }
    text
}

/// Requests judged in both sets: some seconds' worth.
const MOST_TRIED: usize = 5_000_000;
