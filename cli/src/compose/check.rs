//! `sidegate compose check`: judges a complete Compose file, or what `compose inject` makes of the application's, by what would lead
//! past a sidecar. What was generated and is not what would be generated now is a finding too.

mod rules;

use std::{fs, path::PathBuf};

use serde::Serialize;
use sidegate_codes::Code;

use super::{
    folder::{Folder, unreadable},
    inject,
    input::Input,
    problem::{self, Problem},
    write,
    yaml::{self, Node},
};
use crate::{
    args::Output,
    exit::Exit,
    failure::Failure,
    table::{self, Format},
    terminal::{Charset, Paint, paint},
};

/// Arguments of `sidegate compose check`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    input: Input,
    /// A complete file to judge instead: of `inject --merge`, or of `docker compose config`.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    complete: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// One thing that leads past a sidecar, or would not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    #[serde(serialize_with = "id")]
    code: Code,
    service: Option<String>,
    what: String,
    fix: String,
}

/// Runs the command. Exit code 1 if anything is found.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let findings = match &args.complete {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
            let refused = |error| {
                let problem = Problem::of_file(Code::ComposeSyntax, error);
                problem::failure(format!("{} cannot be judged", path.display()), &[problem])
            };
            rules::judge(&yaml::parse(&text).map_err(refused)?, path)
        }
        None => generated(&args.input)?,
    };
    match args.output.output {
        Format::Json => table::print_json(
            "ComposeCheck",
            serde_json::json!({"ok": findings.is_empty(), "findings": findings}),
        )?,
        Format::Table | Format::Wide => table::print(&text(&findings))?,
    }
    Ok(if findings.is_empty() { Exit::Ok } else { Exit::Findings })
}

/// What `inject` would write now, and whether it is what is there.
fn generated(input: &Input) -> Result<Vec<Finding>, Failure> {
    let (project, plan) = input.plan()?;
    let path = input.path()?;
    let settings = write::settings(&Folder::beside(&path), &plan)?;
    let refused = |problems: Vec<_>| problem::failure("not every service has a sidecar yet", &problems);
    let tree: Node = inject::complete_tree(&project, &plan, &settings).map_err(refused)?;
    let mut findings = rules::judge(&tree, &path);
    let out = path.with_file_name("compose.sidegate.yaml");
    let there = fs::read_to_string(&out).unwrap_or_default();
    let wanted = [inject::overriding(&plan, &settings), inject::complete(&project, &plan, &settings)];
    if !wanted.into_iter().any(|text| text.is_ok_and(|text| text == there)) {
        findings.push(Finding::of(
            None,
            Code::ComposeStale,
            format!("{} is not what `inject` writes now", out.display()),
        ));
    }
    Ok(findings)
}

impl Finding {
    fn of(service: Option<&str>, code: Code, what: impl Into<String>) -> Self {
        Self {
            code,
            service: service.map(ToOwned::to_owned),
            what: what.into(),
            fix: code.next_step().to_owned(),
        }
    }
}

fn text(findings: &[Finding]) -> String {
    let charset = Charset::from_env();
    if findings.is_empty() {
        return format!("{} nothing leads past a sidecar\n", paint(Paint::Good, charset.mark(Paint::Good)));
    }
    let line = |finding: &Finding| {
        let who = finding.service.as_deref().unwrap_or("the file");
        let mark = paint(Paint::Bad, charset.mark(Paint::Bad));
        format!("{mark} {who}: {}  {}\n  fix  {}\n", finding.what, finding.code, finding.fix)
    };
    findings.iter().map(line).collect()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn id<S: serde::Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code.id())
}
