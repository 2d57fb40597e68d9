//! `sidegate check`: files (`check::manifests`), or the running mesh. Of that it reads every document of the control
//! plane, judges them in `check::rules`, and prints what is wrong with a code, the reason and the fix. A control plane
//! that does not answer is the first failed check.

pub(crate) mod manifests;
mod rules;

use std::fmt::Write;

use serde::Serialize;
use sidegate_codes::Code;
use time::OffsetDateTime;

use crate::{
    api::{self, client::Client},
    args::Read,
    exit::Exit,
    failure::Failure,
    status,
    table::{self, Format},
    terminal::{Charset, Paint, paint},
};

/// Everything that is judged.
#[derive(Debug)]
pub(crate) struct Documents {
    status: api::Status,
    proxies: api::Proxies,
    edges: api::Edges,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    group: &'static str,
    name: String,
    level: Level,
    #[serde(serialize_with = "code_id")]
    code: Option<Code>,
    why: Option<String>,
    fix: Option<String>,
}

/// How one check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Ok,
    Warning,
    Failed,
}

/// What to check.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    read: Read,
}

/// What else than the running mesh can be checked.
#[derive(clap::Subcommand, Debug)]
enum What {
    /// Check Kubernetes manifests and Compose files for what breaks zero trust.
    ///
    /// Secrets in plain text, namespaces of the host, privileges that lead past the sidecar, published ports, shared
    /// accounts, mounted tokens. Nothing is asked of a cluster. Exit code 1 if anything is found, 2 if a file is not
    /// understood.
    #[command(after_long_help = "Examples:
  sidegate check manifests compose.yaml
  sidegate check manifests k8s/ --allow SG0147 -o sarif > manifests.sarif
  helm template shop/ | sidegate check manifests -")]
    Manifests(manifests::Args),
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    match &args.what {
        Some(What::Manifests(args)) => manifests::run(args),
        None => mesh(&args.read),
    }
}

/// Checks the mesh. Exit code 1 when a check fails, 3 when the control plane cannot be reached.
fn mesh(read: &Read) -> Result<Exit, Failure> {
    let client = Client::new(read.api.clone());
    let (checks, exit) = match status::block_on(fetch(&client))? {
        Ok(documents) => {
            let mut checks = vec![reachable(read, &documents.status)];
            checks.extend(rules::judge(&documents, OffsetDateTime::now_utc()));
            let exit = if count(&checks, Level::Failed) > 0 { Exit::Findings } else { Exit::Ok };
            (checks, exit)
        }
        Err(failure) => (vec![unreachable(&failure)], failure.exit()),
    };
    match read.output.output {
        Format::Json => table::print_json("Check", Body::new(&checks))?,
        Format::Table | Format::Wide => {
            table::print(&text(&checks, read.output.output == Format::Wide, Charset::from_env()))?;
        }
    }
    Ok(exit)
}

impl Check {
    fn ok(group: &'static str, name: impl Into<String>) -> Self {
        Self { group, name: name.into(), level: Level::Ok, code: None, why: None, fix: None }
    }

    fn warning(group: &'static str, name: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::ok(group, name) }
    }

    fn failed(group: &'static str, name: impl Into<String>) -> Self {
        Self { level: Level::Failed, ..Self::ok(group, name) }
    }

    /// Under `code`, whose reason and next step are shown unless others are given.
    fn code(mut self, code: Code) -> Self {
        self.code = Some(code);
        self.why.get_or_insert_with(|| code.why().to_owned());
        self.fix.get_or_insert_with(|| code.next_step().to_owned());
        self
    }

    fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl Level {
    const fn paint(self) -> Paint {
        match self {
            Self::Ok => Paint::Good,
            Self::Warning => Paint::Warn,
            Self::Failed => Paint::Bad,
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    ok: bool,
    summary: Summary,
    checks: &'a [Check],
}

#[derive(Serialize)]
struct Summary {
    passed: usize,
    warnings: usize,
    failed: usize,
}

impl<'a> Body<'a> {
    fn new(checks: &'a [Check]) -> Self {
        let summary = Summary::of(checks);
        Self { ok: summary.failed == 0, summary, checks }
    }
}

impl Summary {
    fn of(checks: &[Check]) -> Self {
        Self {
            passed: count(checks, Level::Ok),
            warnings: count(checks, Level::Warning),
            failed: count(checks, Level::Failed),
        }
    }
}

async fn fetch(client: &Client) -> Result<Documents, Failure> {
    Ok(Documents {
        status: client.get("/v1/status").await?,
        proxies: client.get("/v1/proxies").await?,
        edges: client.get("/v1/edges?window=600s").await?,
    })
}

fn reachable(read: &Read, status: &api::Status) -> Check {
    Check::ok("control plane", format!("reachable at {}, release {}", read.api, status.version))
}

fn unreachable(failure: &Failure) -> Check {
    let mut check = Check::failed("control plane", failure.what()).why(failure.why()).fix(failure.next());
    check.code = failure.code();
    check
}

fn count(checks: &[Check], level: Level) -> usize {
    checks.iter().filter(|check| check.level == level).count()
}

/// Short where it is green, full where it is not; `wide` shows each passed check too.
fn text(checks: &[Check], wide: bool, charset: Charset) -> String {
    let mut text = String::new();
    let mut group = "";
    for check in checks {
        if check.group != group {
            group = check.group;
            let _ = writeln!(text, "{}", paint(Paint::Strong, group));
        }
        write_check(&mut text, check, wide, charset);
    }
    let Summary { passed, warnings, failed } = Summary::of(checks);
    let _ = write!(text, "{failed} failed, {warnings} {}, {passed} passed", plural(warnings, "warning"));
    if let Some(code) = checks.iter().find_map(|check| check.code) {
        let _ = write!(text, "     explain any code: sidegate explain-code {code}");
    }
    text.push('\n');
    text
}

fn write_check(text: &mut String, check: &Check, wide: bool, charset: Charset) {
    let code = check.code.map(|code| format!("  {code}")).unwrap_or_default();
    let mark = paint(check.level.paint(), charset.mark(check.level.paint()));
    let _ = writeln!(text, "  {mark} {}{code}", check.name);
    if check.level == Level::Ok && !wide {
        return;
    }
    for (label, value) in [("why", &check.why), ("fix", &check.fix)] {
        if let Some(value) = value {
            let _ = writeln!(text, "      {}  {value}", paint(Paint::Dim, label));
        }
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { noun.to_owned() } else { format!("{noun}s") }
}

#[expect(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "serde gives the field by reference"
)]
fn code_id<S: serde::Serializer>(code: &Option<Code>, serializer: S) -> Result<S::Ok, S::Error> {
    code.map(Code::id).serialize(serializer)
}

#[cfg(test)]
mod tests;
