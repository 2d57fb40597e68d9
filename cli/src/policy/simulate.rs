//! `sidegate policy simulate DIR`: recorded calls under other policies. Of a call as much is known as was recorded; where the
//! answer depends on the rest, it is said to, and never guessed.

use std::{collections::BTreeMap, fmt::Write, path::PathBuf};

use serde::Serialize;
use sidegate_identity::TrustDomain;
use sidegate_policy::{Policies, PolicySet, Workload};

use super::{
    called::Called,
    diff::decided_by,
    files::{self, Around, Mesh},
    now,
    observed::{self, Asked, Call, Evidence, Verdict},
    world::{Known, World},
};
use crate::{
    args::Output,
    exit::Exit,
    failure::Failure,
    table::{self, Format},
};

/// Arguments of `sidegate policy simulate`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The proposed policies: a folder of YAML files, or one file.
    #[arg(value_name = "DIR")]
    policies: PathBuf,
    /// The policies under which the calls were recorded: they tell which requests a recorded rule let in. Left out: the folder
    /// that `mesh.yaml` names.
    #[arg(long, value_name = "DIR")]
    current: Option<PathBuf>,
    #[command(flatten)]
    from: observed::From,
    #[command(flatten)]
    around: Around,
    #[command(flatten)]
    output: Output,
}

/// What would become of a kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Then {
    /// Let in until now.
    Denied,
    /// Refused until now.
    Allowed,
    /// Some of what the record may stand for would be decided otherwise.
    Depends,
    Same,
}

#[derive(Serialize)]
struct Row {
    source: String,
    destination: String,
    port: Option<u16>,
    asked: String,
    count: u64,
    now: &'static str,
    then: Then,
    /// Who would decide; of several, who decides otherwise.
    by: String,
    /// A request that would be decided otherwise.
    example: Option<String>,
}

#[derive(Serialize)]
struct Report {
    calls: usize,
    requests: u64,
    /// Calls to workloads that the mesh does not have.
    unknown: usize,
    changes: Vec<Row>,
}

/// Exit code 1 if a recorded call would be decided otherwise.
pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mesh = args.around.read()?;
    let proposed = files::Policies::read(&args.policies, None)?.lasting_no_longer_than_allowed()?;
    let current = match (&args.current, mesh.services.is_some()) {
        (None, false) => None,
        (named, _) => Some(mesh.policies(named.as_deref(), None)?),
    };
    let observed = args.from.read()?;
    let mut report = Report { calls: 0, requests: 0, unknown: 0, changes: Vec::new() };
    let current = current.as_ref().map(|read| &read.set);
    let mut simulations = BTreeMap::new();
    for (call, evidence) in &observed {
        let simulation = simulations.entry(&call.destination).or_insert_with(|| {
            let called = Called::of(call.destination.as_str(), &mesh, &[]).ok()?;
            Some(Simulation::of(&called, &mesh, &proposed.set, current))
        });
        let Some(simulation) = simulation else {
            report.unknown += 1;
            continue;
        };
        report.calls += 1;
        report.requests = report.requests.saturating_add(evidence.count);
        let row = simulation.row(call, evidence);
        report.changes.extend((row.then != Then::Same).then_some(row));
    }
    report.changes.sort_by_key(|row| (row.then, std::cmp::Reverse(row.count)));
    match args.output.output {
        Format::Json => table::print_json("PolicySimulation", &report)?,
        form @ (Format::Table | Format::Wide) => table::print(&text(&report, form == Format::Wide))?,
    }
    Ok(if report.changes.is_empty() { Exit::Ok } else { Exit::Findings })
}

/// One workload under both sets.
struct Simulation<'p> {
    world: World<'p>,
    current: Option<Policies>,
    proposed: Policies,
}

impl<'p> Simulation<'p> {
    fn of(called: &Called, mesh: &Mesh, proposed: &'p PolicySet, current: Option<&'p PolicySet>) -> Self {
        let workload: Workload<'_> = called.workload(mesh.root_namespace.as_deref());
        let sets: Vec<&PolicySet> = current.into_iter().chain([proposed]).collect();
        let local: &TrustDomain = &called.trust_domain;
        Self {
            world: World::of(&sets, &workload, local, &called.account, &[]),
            current: current.map(|set| set.compile(&workload)),
            proposed: proposed.compile(&workload),
        }
    }

    fn row(&self, call: &Call, evidence: &Evidence) -> Row {
        let calls = self.world.calls(call.source.as_ref(), known(call), MOST_TRIED).list;
        let now = now();
        let is_recorded = |tried: &&super::world::Call| {
            self.is_as_recorded(call, &tried.request(call.source.as_ref(), now))
        };
        let mut recorded: Vec<_> = calls.iter().filter(is_recorded).collect();
        if recorded.is_empty() {
            // The policies have changed since, so nothing narrows what the record may stand for.
            recorded = calls.iter().collect();
        }
        let was_let_in = call.verdict == Verdict::Allowed;
        let judged: Vec<_> = recorded
            .iter()
            .map(|tried| (*tried, self.proposed.judge(&tried.request(call.source.as_ref(), now))))
            .collect();
        let is_let_in = |it: &sidegate_policy::Decision<'_>| it.verdict == sidegate_policy::Verdict::Allow;
        let changed = judged.iter().filter(|(_, decision)| is_let_in(decision) != was_let_in).count();
        let then = match changed {
            0 => Then::Same,
            all if all == judged.len() && was_let_in => Then::Denied,
            all if all == judged.len() => Then::Allowed,
            _ => Then::Depends,
        };
        let example = judged.iter().find(|(_, decision)| is_let_in(decision) != was_let_in);
        Row {
            source: call.source.as_ref().map_or_else(|| files::PLAINTEXT.to_owned(), ToString::to_string),
            destination: call.destination.to_string(),
            port: call.port,
            asked: call.asked.to_string(),
            count: evidence.count,
            now: if was_let_in { "allowed" } else { "denied" },
            then,
            by: example.or(judged.first()).map(|(_, decision)| decided_by(decision)).unwrap_or_default(),
            example: example.map(|(tried, _)| tried.to_string()),
        }
    }

    /// Whether the policies of that time decide the request as it was recorded, by the same rule.
    fn is_as_recorded(&self, call: &Call, request: &sidegate_policy::Request<'_>) -> bool {
        let Some(current) = &self.current else { return true };
        let decision = current.judge(request);
        let is_let_in = decision.verdict == sidegate_policy::Verdict::Allow;
        is_let_in == (call.verdict == Verdict::Allowed)
            && decision.policy.map(|policy| &**policy) == call.policy.as_deref()
            && decision.rule.map(|rule| &**rule) == call.rule.as_deref()
    }
}

fn known(call: &Call) -> Known<'_> {
    let known = Known { port: call.port, is_http: Some(call.asked != Asked::Opaque), ..Known::default() };
    match &call.asked {
        Asked::Opaque => known,
        Asked::Request { route } => Known { route: route.as_deref(), ..known },
        Asked::Exactly { method, path } => Known { method: Some(method), path: Some(path), ..known },
    }
}

fn text(report: &Report, wide: bool) -> String {
    let name = |id: &str| if wide { id.to_owned() } else { files::caller(id) };
    let mut text = String::new();
    if !report.changes.is_empty() {
        let rows = report.changes.iter().map(|row| {
            [
                name(&row.source),
                name(&row.destination),
                table::or_dash(row.port),
                row.asked.clone(),
                row.count.to_string(),
                row.now.to_owned(),
                format!("{:?}", row.then).to_lowercase(),
                row.by.clone(),
                table::or_dash(row.example.as_ref()),
            ]
        });
        text = table::columns(["SRC", "DST", "PORT", "ASKED", "COUNT", "NOW", "THEN", "BY", "EXAMPLE"], rows);
    }
    let count = |then: Then| report.changes.iter().filter(|row| row.then == then).count();
    let _ = writeln!(
        text,
        "replayed {} kinds of calls ({} requests): {} would break, {} would open, {} depend on what was not recorded",
        report.calls,
        report.requests,
        count(Then::Denied),
        count(Then::Allowed),
        count(Then::Depends)
    );
    if report.unknown > 0 {
        let _ =
            writeln!(text, "{} kinds of calls are to workloads that the mesh does not have", report.unknown);
    }
    text
}

/// Requests that one record may stand for.
const MOST_TRIED: usize = 20_000;
