//! `sidegate quarantine add|list|lift`: the file of the identities that nobody speaks with. It is read whole before and
//! replaced whole after, so nothing of it is lost; a running control plane puts it in force within a second.

use serde_json::json;
use sidegate_control_plane::{
    config::Config,
    quarantine::{Entry, QuarantineFile},
};
use sidegate_identity::SpiffeId;
use time::OffsetDateTime;

use crate::{
    args::Output,
    exit::Exit,
    failure::Failure,
    mesh_file::{self, MeshFile},
    short,
    table::{self, Format},
};

/// What can be done with the quarantine.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum What {
    /// Refuse an identity everywhere: its certificates, its open connections, and every new certificate.
    #[command(after_long_help = "Example:
  sidegate quarantine add shop/orders --reason 'key in a public bucket, INC-7' --mesh mesh.yaml")]
    Add(AddArgs),
    /// List who is in quarantine, since when and why.
    #[command(after_long_help = "Example:\n  sidegate quarantine list --mesh mesh.yaml -o json")]
    List(ListArgs),
    /// Let an identity back in.
    ///
    /// With `--reissue` the certificates that it has stay refused and new ones are issued: what was stolen is of no use
    /// then, and its workloads come back with a join token.
    #[command(
        after_long_help = "Example:\n  sidegate quarantine lift shop/orders --reissue --mesh mesh.yaml"
    )]
    Lift(LiftArgs),
}

/// Arguments of `sidegate quarantine add`.
#[derive(clap::Args, Debug)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    who: Who,
    /// Why, for whoever finds it later.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    output: Output,
}

/// Arguments of `sidegate quarantine list`.
#[derive(clap::Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    file: MeshFile,
    #[command(flatten)]
    output: Output,
}

/// Arguments of `sidegate quarantine lift`.
#[derive(clap::Args, Debug)]
pub(crate) struct LiftArgs {
    #[command(flatten)]
    who: Who,
    /// Refuse the certificates of before this moment all the same.
    #[arg(long)]
    reissue: bool,
    #[command(flatten)]
    output: Output,
}

/// Whose entry, in which file.
#[derive(clap::Args, Debug)]
struct Who {
    /// A SPIFFE ID, or `namespace/account` of the mesh's own trust domain.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    file: MeshFile,
}

/// Runs one of them.
pub(crate) fn run(what: &What) -> Result<Exit, Failure> {
    match what {
        What::Add(args) => add(args),
        What::List(args) => list(args),
        What::Lift(args) => lift(args),
    }
}

fn add(args: &AddArgs) -> Result<Exit, Failure> {
    let (config, mut quarantine) = read(&args.who.file)?;
    let id = args.who.identity(&config)?;
    let entry = Entry {
        id: id.clone(),
        reason: args.reason.clone(),
        since: OffsetDateTime::now_utc(),
        issued_before: None,
    };
    match quarantine.entries.iter_mut().find(|entry| entry.id == id) {
        // The first moment is the one that matters to whoever investigates.
        Some(there) if there.issued_before.is_none() => there.reason = entry.reason,
        Some(there) => *there = entry,
        None => quarantine.entries.push(entry),
    }
    save(&config, &quarantine)?;
    told(args.output, &id, "refused", "a running control plane tells every sidecar within a second")
}

fn lift(args: &LiftArgs) -> Result<Exit, Failure> {
    let (config, mut quarantine) = read(&args.who.file)?;
    let id = args.who.identity(&config)?;
    let position = quarantine.entries.iter().position(|entry| entry.id == id).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "there is nothing to lift",
            format!("{id} is not in {}", config.quarantine.display()),
            "`sidegate quarantine list` shows who is",
        )
        .seen(&args.who.id)
    })?;
    let now = OffsetDateTime::now_utc();
    if args.reissue {
        quarantine.entries[position].issued_before = Some(now);
    } else {
        quarantine.entries.remove(position);
    }
    save(&config, &quarantine)?;
    let (is, next) = if args.reissue {
        ("admitted with certificates issued from now on", "its workloads join anew by their join tokens")
    } else {
        ("admitted", "what it had is valid again")
    };
    told(args.output, &id, is, next)
}

fn list(args: &ListArgs) -> Result<Exit, Failure> {
    let (_, quarantine) = read(&args.file)?;
    let now = OffsetDateTime::now_utc();
    match args.output.output {
        Format::Json => table::print_json("Quarantine", json!({ "identities": quarantine.entries })),
        Format::Table => table::print(&shown(&quarantine, now, |id| short::identity(Some(id)))),
        Format::Wide => table::print(&shown(&quarantine, now, str::to_owned)),
    }?;
    Ok(Exit::Ok)
}

fn shown(quarantine: &QuarantineFile, now: OffsetDateTime, name: impl Fn(&str) -> String) -> String {
    if quarantine.entries.is_empty() {
        return "nobody is in quarantine\n".to_owned();
    }
    let rows = quarantine.entries.iter().map(|entry| {
        let refused = match entry.issued_before {
            None => "everything".to_owned(),
            Some(moment) => format!("what was issued until {}", short::ago(moment, now)),
        };
        [name(entry.id.as_str()), refused, short::ago(entry.since, now), entry.reason.clone()]
    });
    table::columns(["IDENTITY", "REFUSED", "SINCE", "REASON"], rows)
}

fn told(output: Output, id: &SpiffeId, is: &str, next: &str) -> Result<Exit, Failure> {
    match output.output {
        Format::Json => table::print_json("Quarantined", json!({ "id": id.as_str(), "is": is })),
        Format::Table | Format::Wide => table::print(&format!("{id} is {is}; {next}\n")),
    }?;
    Ok(Exit::Ok)
}

fn save(config: &Config, quarantine: &QuarantineFile) -> Result<(), Failure> {
    quarantine.save(&config.quarantine).map_err(|error| {
        let path = config.quarantine.display().to_string();
        let next = "run it as the user who owns the folder";
        Failure::new(Exit::Findings, "the quarantine could not be written", error.to_string(), next)
            .seen(path)
    })
}

impl Who {
    fn identity(&self, config: &Config) -> Result<SpiffeId, Failure> {
        let id = mesh_file::identity(config, &self.id)?;
        if id == config.control_plane_identity() {
            let why = "it is the control plane's own, without which nobody learns of it";
            let next = "name an identity of a workload";
            let what = "the identity cannot be put in quarantine";
            return Err(Failure::new(Exit::Usage, what, why, next).seen(&self.id));
        }
        Ok(id)
    }
}

fn read(file: &MeshFile) -> Result<(Config, QuarantineFile), Failure> {
    let config = file.load()?;
    let quarantine = QuarantineFile::load(&config)
        .map_err(|problems| mesh_file::refused("the quarantine cannot be read", &problems))?;
    Ok((config, quarantine))
}
