//! `sidegate certs list|show|verify|import`: the registry, read from the control plane's state folder as its own user. It does not
//! matter whether the control plane is running.

use std::fmt::Write;

use serde_json::json;
use sidegate_control_plane::{
    config::Config,
    registry::{self, Archive, ArchiveError, Event, Issuance, Listed, Query},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    args::Output,
    exit::Exit,
    failure::Failure,
    mesh_file::{self, MeshFile},
    short,
    table::{self, Format, or_dash},
};

/// Arguments of `sidegate certs list`.
#[derive(clap::Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    file: MeshFile,
    /// Of this identity only: a SPIFFE ID, or `namespace/account` of the mesh's own trust domain.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Valid at this moment only, RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "refused")]
    at: Option<OffsetDateTime>,
    /// Who was refused, instead.
    #[arg(long)]
    refused: bool,
    /// At most so many.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    output: Output,
}

/// Arguments of `sidegate certs show`.
#[derive(clap::Args, Debug)]
pub(crate) struct ShowArgs {
    /// The serial number, in hex.
    #[arg(value_name = "SERIAL")]
    serial: String,
    #[command(flatten)]
    file: MeshFile,
    /// Whether it was valid at this moment, RFC 3339. Absent: now.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<OffsetDateTime>,
    #[command(flatten)]
    output: Output,
}

/// Arguments of `sidegate certs verify`.
#[derive(clap::Args, Debug)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    file: MeshFile,
    #[command(flatten)]
    output: Output,
}

/// Arguments of `sidegate certs import`.
#[derive(clap::Args, Debug)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    file: MeshFile,
    #[command(flatten)]
    output: Output,
}

pub(super) fn list(args: &ListArgs) -> Result<Exit, Failure> {
    let (config, archive) = open(&args.file)?;
    let query = Query {
        identity: args.id.as_deref().map(|id| named(&config, id)).transpose()?,
        at: args.at.map(seconds),
        limit: args.limit,
    };
    let listed = if args.refused { archive.refused(&query) } else { archive.issued(&query) };
    let listed = listed.map_err(|error| refused(&error))?;
    match args.output.output {
        Format::Json => table::print_json("Certificates", json!({ "records": listed }))?,
        format => table::print(&shown(&listed, format == Format::Wide, args.refused))?,
    }
    Ok(Exit::Ok)
}

pub(super) fn show(args: &ShowArgs) -> Result<Exit, Failure> {
    let (_, archive) = open(&args.file)?;
    let serial = args.serial.to_ascii_lowercase().replace(':', "");
    let found = archive.certificate(&serial).map_err(|error| refused(&error))?;
    let Some(Listed { record, at, event: Event::Issued(issuance), hash }) = found else {
        let why = "no certificate of this serial number is on record; it may be older than `certificates.retention`";
        return Err(Failure::new(
            Exit::Findings,
            "there is no such certificate",
            why,
            "`sidegate certs list` shows which there are",
        )
        .seen(&args.serial));
    };
    let asked = args.at.unwrap_or_else(OffsetDateTime::now_utc);
    let is_valid = (issuance.not_before..=issuance.not_after).contains(&seconds(asked));
    if args.output.output == Format::Json {
        let listed = Listed { record, at, event: Event::Issued(issuance), hash };
        table::print_json("Certificate", json!({ "certificate": listed, "validAt": is_valid }))?;
        return Ok(Exit::Ok);
    }
    let Issuance {
        serial,
        identity,
        key,
        attestor,
        evidence,
        caller,
        new_source,
        not_before,
        not_after,
        issuer,
    } = issuance;
    let proof = if evidence.is_empty() { attestor } else { format!("{attestor} {evidence}") };
    let valid = if is_valid { "yes" } else { "no" };
    let lines = [
        ("serial", serial),
        ("identity", identity),
        ("issued", at),
        ("valid", format!("{} to {}", written(not_before), written(not_after))),
        ("valid then", format!("{valid}, at {}", written(seconds(asked)))),
        ("proof", proof),
        ("caller", called_from(caller, new_source)),
        ("key", format!("SHA-256 {key}")),
        ("issuer", format!("SHA-256 {issuer}")),
        ("record", format!("{record}, hash {hash}")),
    ];
    let mut text = String::new();
    for (name, value) in lines {
        writeln!(text, "{name:<11} {value}").expect("a String takes every write");
    }
    table::print(&text)?;
    Ok(Exit::Ok)
}

pub(super) fn verify(args: &VerifyArgs) -> Result<Exit, Failure> {
    let (_, archive) = open(&args.file)?;
    verified(&archive, args.output)
}

pub(super) fn import(args: &ImportArgs) -> Result<Exit, Failure> {
    let config = args.file.load()?;
    registry::import(&config).map_err(|error| {
        let next = "stop the control planes, see to what is said above, and run it again: nothing is lost";
        Failure::new(Exit::Findings, "the registry is not in the database", error.to_string(), next)
            .coded(error.code())
    })?;
    let archive = Archive::open(&config).map_err(|error| refused(&error))?;
    verified(&archive, args.output)
}

fn verified(archive: &Archive, output: Output) -> Result<Exit, Failure> {
    let verified = archive.verify().map_err(|error| refused(&error))?;
    match output.output {
        Format::Json => table::print_json("Registry", &verified)?,
        Format::Table | Format::Wide => table::print(&format!(
            "the registry is whole: records {} to {}, signed up to {}, hash of the last {}\n",
            verified.first, verified.last, verified.sealed, verified.head
        ))?,
    }
    Ok(Exit::Ok)
}

fn shown(listed: &[Listed], wide: bool, refusals: bool) -> String {
    if listed.is_empty() {
        return if refusals { "nobody was refused\n" } else { "no certificate is on record\n" }.to_owned();
    }
    let name = |id: Option<&str>| if wide { or_dash(id) } else { short::identity(id) };
    if refusals {
        let rows = listed.iter().filter_map(|listed| match &listed.event {
            Event::Refused(event) => Some([
                listed.at.clone(),
                event.code.clone(),
                event.reason.clone(),
                name(event.identity.as_deref()),
                event.caller.clone(),
            ]),
            Event::Issued(_) | Event::Rotated(_) => None,
        });
        return table::columns(["AT", "CODE", "REASON", "IDENTITY", "CALLER"], rows);
    }
    let rows = listed.iter().filter_map(|listed| match &listed.event {
        Event::Issued(event) => Some([
            event.serial.clone(),
            name(Some(&event.identity)),
            listed.at.clone(),
            written(event.not_after),
            event.attestor.clone(),
            event.caller.clone(),
        ]),
        Event::Refused(_) | Event::Rotated(_) => None,
    });
    table::columns(["SERIAL", "IDENTITY", "ISSUED", "ENDS", "BY", "CALLER"], rows)
}

fn open(file: &MeshFile) -> Result<(Config, Archive), Failure> {
    let config = file.load()?;
    let archive = Archive::open(&config).map_err(|error| refused(&error))?;
    Ok((config, archive))
}

fn refused(error: &ArchiveError) -> Failure {
    let (what, next) = match error {
        ArchiveError::Broken { .. } => (
            "the registry does not hold together",
            "keep a copy of the state folder; `sidegate explain-code SG0340`",
        ),
        ArchiveError::Unreachable { .. } => (
            "the registry's database cannot be asked",
            "run it where `registry` of mesh.yaml can be reached from; `sidegate explain-code SG0342`",
        ),
        ArchiveError::State(_) | ArchiveError::Missing(_) => (
            "the registry cannot be read",
            "run it on the control plane's host, as the user who owns the state folder",
        ),
    };
    Failure::new(Exit::Findings, what, error.to_string(), next).coded(error.code())
}

fn called_from(caller: String, new_source: bool) -> String {
    match (caller.as_str(), new_source) {
        ("", _) => "the control plane itself".to_owned(),
        (_, true) => format!("{caller}, an address that this token was not used from before"),
        (_, false) => caller,
    }
}

fn named(config: &Config, id: &str) -> Result<String, Failure> {
    mesh_file::identity(config, id).map(|id| id.to_string())
}

fn moment(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "write it as 2026-11-22T10:00:00Z".to_owned())
}

fn seconds(moment: OffsetDateTime) -> u64 {
    u64::try_from(moment.unix_timestamp()).unwrap_or(0)
}

pub(super) fn written(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}
