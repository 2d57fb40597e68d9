//! `sidegate policy test`: requests, and what each must get. The format is the one of the conformance vectors.

mod document;
mod leaving;

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use serde::Serialize;
use sidegate_policy::{Explanation, Verdict};

use self::document::{Case, Document, Refused};
use super::files::{self, Policies};
use crate::{
    args::Output,
    exit::Exit,
    failure::Failure,
    table::{self, Format},
    terminal::{Charset, Paint, paint},
};

/// Arguments of `sidegate policy test`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Test files.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// What became of all tests.
#[derive(Serialize)]
struct Report {
    ok: bool,
    passed: usize,
    failed: usize,
    cases: Vec<Outcome>,
}

/// What became of one case.
#[derive(Serialize)]
struct Outcome {
    file: String,
    name: String,
    requests: usize,
    failures: Vec<Miss>,
}

/// A request that did not get what it must.
#[derive(Serialize)]
struct Miss {
    /// Counted from 1; `None` for a text that was to be refused.
    request: Option<usize>,
    asked: String,
    want: String,
    got: String,
}

/// Exit code 1 if a case fails.
pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut cases = Vec::new();
    for file in &args.files {
        cases.extend(run_file(file)?);
    }
    let failed = cases.iter().filter(|case| !case.failures.is_empty()).count();
    let report = Report { ok: failed == 0, passed: cases.len() - failed, failed, cases };
    match args.output.output {
        Format::Json => table::print_json("PolicyTest", &report)?,
        form @ (Format::Table | Format::Wide) => table::print(&text(&report, form == Format::Wide))?,
    }
    Ok(if report.ok { Exit::Ok } else { Exit::Findings })
}

fn run_file(path: &Path) -> Result<Vec<Outcome>, Failure> {
    let Document { cases, refused, .. } = Document::read(path)?;
    let file = path.display().to_string();
    let mut outcomes = Vec::with_capacity(cases.len() + refused.len());
    for case in &cases {
        outcomes.push(Outcome {
            file: file.clone(),
            name: case.name.clone(),
            requests: case.requests.len() + case.leaving.len(),
            failures: run_case(case, path)?,
        });
    }
    outcomes.extend(refused.iter().map(|refused| Outcome {
        file: file.clone(),
        name: refused.name.clone(),
        requests: 0,
        failures: run_refused(refused).into_iter().collect(),
    }));
    Ok(outcomes)
}

fn run_case(case: &Case, file: &Path) -> Result<Vec<Miss>, Failure> {
    let set = case.policies(file)?.set;
    let policies = set.compile(&case.workload.workload());
    let mut misses = Vec::new();
    for (position, asked) in (1..).zip(&case.requests) {
        let identity = match &asked.from {
            Some(from) => Some(files::identity(from, Some(&case.workload.trust_domain))?),
            None => None,
        };
        let explanation = policies.explain(&asked.request(identity.as_ref()));
        if !asked.want.is_met_by(&explanation.decision, explanation.nearest.as_deref()) {
            misses.push(Miss {
                request: Some(position),
                asked: asked.to_string(),
                want: asked.want.to_string(),
                got: got(&explanation),
            });
        }
    }
    let egress = set.compile_egress(&case.workload.workload());
    for (position, leaving) in (1..).zip(&case.leaving) {
        let identity = files::identity(&leaving.from, Some(&case.workload.trust_domain))?;
        let (decision, nearest) = leaving.judged(&egress, &identity);
        if !leaving.want.is_met_by(&decision, nearest.as_deref()) {
            misses.push(Miss {
                request: Some(case.requests.len() + position),
                asked: leaving.to_string(),
                want: leaving.want.to_string(),
                got: match (decision.verdict, nearest) {
                    (Verdict::Allow, _) => "Allow".to_owned(),
                    (Verdict::Deny, nearest) => format!("Deny: {}", nearest.unwrap_or_default()),
                },
            });
        }
    }
    Ok(misses)
}

fn got(explanation: &Explanation<'_>) -> String {
    let verdict = match explanation.decision.verdict {
        Verdict::Allow => "Allow",
        Verdict::Deny => "Deny",
    };
    format!("{verdict}: {explanation}")
}

fn run_refused(refused: &Refused) -> Option<Miss> {
    let error = match Policies::check(&refused.text()) {
        Ok(()) => "it loads".to_owned(),
        Err(error) if refused.want.is_met_by(&error) => return None,
        Err(error) => error.to_string(),
    };
    Some(Miss {
        request: None,
        asked: "a text that must not load".to_owned(),
        want: refused.want.to_string(),
        got: error,
    })
}

fn text(report: &Report, wide: bool) -> String {
    let charset = Charset::from_env();
    let mut text = String::new();
    for case in report.cases.iter().filter(|case| wide || !case.failures.is_empty()) {
        let colour = if case.failures.is_empty() { Paint::Good } else { Paint::Bad };
        let mark = paint(colour, charset.mark(colour));
        let _ = writeln!(text, "{mark} {}  {}", case.name, paint(Paint::Dim, &case.file));
        for Miss { request, asked, want, got } in &case.failures {
            let request = request.map_or_else(String::new, |request| format!("request {request}  "));
            let _ = writeln!(text, "    {request}{asked}");
            for (label, value) in [("want", want), ("got ", got)] {
                let _ = writeln!(text, "      {}  {value}", paint(Paint::Dim, label));
            }
        }
    }
    let requests: usize = report.cases.iter().map(|case| case.requests).sum();
    let _ = writeln!(text, "{} failed, {} passed ({requests} requests)", report.failed, report.passed);
    text
}
