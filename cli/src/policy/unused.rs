//! `sidegate policy unused`: rules that decided nothing of what was recorded. What was not recorded proves nothing, so the answer says
//! how much there was.

use std::{collections::BTreeSet, fmt::Write, path::PathBuf, sync::Arc};

use serde::Serialize;
use sidegate_policy::{Action, Document, Mode, PlaintextException, Sourced};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{files::Around, observed};
use crate::{
    args::Output,
    exit::Exit,
    failure::Failure,
    table::{self, Format},
};

/// Arguments of `sidegate policy unused`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The policies: a folder of YAML files, or one file. Left out: the folder that `mesh.yaml` names.
    #[arg(value_name = "DIR")]
    policies: Option<PathBuf>,
    #[command(flatten)]
    from: observed::From,
    #[command(flatten)]
    around: Around,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Unused {
    policy: Arc<str>,
    rule: String,
    action: &'static str,
    at: Arc<str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    unused: Vec<Unused>,
    /// Allow and Deny rules in force, and exceptions to mutual TLS: a Require policy that is met names no rule.
    rules: usize,
    requests: u64,
    /// When the first and last of the requests were seen.
    first: Option<String>,
    last: Option<String>,
    /// From the first to the last of them: a rule for what happens once a month proves nothing before that.
    observed_seconds: Option<u64>,
}

/// Exit code 1 if a rule was not used.
pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mesh = args.around.read()?;
    let read = mesh.policies(args.policies.as_deref(), None)?;
    let observed = args.from.read()?;
    let used: BTreeSet<(&str, &str)> =
        observed.keys().filter_map(|call| call.policy.as_deref().zip(call.rule.as_deref())).collect();
    let mut report =
        Report { unused: Vec::new(), rules: 0, requests: 0, first: None, last: None, observed_seconds: None };
    for evidence in observed.values() {
        report.requests = report.requests.saturating_add(evidence.count);
        report.first = report.first.take().into_iter().chain(evidence.first.clone()).min();
        report.last = report.last.take().into_iter().chain(evidence.last.clone()).max();
    }
    report.observed_seconds = seconds(report.first.as_deref(), report.last.as_deref());
    for sourced in read.set.iter().filter(|sourced| sourced.policy().spec.mode == Mode::Enforce) {
        let action = match sourced.policy().spec.action {
            Action::Allow => "Allow",
            Action::Deny => "Deny",
            Action::Require => continue,
        };
        for (rule, at) in sourced.rules() {
            report.rules += 1;
            if !used.contains(&(&**sourced.name(), rule.name.as_str())) {
                let (policy, at) = (Arc::clone(sourced.name()), Arc::clone(at));
                report.unused.push(Unused { policy, rule: rule.name.to_string(), action, at });
            }
        }
    }
    for exception in read.set.documents().filter_map(exception) {
        report.rules += 1;
        let rule = exception.policy().metadata.name.to_string();
        if !used.contains(&(&**exception.name(), rule.as_str())) {
            let (policy, at) = (Arc::clone(exception.name()), Arc::clone(exception.source()));
            report.unused.push(Unused { policy, rule, action: "Plaintext", at });
        }
    }
    match args.output.output {
        Format::Json => table::print_json("PolicyUnused", &report)?,
        Format::Table | Format::Wide => table::print(&text(&report))?,
    }
    Ok(if report.unused.is_empty() { Exit::Ok } else { Exit::Findings })
}

fn exception(document: &Document) -> Option<&Sourced<PlaintextException>> {
    match document {
        Document::Plaintext(sourced) => Some(sourced),
        Document::Authorization(_) | Document::Egress(_) => None,
    }
}

fn text(report: &Report) -> String {
    let rows = report
        .unused
        .iter()
        .map(|it| [format!("{}/{}", it.policy, it.rule), it.action.to_owned(), it.at.to_string()]);
    let mut text =
        if report.unused.is_empty() { String::new() } else { table::columns(["RULE", "ACTION", "AT"], rows) };
    let _ = writeln!(
        text,
        "{} of {} rules decided none of {} requests, {} to {}{}",
        report.unused.len(),
        report.rules,
        report.requests,
        table::or_dash(report.first.as_ref()),
        table::or_dash(report.last.as_ref()),
        report.observed_seconds.map(lasted).unwrap_or_default()
    );
    text
}

fn seconds(first: Option<&str>, last: Option<&str>) -> Option<u64> {
    let time = |text: &str| OffsetDateTime::parse(text, &Rfc3339).ok();
    u64::try_from((time(last?)? - time(first?)?).whole_seconds()).ok()
}

/// `, observed for 1day 2h`
fn lasted(seconds: u64) -> String {
    format!(", observed for {}", humantime::format_duration(std::time::Duration::from_secs(seconds)))
}
