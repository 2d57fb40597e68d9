//! `sidegate policy import`: reads the policies of another mesh, and prints policies that decide the same, with a report
//! of what became of each. A construct is translated exactly or refused with its reason; where leaving it out would
//! open something, a Deny of everything stands in its place.

mod address;
mod draft;
mod glob;
mod istio;
mod linkerd;
mod report;

use std::path::PathBuf;

use serde_json::json;
use sidegate_codes::Code;
use sidegate_identity::TrustDomain;
use sidegate_policy::{PolicySet, parse_yaml};

use self::{draft::Draft, report::Report};
use super::files;
use crate::{
    exit::Exit,
    failure::Failure,
    table,
    yaml::{self, Misread, Node, Value},
};

/// Arguments of `sidegate policy import`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Whose policies they are.
    from: From,
    /// The manifests; of a folder every *.yaml and *.yml in it.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The trust domain of the mesh that the policies are for; `cluster.local` in a policy means this one.
    #[arg(long, value_name = "NAME")]
    trust_domain: TrustDomain,
    /// The form of the answer.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
    output: Form,
}

/// A mesh whose policies are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum From {
    /// `AuthorizationPolicy`, `PeerAuthentication`, `RequestAuthentication`.
    Istio,
    /// `Server`, `AuthorizationPolicy`, `MeshTLSAuthentication`, `NetworkAuthentication`, `HTTPRoute`.
    Linkerd,
}

/// The form of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// The policies on stdout, the report on stderr.
    #[default]
    Yaml,
    /// Report and policies in one JSON document, `apiVersion: cli.sidegate.dev/v1`.
    Json,
}

/// One object of a file.
#[derive(Clone, Copy)]
struct Object<'f> {
    file: &'f str,
    node: &'f Node,
    kind: &'f str,
    /// The API's group, without its version.
    group: &'f str,
    name: &'f str,
    namespace: &'f str,
}

/// Why a construct has no exact translation.
#[derive(Debug)]
struct Refusal {
    line: u64,
    why: String,
}

/// Exit code 1 if a construct is refused, 2 if a file is not understood.
pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut texts = Vec::new();
    for path in &args.files {
        for path in files::list(path)? {
            texts.push((path.display().to_string(), files::text(&path)?));
        }
    }
    let mut documents = Vec::new();
    for (file, text) in &texts {
        let read = yaml::documents(text).map_err(|misread| unreadable(file, &misread))?;
        documents.extend(read.into_iter().map(|document| (file.as_str(), document)));
    }
    let mut objects = Vec::new();
    for (file, document) in &documents {
        collect(file, document, &mut objects).map_err(|misread| unreadable(file, &misread))?;
    }
    let mut report = Report::default();
    match args.from {
        From::Istio => istio::translate(&objects, &args.trust_domain, &mut report),
        From::Linkerd => linkerd::translate(&objects, &args.trust_domain, &mut report),
    }
    load(&report.drafts)?;
    match args.output {
        Form::Yaml => {
            table::print(&report.yaml())?;
            report.print_text();
        }
        Form::Json => table::print_json("PolicyImport", json!(report))?,
    }
    Ok(if report.is_complete() { Exit::Ok } else { Exit::Findings })
}

/// Objects of every document, those of lists too.
fn collect<'f>(file: &'f str, node: &'f Node, objects: &mut Vec<Object<'f>>) -> Result<(), Misread> {
    if matches!(node.value, Value::Null) {
        return Ok(());
    }
    let text = |path: &[&str]| node.at(path)?.map(Node::text).transpose();
    let (Some(version), Some(kind)) = (text(&["apiVersion"])?, text(&["kind"])?) else {
        return Err(node.misread("not an object of Kubernetes: `apiVersion` or `kind` is missing"));
    };
    if let Some(items) = node.get("items")?.filter(|_| kind.ends_with("List")) {
        return items.items()?.iter().try_for_each(|item| collect(file, item, objects));
    }
    objects.push(Object {
        file,
        node,
        kind,
        group: version.split_once('/').map_or("", |(group, _)| group),
        name: text(&["metadata", "name"])?.unwrap_or_default(),
        namespace: text(&["metadata", "namespace"])?.unwrap_or("default"),
    });
    Ok(())
}

impl Object<'_> {
    fn place(&self) -> String {
        self.node.at.in_file(self.file)
    }

    fn spec(&self) -> Result<Option<&Node>, Refusal> {
        Ok(self.node.get("spec")?)
    }
}

impl Refusal {
    fn at(node: &Node, why: impl Into<String>) -> Self {
        Self { line: node.at.line, why: why.into() }
    }
}

impl std::convert::From<Misread> for Refusal {
    fn from(misread: Misread) -> Self {
        Self { line: misread.at.line, why: misread.message }
    }
}

/// Refuses a field that is not known: it could be a condition.
fn only(node: &Node, known: &[&str]) -> Result<(), Refusal> {
    match node.fields()?.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        Some((name, value)) => Err(Refusal::at(value, format!("`{name}` has no translation"))),
        None => Ok(()),
    }
}

/// The texts of a list that may be left out.
fn texts<'n>(node: &'n Node, field: &str) -> Result<Vec<&'n str>, Refusal> {
    let Some(list) = node.get(field)? else {
        return Ok(Vec::new());
    };
    Ok(list.items()?.iter().map(Node::text).collect::<Result<_, _>>()?)
}

/// What is printed loads, whole: the reader of policies is asked.
fn load(drafts: &[Draft]) -> Result<(), Failure> {
    let mut policies = Vec::new();
    for draft in drafts {
        policies.extend(parse_yaml(&draft.origin, &draft.yaml(), None).map_err(|error| unloadable(&error))?);
    }
    PolicySet::new(policies).map(drop).map_err(|errors| {
        errors.first().map_or_else(|| unloadable(&"no reason was given"), |error| unloadable(error))
    })
}

fn unloadable(error: &dyn std::fmt::Display) -> Failure {
    let next = "give each object a name of its own in its namespace, and import again";
    Failure::new(Exit::Usage, "the translation does not load", error.to_string(), next)
        .coded(Code::ImportRefused)
}

fn unreadable(file: &str, misread: &Misread) -> Failure {
    let why = format!("{}: {}", misread.at.in_file(file), misread.message);
    Failure::new(Exit::Usage, "a file cannot be imported", why, "correct the file; nothing was translated")
        .coded(Code::ImportRefused)
}
