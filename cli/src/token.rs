//! `sidegate token create|list|rotate|revoke`: the join tokens of the mesh, in the control plane's state folder. It does not
//! matter whether the control plane is running, or has ever run.

mod delivery;

use std::{path::PathBuf, time::Duration};

use serde_json::json;
use sidegate_control_plane::{
    config::Config,
    tokens::{Secret, State, Terms, Token, Tokens, TokensError},
};
use sidegate_identity::SpiffeId;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use self::delivery::{Delivery, Into};
use crate::{
    args::Output,
    exit::Exit,
    failure::Failure,
    mesh_file::{self, MeshFile},
    short,
    table::{self, Format},
};

/// What can be done with join tokens.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum What {
    /// Make a token that proves one identity, and write it into a file that only its owner reads.
    ///
    /// Without options it is good for one certificate within an hour: after that the sidecar renews by its certificate.
    /// Where a workload that restarts keeps nothing, as containers do, make it `--reusable`.
    #[command(after_long_help = "Examples:
  sidegate token create shop/payments --out payments.token
  sidegate token create shop/payments --out payments.token --reusable --ttl 30d
  sidegate token create shop/payments --out - | vault kv put secret/payments token=-")]
    Create(CreateArgs),
    /// List the tokens: whose, how long, how often used and from where.
    #[command(after_long_help = "Example:\n  sidegate token list --id shop/payments -o json")]
    List(ListArgs),
    /// Make a token in the place of another, which stays valid for a while: two are, and never three.
    #[command(after_long_help = "Example:
  sidegate token rotate 3f1c9a0b52d4e871 --out payments.token --overlap 1h")]
    Rotate(RotateArgs),
    /// Take a token back at once. The certificates that it brought stay valid until they end.
    #[command(after_long_help = "Example:\n  sidegate token revoke 3f1c9a0b52d4e871")]
    Revoke(RevokeArgs),
}

/// Arguments of `sidegate token create`.
#[derive(clap::Args, Debug)]
pub(crate) struct CreateArgs {
    /// A SPIFFE ID of a service in mesh.yaml, or its `namespace/account`.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    to: To,
    /// How long it can be used, 1s to 366d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = life)]
    ttl: Duration,
    /// How many certificates it brings.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// Let it bring any number of certificates until it ends.
    #[arg(long, conflicts_with = "uses")]
    reusable: bool,
    #[command(flatten)]
    mesh: MeshFile,
    #[command(flatten)]
    output: Output,
}

/// Arguments of `sidegate token list`.
#[derive(clap::Args, Debug)]
pub(crate) struct ListArgs {
    /// Of this identity only: a SPIFFE ID, or `namespace/account` of the mesh's own trust domain.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Those that ended too, in the last 30 days.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    mesh: MeshFile,
    #[command(flatten)]
    output: Output,
}

/// Arguments of `sidegate token rotate`.
#[derive(clap::Args, Debug)]
pub(crate) struct RotateArgs {
    /// The token as `sidegate token list` names it.
    #[arg(value_name = "TOKEN")]
    token: String,
    #[command(flatten)]
    to: To,
    /// How long the old one stays valid, at most.
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = overlap)]
    overlap: Duration,
    #[command(flatten)]
    mesh: MeshFile,
    #[command(flatten)]
    output: Output,
}

/// Arguments of `sidegate token revoke`.
#[derive(clap::Args, Debug)]
pub(crate) struct RevokeArgs {
    /// The token as `sidegate token list` names it.
    #[arg(value_name = "TOKEN")]
    token: String,
    #[command(flatten)]
    mesh: MeshFile,
    #[command(flatten)]
    output: Output,
}

/// Where the token goes.
#[derive(clap::Args, Debug)]
struct To {
    /// The file for the sidecar, mode 0600; `rotate` replaces one that is there. `-`: stdout, and nothing else there.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Runs one of them.
pub(crate) fn run(what: &What) -> Result<Exit, Failure> {
    match what {
        What::Create(args) => create(args),
        What::List(args) => list(args),
        What::Rotate(args) => rotate(args),
        What::Revoke(args) => revoke(args),
    }
}

fn create(args: &CreateArgs) -> Result<Exit, Failure> {
    let config = args.mesh.load()?;
    let identity = of_a_service(&config, &args.id)?;
    let terms = Terms { identity, life: args.ttl, uses: (!args.reusable).then_some(args.uses) };
    deliver(&args.to, Into::NewFile, &config, args.output, |tokens, secret, now| {
        tokens.add(secret, &terms, now)
    })
}

fn rotate(args: &RotateArgs) -> Result<Exit, Failure> {
    let config = args.mesh.load()?;
    deliver(&args.to, Into::AnyFile, &config, args.output, |tokens, secret, now| {
        tokens.rotate(&args.token, secret, args.overlap, now)
    })
}

fn revoke(args: &RevokeArgs) -> Result<Exit, Failure> {
    let config = args.mesh.load()?;
    let token = Tokens::open(&config).and_then(|tokens| tokens.revoke(&args.token, now_ms()));
    let token = token.map_err(|error| failed(&error))?;
    let text = format!("{} of {} was revoked; it brings no certificate any more\n", token.id, token.identity);
    told(args.output, &token, &text)
}

fn list(args: &ListArgs) -> Result<Exit, Failure> {
    let config = args.mesh.load()?;
    let of = args.id.as_deref().map(|id| mesh_file::identity(&config, id)).transpose()?;
    let mut tokens = Tokens::list(&config, now_ms()).map_err(|error| failed(&error))?;
    tokens.retain(|token| of.as_ref().is_none_or(|of| token.identity == of.as_str()));
    tokens.retain(|token| args.all || token.state == State::Valid);
    match args.output.output {
        Format::Json => table::print_json("Tokens", json!({ "tokens": tokens })),
        Format::Table => table::print(&shown(&tokens, |id| short::identity(Some(id)))),
        Format::Wide => table::print(&shown(&tokens, str::to_owned)),
    }?;
    Ok(Exit::Ok)
}

/// The file is written before the token is in the store, and in its place after: a token that is good for something is in
/// its file, whatever fails.
fn deliver(
    to: &To,
    into: Into,
    config: &Config,
    output: Output,
    add: impl FnOnce(&Tokens, &Secret, u64) -> Result<Token, TokensError>,
) -> Result<Exit, Failure> {
    let secret = Secret::generate().map_err(|error| failed(&error))?;
    let delivery = Delivery::prepare(&to.out, into, &secret)?;
    let token = Tokens::open(config)
        .and_then(|tokens| add(&tokens, &secret, now_ms()))
        .map_err(|error| failed(&error))?;
    if !delivery.complete(&secret)? {
        return Ok(Exit::Ok);
    }
    let uses = match token.uses {
        None => "any number of certificates".to_owned(),
        Some(1) => "one certificate".to_owned(),
        Some(uses) => format!("{uses} certificates"),
    };
    let text = format!(
        "{} is in {}: good for {uses} of {} until {}\n",
        token.id,
        to.out.display(),
        token.identity,
        token.ends
    );
    told(output, &token, &text)
}

fn told(output: Output, token: &Token, text: &str) -> Result<Exit, Failure> {
    match output.output {
        Format::Json => table::print_json("Token", json!({ "token": token }))?,
        Format::Table | Format::Wide => table::print(text)?,
    }
    Ok(Exit::Ok)
}

fn shown(tokens: &[Token], name: impl Fn(&str) -> String) -> String {
    if tokens.is_empty() {
        return "no token is valid\n".to_owned();
    }
    let now = OffsetDateTime::now_utc();
    let rows = tokens.iter().map(|token| {
        let ends = OffsetDateTime::parse(&token.ends, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let state = match (token.state, &token.successor) {
            (State::Valid, Some(_)) => format!("replaced, for {}", short::left(ends, now)),
            (State::Valid, None) => format!("for {}", short::left(ends, now)),
            (state, _) => state.to_string(),
        };
        let used =
            token.uses.map_or_else(|| token.used.to_string(), |uses| format!("{} of {uses}", token.used));
        [token.id.clone(), name(&token.identity), state, used, token.sources.join(" ")]
    });
    table::columns(["TOKEN", "IDENTITY", "VALID", "USED", "FROM"], rows)
}

/// Whoever is no service of the mesh is issued nothing, so a token of it would only wait for a slip of the pen.
fn of_a_service(config: &Config, text: &str) -> Result<SpiffeId, Failure> {
    let id = mesh_file::identity(config, text)?;
    if config.services.iter().any(|service| service.identity == id) {
        return Ok(id);
    }
    let next = "add it to `services` in mesh.yaml first";
    let why = format!("no service of mesh.yaml runs as {id}");
    Err(Failure::new(Exit::Usage, "no token can be made for this identity", why, next).seen(text))
}

fn failed(error: &TokensError) -> Failure {
    let next = match error {
        TokensError::Unknown(_) | TokensError::Ended { .. } => {
            "`sidegate token list --all` shows them; `sidegate token create` makes one".to_owned()
        }
        TokensError::Replaced { successor, .. } => format!("sidegate token rotate {successor}"),
        TokensError::State(_) | TokensError::Store { .. } | TokensError::Random(_) => {
            "run it on the control plane's host, as the user who owns the state folder".to_owned()
        }
    };
    let exit = if error.code().is_some() { Exit::Findings } else { Exit::Usage };
    let failure = Failure::new(exit, "the tokens stay as they were", error.to_string(), next);
    match error.code() {
        Some(code) => failure.coded(code),
        None => failure,
    }
}

fn life(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_secs(1), Duration::from_hours(24 * 366))
}

fn overlap(text: &str) -> Result<Duration, String> {
    within(text, Duration::ZERO, Duration::from_hours(24 * 366))
}

fn within(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (least..=most).contains(&duration) { Ok(duration) } else { Err("is not within its bounds".to_owned()) }
}

fn now_ms() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}
