//! `sidegate certs rotate start|status|abort` and `sidegate certs taint`: asks the control plane through its state folder, as
//! the user who owns it, and waits for the answer. How far a rotation is can be read whether it is running or not.

use std::{
    fmt::Write,
    thread,
    time::{Duration, Instant},
};

use sidegate_codes::Code;
use sidegate_control_plane::{
    StateError,
    rotation::{
        desk::{Asked, Desk, Request, Status},
        machine::{Phase, Refused, State, Wait},
    },
};

use super::records::written;
use crate::{
    args::Output,
    exit::Exit,
    failure::Failure,
    mesh_file::MeshFile,
    short,
    table::{self, Format},
};

/// What can be done with a rotation.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum What {
    /// Begin a rotation: a new root is made, trusted everywhere, and signs once every sidecar has acknowledged it.
    ///
    /// The old root stays trusted until no certificate of it is alive, and its key is then deleted. All of it goes on by
    /// itself, also over restarts of the control plane.
    #[command(after_long_help = "Example:\n  sidegate certs rotate start --reason 'yearly' --mesh mesh.yaml")]
    Start(AskArgs),
    /// Show how far the rotation is and who is in the way of its next phase.
    #[command(after_long_help = "Examples:
  sidegate certs rotate status --mesh mesh.yaml
  sidegate certs rotate status -o json | jq -r '.blockers[].identity'")]
    Status(StatusArgs),
    /// Go back to the root that signed before, as long as it is trusted.
    #[command(
        after_long_help = "Example:\n  sidegate certs rotate abort --reason 'wrong day' --mesh mesh.yaml"
    )]
    Abort(AskArgs),
}

/// Arguments of `sidegate certs rotate start` and `abort`.
#[derive(clap::Args, Debug)]
pub(crate) struct AskArgs {
    #[command(flatten)]
    pub(super) file: MeshFile,
    /// Why, for the registry.
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: String,
    #[command(flatten)]
    pub(super) output: Output,
}

/// Arguments of `sidegate certs rotate status`.
#[derive(clap::Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    file: MeshFile,
    #[command(flatten)]
    output: Output,
}

/// Arguments of `sidegate certs taint`.
#[derive(clap::Args, Debug)]
pub(crate) struct TaintArgs {
    /// The root, by the beginning of its fingerprint. Absent: the one that signs.
    #[arg(value_name = "ROOT")]
    root: Option<String>,
    #[command(flatten)]
    ask: AskArgs,
}

/// Runs one of them.
pub(super) fn run(what: &What) -> Result<Exit, Failure> {
    match what {
        What::Start(args) => args.ask(&Request::Start { reason: args.reason.clone() }),
        What::Abort(args) => args.ask(&Request::Abort { reason: args.reason.clone() }),
        What::Status(args) => print(&open(&args.file)?, args.output),
    }
}

pub(super) fn taint(args: &TaintArgs) -> Result<Exit, Failure> {
    let root = args.root.as_ref().map(|root| root.to_ascii_lowercase().replace(':', ""));
    args.ask.ask(&Request::Taint { root, reason: args.ask.reason.clone() })
}

impl AskArgs {
    pub(super) fn ask(&self, request: &Request) -> Result<Exit, Failure> {
        let desk = open(&self.file)?;
        let asked = desk.ask(request).map_err(|error| unusable(&error))?;
        let answer = wait(&desk, asked)?;
        if !answer.done {
            let next = "`sidegate certs rotate status` shows how far it is";
            return Err(Failure::new(Exit::Findings, "the root was not touched", answer.message, next)
                .coded(Refused::CODE));
        }
        print(&desk, self.output)
    }
}

fn open(file: &MeshFile) -> Result<Desk, Failure> {
    let config = file.load()?;
    let desk = Desk::open(&config).map_err(|error| unusable(&error))?;
    desk.ok_or_else(|| {
        let why = format!("there is no rotation.db in {}", config.state.display());
        let next = "start the control plane once; it makes its root then";
        Failure::new(Exit::Findings, "there is no root yet", why, next).coded(Code::StateUnusable)
    })
}

/// Until the control plane has answered. A request that nobody took is taken back: it is not to be done some day.
fn wait(desk: &Desk, asked: Asked) -> Result<sidegate_control_plane::rotation::desk::Answer, Failure> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = desk.answer(asked).map_err(|error| unusable(&error))? {
            return Ok(answer);
        }
        if begun.elapsed() >= PATIENCE {
            desk.withdraw(asked).map_err(|error| unusable(&error))?;
            // It may have been answered just now.
            return desk.answer(asked).map_err(|error| unusable(&error))?.ok_or_else(|| {
                let why = format!("no answer within {} s; the request was taken back", PATIENCE.as_secs());
                let next = "start the control plane, or look at its log for SG0361";
                Failure::new(Exit::Unreachable, "the control plane does not answer", why, next)
            });
        }
        thread::sleep(PAUSE);
    }
}

fn print(desk: &Desk, output: Output) -> Result<Exit, Failure> {
    let status = desk.status().map_err(|error| unusable(&error))?.ok_or_else(|| {
        let next = "start the control plane once; it makes its root then";
        Failure::new(Exit::Findings, "there is no root yet", "rotation.db is empty", next)
    })?;
    match output.output {
        Format::Json => table::print_json("Rotation", &status)?,
        format => table::print(&shown(&status, format == Format::Wide))?,
    }
    Ok(Exit::Ok)
}

fn shown(status: &Status, wide: bool) -> String {
    let State { number, signing, phase, cause, urgent, .. } = &status.state;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        writeln!(text, "{name:<10} {value}").expect("a String takes every write");
    };
    if *phase == Phase::Steady {
        line("phase", "steady: no rotation is under way");
    } else {
        let hurry = if *urgent { ", urgent" } else { "" };
        line("rotation", &format!("{number}, {}{hurry}", cause.describe()));
        line("phase", &format!("{} since {}", describe(phase), status.since));
    }
    line("signs", &signing.fingerprint);
    if let Some(other) = status.state.other() {
        line(if matches!(phase, Phase::Prepare { .. }) { "comes" } else { "goes" }, &other.fingerprint);
    }
    if *phase == Phase::Steady {
        return text;
    }
    line("waits for", &format!("{} certificates", status.blocking));
    if status.blockers.is_empty() {
        return text;
    }
    let name = |id: &str| if wide { id.to_owned() } else { short::identity(Some(id)) };
    let rows = status.blockers.iter().map(|blocker| {
        let waits_for = match blocker.waits_for {
            Wait::Acknowledgement => "acknowledgement",
            Wait::End => "its end",
        };
        let connected = if blocker.connected { "yes" } else { "no" };
        let address = if blocker.address.is_empty() { "never seen" } else { &blocker.address };
        [
            name(&blocker.identity),
            waits_for.to_owned(),
            connected.to_owned(),
            address.to_owned(),
            written(blocker.not_after),
            blocker.serial.clone(),
        ]
    });
    text + &table::columns(["IDENTITY", "WAITS FOR", "CONNECTED", "ADDRESS", "ENDS", "SERIAL"], rows)
}

fn describe(phase: &Phase) -> &'static str {
    match phase {
        Phase::Steady => "steady",
        Phase::Prepare { .. } => "prepare (the new root is trusted, the old one signs)",
        Phase::Activate { .. } => "activate (the new root signs, both are trusted)",
        Phase::Retire { .. } => "retire (the old root is taken out of the bundle)",
        Phase::Destroy { .. } => "destroy (the old root's key is deleted)",
    }
}

fn unusable(error: &StateError) -> Failure {
    let next = "run it on the control plane's host, as the user who owns the state folder";
    Failure::new(Exit::Findings, "the rotation's state cannot be used", error.to_string(), next)
        .coded(error.code())
}

/// The control plane looks every second.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);
