//! `sidegate policy lint`: prints what the analysis of the policy engine finds.

use std::{fmt::Write, path::PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use serde_json::json;
use sidegate_control_plane::config;
use sidegate_policy::{Finding, Lint, Service, Severity, Surroundings};

use super::files::{Around, Form, Mesh, Policies};
use crate::{
    exit::Exit,
    failure::Failure,
    sarif, table,
    terminal::{Charset, Paint, paint},
};

/// Arguments of `sidegate policy lint`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The policies: a folder of YAML files, or one file. Left out: the folder that `mesh.yaml` names.
    #[arg(value_name = "DIR")]
    policies: Option<PathBuf>,
    #[command(flatten)]
    around: Around,
    /// A finding that is wanted; may be given several times.
    #[arg(long, value_name = "ID", value_parser = lint_ids())]
    allow: Vec<Lint>,
    /// The form of the answer.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
    output: Form,
}

/// Exit code 1 if anything is found.
pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mesh = args.around.read()?;
    let policies = mesh.policies(args.policies.as_deref(), None)?;
    let mut findings = found(&policies, &mesh);
    findings.retain(|finding| !args.allow.contains(&finding.lint));
    match args.output {
        Form::Json => {
            table::print_json("PolicyLint", json!({"ok": findings.is_empty(), "findings": findings}))?;
        }
        Form::Sarif => table::print(&log(&findings))?,
        Form::Table => table::print(&text(&findings, &policies))?,
    }
    Ok(if findings.is_empty() { Exit::Ok } else { Exit::Findings })
}

fn found<'m>(policies: &Policies, mesh: &'m Mesh) -> Vec<Finding> {
    let service = |it: &'m config::Service| Service {
        identity: &it.identity,
        namespace: &it.name.namespace,
        labels: &it.labels,
    };
    let services = mesh.services.as_ref();
    let services: Option<Vec<Service<'m>>> = services.map(|services| services.iter().map(service).collect());
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    policies.set.lint(&Surroundings {
        trust_domain: mesh.trust_domain.as_ref(),
        root_namespace: mesh.root_namespace.as_deref(),
        services: services.as_deref(),
        now: u64::try_from(now).unwrap_or_default(),
    })
}

fn log(findings: &[Finding]) -> String {
    let rules = Lint::ALL.map(|lint| sarif::Rule {
        id: lint.id(),
        title: lint.title(),
        level: level(lint.severity()),
    });
    let message = |it: &Finding| format!("{}: {}; {}", subject(it), it.why, it.fix);
    sarif::log(&rules, findings.iter().map(|finding| (entry(finding), message(finding))))
}

fn entry(finding: &Finding) -> sarif::Entry<'_> {
    sarif::Entry {
        rule: finding.lint.id(),
        level: level(finding.severity),
        source: &finding.source,
        related: finding.related.as_deref(),
    }
}

const fn level(severity: Severity) -> sarif::Level {
    match severity {
        Severity::Error => sarif::Level::Error,
        Severity::Warning => sarif::Level::Warning,
    }
}

fn subject(finding: &Finding) -> String {
    match &finding.rule {
        Some(rule) => format!("rule {rule} of {}", finding.policy),
        None => format!("policy {}", finding.policy),
    }
}

fn text(findings: &[Finding], policies: &Policies) -> String {
    let charset = Charset::from_env();
    let mut text = String::new();
    for finding in findings {
        write_finding(&mut text, finding, policies, charset);
    }
    let rules: usize = policies.set.iter().map(|policy| policy.policy().spec.rules.len()).sum();
    let _ = writeln!(text, "findings {}   policies {}   rules {rules}", findings.len(), policies.set.len());
    text
}

fn write_finding(text: &mut String, finding: &Finding, policies: &Policies, charset: Charset) {
    let Finding { lint, source, why, fix, .. } = finding;
    let colour = match finding.severity {
        Severity::Error => Paint::Bad,
        Severity::Warning => Paint::Warn,
    };
    let subject = subject(finding);
    let mark = paint(colour, charset.mark(colour));
    let _ = writeln!(text, "{mark} {}  {subject}  {source}", paint(Paint::Strong, lint.id()));
    text.push_str(&policies.snippet(source));
    for (label, value) in [("why", why), ("fix", fix)] {
        let _ = writeln!(text, "  {}  {value}", paint(Paint::Dim, label));
    }
    text.push('\n');
}

fn lint_ids() -> impl clap::builder::TypedValueParser<Value = Lint> {
    let known = |id: String| Lint::ALL.into_iter().find(|lint| lint.id() == id).ok_or("no such finding");
    PossibleValuesParser::new(Lint::ALL.map(Lint::id)).try_map(known)
}
