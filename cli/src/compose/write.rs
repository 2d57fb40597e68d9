//! `sidegate compose inject`: reads the Compose file and what `compose init` made, and writes the file that Docker Compose is given.
//! Where the two do not fit together nothing is written.

use std::path::{Path, PathBuf};

use super::{
    folder::{Folder, not_yet, replace},
    init, inject,
    input::Input,
    plan::Plan,
    problem,
    settings::Settings,
    starter,
};
use crate::{exit::Exit, failure::Failure, table};

/// Arguments of `sidegate compose inject`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    input: Input,
    /// Write one complete file in place of an override.
    #[arg(long)]
    merge: bool,
    /// The file to write, or `-` for standard output. Absent: compose.sidegate.yaml beside the Compose file; with `--file -`,
    /// standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let (project, plan) = args.input.plan()?;
    let path = args.input.path()?;
    let settings = settings(&Folder::beside(&path), &plan)?;
    let text = if args.merge {
        inject::complete(&project, &plan, &settings)
    } else {
        inject::overriding(&plan, &settings)
    };
    let text = text.map_err(|problems| problem::failure("not every service has a sidecar yet", &problems))?;
    let beside = path.with_file_name("compose.sidegate.yaml");
    let out = match &args.out {
        Some(out) => out.as_path(),
        None if args.input.is_stdin() => Path::new("-"),
        None => &beside,
    };
    if out == Path::new("-") {
        table::print(&text)?;
        return Ok(Exit::Ok);
    }
    replace(out, &text, 0o644)?;
    let files = if args.merge { String::new() } else { format!("-f {} ", path.display()) };
    let next = format!("next  docker compose {files}-f {} up -d\n", out.display());
    table::print(&format!("{}\nwrote {}\n{next}", plan.notes.join("\n"), out.display()))?;
    Ok(Exit::Ok)
}

/// What `compose init` decided, if it still fits the plan.
pub(crate) fn settings(folder: &Folder, plan: &Plan) -> Result<Settings, Failure> {
    let stale = |problems: Vec<_>| problem::failure(".sidegate does not know every service", &problems);
    let settings =
        folder.settings()?.ok_or_else(|| stale(vec![not_yet(None, "there is no .sidegate folder")]))?;
    let known = init::known_names(&folder.mesh(), &settings)?;
    let mut problems = Vec::new();
    for member in &plan.members {
        for name in starter::mesh_names(member).iter().filter(|name| !known.contains(name)) {
            problems.push(not_yet(Some(&member.service.name), format!("mesh.yaml does not list {name}")));
        }
        let account = member.service.account();
        if !folder.has_token(&account) {
            problems.push(not_yet(Some(&member.service.name), "it has no join token"));
        } else if let Some(path) = folder.token_of_another(&account, settings.user_of(member)) {
            let (path, user) = (path.display(), settings.user_of(member));
            problems.push(
                not_yet(
                    Some(&member.service.name),
                    format!("its sidecar runs as {user} and could not read {path}"),
                )
                .next(format!("sudo chown {user} {path}")),
            );
        }
    }
    if problems.is_empty() { Ok(settings) } else { Err(stale(problems)) }
}
