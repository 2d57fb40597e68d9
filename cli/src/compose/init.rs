//! `sidegate compose init`: makes `.sidegate/` from a Compose file, or adds to it the services that are new. What is there stays
//! as it is, so a second run changes nothing.

use std::{fs, path::Path};

use serde_json::json;
use sidegate_control_plane::config::Config;

use super::{
    folder::{self, Folder, not_yet, replace},
    input::Input,
    plan::{Member, Plan},
    problem,
    settings::{Settings, Subnet},
    starter,
};
use crate::{
    args::Output,
    exit::Exit,
    failure::Failure,
    table::{self, Format},
};

/// Arguments of `sidegate compose init`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    input: Input,
    /// The IPv4 block that networks are cut from, /16 to /21; counts the first time. Absent: one in 10.192.0.0/11, by the
    /// project's name.
    #[arg(long, value_name = "CIDR")]
    subnet: Option<Subnet>,
    #[command(flatten)]
    output: Output,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let (project, plan) = args.input.plan()?;
    let folder = Folder::beside(&args.input.path()?);
    let name = || args.input.project_name(&project);
    let mut settings = match folder.settings()? {
        Some(settings) => settings,
        None => Settings::fresh(&name()?, args.subnet, folder::token_user())
            .map_err(|problem| problem::failure("the project cannot be named", &[problem]))?,
    };
    let mut problems = Vec::new();
    for member in &plan.members {
        problems.extend(settings.add(&member.service.name).err());
    }
    if !problems.is_empty() {
        return Err(problem::failure("there is no room for every service", &problems));
    }
    folder.create()?;
    let mut made = policies(&folder, &plan, &settings)?;
    made.extend(mesh(&folder, &plan, &settings)?);
    made.extend(write_if_changed(&folder.settings_file(), &settings.print())?);
    answer(args.output, &made, &plan)
}

/// Starter policies of services that have none; those that are there are a person's.
fn policies(folder: &Folder, plan: &Plan, settings: &Settings) -> Result<Vec<String>, Failure> {
    let mut made = Vec::new();
    for member in &plan.members {
        let path = folder.policy(&member.service.account());
        if let Some(text) = starter::policy(plan, member, settings).filter(|_| !path.exists()) {
            replace(&path, &text, 0o644)?;
            made.push(path.display().to_string());
        }
    }
    Ok(made)
}

/// Adds what `mesh.yaml` does not know yet, and the join tokens of new services.
fn mesh(folder: &Folder, plan: &Plan, settings: &Settings) -> Result<Vec<String>, Failure> {
    let path = folder.mesh();
    let old = if path.exists() {
        fs::read_to_string(&path).map_err(|error| folder::unreadable(&path, &error))?
    } else {
        starter::mesh(settings)
    };
    let known = if path.exists() { known_names(&path, settings)? } else { Vec::new() };
    let mut text = old.clone();
    for member in &plan.members {
        for name in starter::mesh_names(member).iter().filter(|name| !known.contains(name)) {
            let digest = folder.token_digest(&member.service.account(), settings.user_of(member))?;
            text.push_str(&starter::mesh_entry(member, name, &digest, settings));
        }
        lost_token(folder, member)?;
        folder.give_token(&member.service.account(), settings.user_of(member))?;
    }
    if path.exists() && text == old {
        return Ok(Vec::new());
    }
    check(&path, &text)?;
    replace(&path, &text, 0o644)?;
    Ok(vec![path.display().to_string()])
}

/// The services of the project that the file lists.
pub(crate) fn known_names(path: &Path, settings: &Settings) -> Result<Vec<String>, Failure> {
    let config = Config::load(path).map_err(|problems| unusable(path, &problems))?;
    let services = config.services.into_iter().filter(|service| service.name.namespace == settings.project);
    Ok(services.map(|service| service.name.name).collect())
}

/// A service whose token is gone could not join, and a new one would not be the one of `mesh.yaml`.
fn lost_token(folder: &Folder, member: &Member) -> Result<(), Failure> {
    if folder.has_token(&member.service.account()) {
        return Ok(());
    }
    let name = &member.service.name;
    let lost =
        not_yet(Some(name), "mesh.yaml has its join token's digest, and .sidegate/tokens has no token")
            .next("bring the token back, or take the service's entry out of mesh.yaml and run it again");
    Err(problem::failure("a join token is missing", &[lost]))
}

/// Reads the text as the control plane would, before it takes the place of what is there.
fn check(path: &Path, text: &str) -> Result<(), Failure> {
    let draft = path.with_file_name(".mesh.yaml.draft");
    replace(&draft, text, 0o644)?;
    let checked = Config::load(&draft);
    // A draft that stays is no harm: nobody reads it.
    let _ = fs::remove_file(&draft);
    checked.map(|_| ()).map_err(|problems| unusable(path, &problems))
}

fn unusable(path: &Path, problems: &[impl ToString]) -> Failure {
    let why: Vec<_> = problems.iter().map(ToString::to_string).collect();
    Failure::new(
        Exit::Findings,
        format!("{} cannot be used", path.display()),
        why.join("; "),
        "`services` must be a list at the end of the file; correct it and run it again",
    )
}

fn write_if_changed(path: &Path, text: &str) -> Result<Option<String>, Failure> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(None);
    }
    replace(path, text, 0o644)?;
    Ok(Some(path.display().to_string()))
}

fn answer(output: Output, made: &[String], plan: &Plan) -> Result<Exit, Failure> {
    if output.output == Format::Json {
        table::print_json("ComposeInit", json!({"written": made, "notes": plan.notes}))?;
        return Ok(Exit::Ok);
    }
    let written = match made {
        [] => "nothing to do: every service is there".to_owned(),
        files => format!("wrote {}", files.join(", ")),
    };
    table::print(&format!("{}\n{written}\nnext  sidegate compose inject\n", plan.notes.join("\n")))?;
    Ok(Exit::Ok)
}
