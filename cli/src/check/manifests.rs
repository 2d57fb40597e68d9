//! `sidegate check manifests`: reads Kubernetes manifests and Compose files, and prints what in them breaks zero trust,
//! each finding with its code and place. Refuses, as a whole, a file that it does not understand. No line of a file is
//! ever printed: it may hold the secret that is the finding.

mod compose;
mod finding;
mod kubernetes;
mod secret;

use std::{
    fmt::Write as _,
    io::{self, Read as _},
    path::PathBuf,
};

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use serde_json::json;
use sidegate_codes::Code;

use self::finding::{CODES, Finding, level};
use crate::{
    exit::Exit,
    failure::Failure,
    policy::files,
    sarif, table,
    terminal::{Charset, Paint, paint},
    yaml::{self, Misread, Node, Value},
};

/// Arguments of `sidegate check manifests`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Manifests or Compose files; of a folder every *.yaml and *.yml in it; `-` is stdin.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A finding that is wanted; may be given several times.
    #[arg(long, value_name = "CODE", value_parser = codes())]
    allow: Vec<Code>,
    /// The form of the answer.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
    output: files::Form,
}

/// Exit code 1 if anything is found, 2 if a file is not understood.
pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut pods = kubernetes::Pods::default();
    let mut findings = Vec::new();
    let texts = texts(&args.files)?;
    for (file, text) in &texts {
        read(file, text, &mut pods, &mut findings).map_err(|misread| refused(file, &misread))?;
    }
    findings.extend(pods.identities());
    findings.retain(|finding| !args.allow.contains(&finding.code));
    let order = |it: &Finding| texts.iter().position(|(file, _)| *file == it.file);
    findings.sort_by_key(|it| (order(it), it.at.line, it.code));
    match args.output {
        files::Form::Json => {
            table::print_json("ManifestCheck", json!({"ok": findings.is_empty(), "findings": findings}))?;
        }
        files::Form::Sarif => table::print(&log(&findings))?,
        files::Form::Table => table::print(&text(&findings, texts.len()))?,
    }
    Ok(if findings.is_empty() { Exit::Ok } else { Exit::Findings })
}

/// The files that were named, with their texts, each once.
fn texts(named: &[PathBuf]) -> Result<Vec<(String, String)>, Failure> {
    let mut texts: Vec<(String, String)> = Vec::new();
    for path in named {
        if path.as_os_str() == "-" {
            texts.push(("stdin".to_owned(), stdin()?));
            continue;
        }
        for path in files::list(path)? {
            let name = path.display().to_string();
            if !texts.iter().any(|(known, _)| *known == name) {
                texts.push((name, files::text(&path)?));
            }
        }
    }
    Ok(texts)
}

fn stdin() -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin().take(files::MOST_BYTES).read_to_string(&mut text).map_err(|error| {
        Failure::new(Exit::Usage, "stdin cannot be read", error.to_string(), "name a file instead of `-`")
    })?;
    Ok(text)
}

fn read(
    file: &str,
    text: &str,
    pods: &mut kubernetes::Pods,
    findings: &mut Vec<Finding>,
) -> Result<(), Misread> {
    let documents = yaml::documents(text)?;
    for document in documents.iter().filter(|document| !matches!(document.value, Value::Null)) {
        if is_kubernetes(document)? {
            pods.read(file, document, findings)?;
        } else if document.get("services")?.is_some_and(Node::is_map) {
            compose::read(file, document, findings)?;
        } else {
            return Err(document.misread(
                "neither a Kubernetes object (`apiVersion` and `kind`) nor a Compose file (`services`)",
            ));
        }
    }
    Ok(())
}

fn is_kubernetes(document: &Node) -> Result<bool, Misread> {
    Ok(document.get("apiVersion")?.is_some() && document.get("kind")?.is_some())
}

/// A template is the usual reason for what is no YAML.
fn refused(file: &str, misread: &Misread) -> Failure {
    let place = misread.at.in_file(file);
    Failure::new(
        Exit::Usage,
        "a manifest cannot be judged",
        format!("{place}: {}", misread.message),
        "correct the file; of a chart, check what it renders: helm template CHART | sidegate check manifests -",
    )
    .coded(Code::ManifestUnusable)
}

fn log(findings: &[Finding]) -> String {
    let rules = CODES.map(|code| sarif::Rule { id: code.id(), title: code.title(), level: level(code) });
    let places: Vec<String> = findings.iter().map(Finding::source).collect();
    let entries = findings.iter().zip(&places).map(|(finding, source)| {
        let entry =
            sarif::Entry { rule: finding.code.id(), level: finding.severity.into(), source, related: None };
        (entry, format!("{}: {}; {}", finding.subject, finding.saw, finding.code.next_step()))
    });
    sarif::log(&rules, entries)
}

fn text(findings: &[Finding], files: usize) -> String {
    let charset = Charset::from_env();
    let mut text = String::new();
    for finding in findings {
        let colour = finding.severity.paint();
        let mark = paint(colour, charset.mark(colour));
        let code = paint(Paint::Strong, finding.code.id());
        let _ = writeln!(text, "{mark} {code}  {}  {}", finding.subject, finding.source());
        let (why, fix) = (finding.code.why(), finding.code.next_step());
        for (label, value) in [("saw", &*finding.saw), ("why", why), ("fix", fix)] {
            let _ = writeln!(text, "  {}  {value}", paint(Paint::Dim, label));
        }
        text.push('\n');
    }
    let _ = writeln!(text, "findings {}   files {files}", findings.len());
    text
}

fn codes() -> impl clap::builder::TypedValueParser<Value = Code> {
    PossibleValuesParser::new(CODES.map(Code::id)).try_map(|id| id.parse::<Code>())
}
