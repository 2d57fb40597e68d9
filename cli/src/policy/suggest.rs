//! `sidegate policy suggest`: the narrowest Allow policies that let in what was recorded, with the evidence beside each line. A
//! proposal, made to be read: nothing is put in force, and what was only ever called by mistake is proposed too.

mod template;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::PathBuf,
};

use serde_json::{Map, Value, json};
use sidegate_identity::SpiffeId;
use sidegate_policy::{Operation, PathPattern, PolicySet, Rule};

use super::{
    called::Called,
    files::{Around, Mesh, Policies},
    observed::{self, Asked, Call, Evidence, Observed, Verdict},
};
use crate::{exit::Exit, failure::Failure, table};

/// Arguments of `sidegate policy suggest`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only for this workload: namespace/account, or a SPIFFE ID.
    #[arg(value_name = "SVC")]
    service: Option<String>,
    /// The policies under which the calls were recorded: an edge without methods takes those of the rule that let it in.
    /// Left out: the folder that `mesh.yaml` names, if there is one.
    #[arg(long, value_name = "DIR")]
    current: Option<PathBuf>,
    #[command(flatten)]
    from: observed::From,
    #[command(flatten)]
    around: Around,
    /// The form of the answer.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
    output: Form,
}

/// The form of the proposal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// Policies to put in a file, with the evidence as comments.
    #[default]
    Yaml,
    /// Exactly one JSON document, `apiVersion: cli.sidegate.dev/v1`.
    Json,
}

/// A policy for one workload.
struct Proposal {
    name: String,
    namespace: String,
    labels: BTreeMap<String, String>,
    rules: Vec<Proposed>,
}

/// What one caller did.
struct Proposed {
    name: String,
    from: Value,
    operations: Vec<(Value, Evidence)>,
}

/// Prints what would let in all that was let in.
pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mesh = args.around.read()?;
    let current = match (&args.current, mesh.services.is_some()) {
        (None, false) => None,
        (named, _) => Some(mesh.policies(named.as_deref(), None)?),
    };
    let wanted = args.service.as_deref().map(|text| Called::of(text, &mesh, &[])).transpose()?;
    let mut observed = args.from.read()?;
    observed.retain(|call, _| {
        let is_wanted = wanted.as_ref().is_none_or(|called| called.identity == call.destination);
        call.verdict == Verdict::Allowed && is_wanted
    });
    let proposals = proposals(&observed, &mesh, current.as_ref().map(|read| &read.set));
    let text = yaml(&proposals);
    if !proposals.is_empty() {
        // What is printed must load as it stands.
        Policies::check(&text).map_err(|error| {
            let next = "name one workload, or read fewer edges";
            Failure::new(Exit::Usage, "the proposal does not load", error.to_string(), next)
        })?;
    }
    match args.output {
        Form::Yaml => table::print(&text)?,
        Form::Json => {
            let policies: Vec<Value> = proposals.iter().map(Proposal::document).collect();
            table::print_json("PolicySuggestion", json!({"policies": policies}))?;
        }
    }
    Ok(Exit::Ok)
}

fn proposals(observed: &Observed, mesh: &Mesh, current: Option<&PolicySet>) -> Vec<Proposal> {
    let destinations: BTreeSet<&SpiffeId> = observed.keys().map(|call| &call.destination).collect();
    let proposal = |destination: &SpiffeId| {
        let called = Called::of(destination.as_str(), mesh, &[]).ok()?;
        let mut by_source: BTreeMap<&SpiffeId, Vec<(&Call, &Evidence)>> = BTreeMap::new();
        for (call, evidence) in observed.iter().filter(|(call, _)| call.destination == *destination) {
            // Who came without TLS is nobody whom a rule could name.
            if let Some(source) = &call.source {
                by_source.entry(source).or_default().push((call, evidence));
            }
        }
        let rules = by_source.into_iter().flat_map(|(source, calls)| rules(source, &calls, &called, current));
        Some(Proposal {
            name: format!("{}-observed", called.account),
            namespace: called.namespace.clone(),
            rules: unique(rules.collect()),
            labels: called.labels,
        })
    };
    destinations.into_iter().filter_map(proposal).collect()
}

/// The rules of one caller: as many as the limits of the language want.
fn rules(
    source: &SpiffeId,
    calls: &[(&Call, &Evidence)],
    called: &Called,
    current: Option<&PolicySet>,
) -> Vec<Proposed> {
    /// Entries of one rule's `to`.
    const MOST: usize = 64;
    let account = source.namespace().zip(source.service_account());
    let is_local = source.trust_domain() == called.trust_domain.as_str();
    let (name, from) = match account.filter(|_| is_local) {
        Some((namespace, account)) => {
            (account.to_owned(), json!({"serviceAccounts": [format!("{namespace}/{account}")]}))
        }
        None => ("caller".to_owned(), json!({"principals": [source.as_str()]})),
    };
    let operations = operations(calls, current);
    let rule = |operations: &[(Value, Evidence)]| Proposed {
        name: name.clone(),
        from: from.clone(),
        operations: operations.to_vec(),
    };
    operations.chunks(MOST).map(rule).collect()
}

/// What was asked, each operation with how often.
fn operations(calls: &[(&Call, &Evidence)], current: Option<&PolicySet>) -> Vec<(Value, Evidence)> {
    let mut operations: BTreeMap<String, (Value, Evidence)> = BTreeMap::new();
    let mut add = |operation: Value, evidence: &Evidence| {
        let (_, sum) = operations.entry(operation.to_string()).or_insert((operation, Evidence::default()));
        sum.add(evidence);
    };
    let mut exactly: BTreeMap<Option<u16>, Vec<(&str, &str, &Evidence)>> = BTreeMap::new();
    for (call, evidence) in calls {
        match &call.asked {
            Asked::Opaque => add(with_port(json!({}), call.port), evidence),
            Asked::Exactly { method, path } => {
                exactly.entry(call.port).or_default().push((method, path, evidence));
            }
            Asked::Request { route } => {
                for operation in of_rule(call, route.as_deref(), current) {
                    add(with_port(operation, call.port), evidence);
                }
            }
        }
    }
    for (port, requests) in exactly {
        for (methods, paths, evidence) in template::collapse(&requests) {
            add(with_port(json!({"methods": methods, "paths": paths}), port), &evidence);
        }
    }
    operations.into_values().collect()
}

/// What the rule that let the call in says of it, or else what the record says.
fn of_rule(call: &Call, route: Option<&str>, current: Option<&PolicySet>) -> Vec<Value> {
    let operations = recorded_rule(call, current).and_then(|rule| rule.to.as_ref());
    let is_meant = |operation: &&Operation| {
        let of_port =
            operation.ports.as_ref().is_none_or(|ports| call.port.is_none_or(|port| ports.contains(&port)));
        let of_route = match (route, &operation.paths, &operation.grpc) {
            (Some(route), Some(paths), _) => paths.iter().any(|path| path.as_str() == route),
            (Some(route), None, Some(grpc)) => route.starts_with(&format!("/{}/", grpc.service)),
            (Some(_), None, None) => false,
            (None, paths, grpc) => paths.is_none() && grpc.is_none(),
        };
        of_port && of_route && operation.sni.is_none()
    };
    let narrowed = |operation: &Operation| {
        let mut value = serde_json::to_value(operation).unwrap_or_default();
        if let (Some(route), Some(paths)) = (route, value.get_mut("paths")) {
            *paths = json!([route]);
        }
        value
    };
    let found: Vec<Value> =
        operations.into_iter().flat_map(|to| to.iter()).filter(is_meant).map(narrowed).collect();
    if found.is_empty() { vec![json!({"paths": [route.unwrap_or("/**")]})] } else { found }
}

fn recorded_rule<'p>(call: &Call, current: Option<&'p PolicySet>) -> Option<&'p Rule> {
    let sourced = current?.iter().find(|sourced| Some(&**sourced.name()) == call.policy.as_deref())?;
    let mut rules = sourced.rules();
    rules.find(|(rule, _)| Some(rule.name.as_str()) == call.rule.as_deref()).map(|(rule, _)| rule)
}

fn with_port(mut operation: Value, port: Option<u16>) -> Value {
    match (operation.as_object_mut().map(|fields| (fields.is_empty(), fields)), port) {
        (Some((_, fields)), Some(port)) => {
            fields.insert("ports".to_owned(), json!([port]));
        }
        // A connection of which not even the port is known.
        (Some((true, fields)), None) => {
            fields.insert("paths".to_owned(), json!(["/**"]));
        }
        _ => {}
    }
    operation
}

/// Names that are unique in their policy.
fn unique(mut rules: Vec<Proposed>) -> Vec<Proposed> {
    let mut taken = BTreeMap::<String, usize>::new();
    for rule in &mut rules {
        let count = taken.entry(rule.name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            rule.name = format!("{}-{count}", rule.name);
        }
    }
    rules
}

impl Proposal {
    fn document(&self) -> Value {
        let rule = |rule: &Proposed| {
            let to: Vec<&Value> = rule.operations.iter().map(|(operation, _)| operation).collect();
            json!({"name": rule.name, "from": [rule.from], "to": to})
        };
        let rules: Vec<Value> = self.rules.iter().map(rule).collect();
        let mut spec = Map::new();
        if !self.labels.is_empty() {
            spec.insert("selector".to_owned(), json!(self.labels));
        }
        spec.insert("action".to_owned(), json!("Allow"));
        spec.insert("rules".to_owned(), json!(rules));
        json!({
            "apiVersion": "sidegate.dev/v1alpha1", "kind": "AuthorizationPolicy",
            "metadata": {"name": self.name, "namespace": self.namespace}, "spec": spec,
        })
    }
}

/// JSON of one line is YAML, and quotes whatever needs it.
fn yaml(proposals: &[Proposal]) -> String {
    let mut text = String::new();
    for proposal in proposals {
        if !text.is_empty() {
            text.push_str("---\n");
        }
        let metadata = json!({"name": proposal.name, "namespace": proposal.namespace});
        let _ = writeln!(
            text,
            "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {metadata}\nspec:"
        );
        if !proposal.labels.is_empty() {
            let _ = writeln!(text, "  selector: {}", json!(proposal.labels));
        }
        text.push_str("  action: Allow\n  rules:\n");
        for Proposed { name, from, operations } in &proposal.rules {
            let _ = writeln!(text, "  - name: {}\n    from: [{from}]\n    to:", json!(name));
            for (operation, evidence) in operations {
                let _ = writeln!(text, "    - {operation}  # {evidence}");
            }
        }
    }
    text
}

impl Evidence {
    fn add(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.first = self.first.take().into_iter().chain(other.first.clone()).min();
        self.last = self.last.take().into_iter().chain(other.last.clone()).max();
    }
}

impl std::fmt::Display for Evidence {
    /// `7 seen, 2026-11-01T00:00:00Z to 2026-11-02T00:00:00Z`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} seen", self.count)?;
        let clean = |text: &str| text.chars().filter(|letter| !letter.is_control()).collect::<String>();
        match (&self.first, &self.last) {
            (Some(first), Some(last)) => write!(f, ", {} to {}", clean(first), clean(last)),
            _ => Ok(()),
        }
    }
}

/// Whether the language can name the path.
fn is_pattern(text: &str) -> bool {
    text.parse::<PathPattern>().is_ok()
}
