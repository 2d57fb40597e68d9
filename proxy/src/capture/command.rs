//! `sidegate-proxy capture apply|run|verify|clear`: what a person or an init container types, and what it is told. Prints one
//! answer, as text or JSON, and ends with 0, with 1 when the rules are not as wanted or cannot be changed, or with 2
//! when the configuration cannot be used.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::Serialize;
use sidegate_codes::Code;

use super::{Applied, Backend, CaptureError, iptables, nft, rules::Chain, start, tool, wanted};
use crate::config::{Config, ConfigError};

/// Arguments of `sidegate-proxy capture`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    /// Put the rules in force that the configuration's `capture` section asks for, in one step.
    ///
    /// Rules that are in force already are left alone, so it can be run at any time.
    Apply {
        #[command(flatten)]
        rules: Rules,
        /// Print the script for nft or iptables-restore, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Put the rules in force, give up every privilege, and be the sidecar: for a container whose network is its own.
    ///
    /// Starts as root with `CAP_NET_ADMIN`, `CAP_SETUID` and `CAP_SETGID`, and goes on as the user `capture.uid` without any
    /// capability. If the rules cannot be put in force it ends, and no sidecar runs.
    #[command(after_long_help = "Example, in a container:
  SIDEGATE_CONFIG=\"$(cat sidecar.yaml)\" sidegate-proxy capture run")]
    Run {
        /// The sidecar's configuration file (YAML), with a `capture` section.
        #[arg(long, value_name = "FILE", required_unless_present = "config_text")]
        config: Option<PathBuf>,
        /// The configuration itself instead of a file.
        #[arg(
            long,
            value_name = "YAML",
            env = "SIDEGATE_CONFIG",
            conflicts_with = "config",
            hide_env_values = true
        )]
        config_text: Option<String>,
    },
    /// Compare the kernel's rules with those that the configuration asks for. Exit code 1 when they differ.
    Verify {
        #[command(flatten)]
        rules: Rules,
    },
    /// Take Sidegate's rules away, and no others. The workload is unprotected then.
    Clear {
        /// How to print.
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: Output,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct Rules {
    /// The sidecar's configuration file (YAML), with a `capture` section.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The user that the sidecar runs as, instead of `capture.uid`.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    uid: Option<u32>,
    /// The program that speaks to the kernel. Absent: nft where it is installed, else iptables.
    #[arg(long, value_name = "PROGRAM")]
    backend: Option<Program>,
    /// How to print.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Program {
    Nft,
    Iptables,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

/// What a command is answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differences: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    script: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum State {
    Applied,
    Unchanged,
    DryRun,
    Verified,
    Differs,
    Cleared,
    Failed,
    BadConfig,
}

/// Why a command did not come to an answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

/// Does what was asked, and says how it went.
pub(crate) fn run(args: &Args) -> ExitCode {
    let output = match &args.what {
        What::Apply { rules, .. } | What::Verify { rules } => rules.output,
        What::Clear { output } => *output,
        What::Run { .. } => Output::Text,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return say(&failed(Code::CaptureFailed, error.to_string(), State::Failed), output),
    };
    let answer = runtime.block_on(async {
        match &args.what {
            What::Apply { rules, dry_run } => apply(rules, *dry_run).await,
            What::Verify { rules } => verify(rules).await,
            What::Clear { .. } => clear().await.map_err(Failure::from),
            What::Run { config, config_text } => Err(go_on(config.as_deref(), config_text.as_deref()).await),
        }
    });
    say(&answer.unwrap_or_else(|failure| failure.answer()), output)
}

/// Becomes the sidecar behind its rules; returns only to say why not.
async fn go_on(config: Option<&Path>, text: Option<&str>) -> Failure {
    let file = config.unwrap_or(Path::new(ENVIRONMENT));
    let read = match text {
        Some(text) if config.is_none() => Config::parse(file, text),
        _ => Config::load(file),
    };
    match read.map_err(Failure::from) {
        Ok(read) => match put_in_force(&read, &file.display().to_string()).await {
            Ok(uid) => CaptureError::NotStarted(start::become_sidecar(uid, config)).into(),
            Err(error) => error.into(),
        },
        Err(failure) => failure,
    }
}

/// Returns the user whom the rules leave out.
async fn put_in_force(config: &Config, file: &str) -> Result<u32, CaptureError> {
    let chains = wanted(config, file)?;
    tool::require_privilege()?;
    Backend::found().await?.apply(&chains).await?;
    config.capture.as_ref().map(|capture| capture.uid).ok_or(CaptureError::NotConfigured(file.to_owned()))
}

async fn apply(rules: &Rules, is_dry_run: bool) -> Result<Answer, Failure> {
    let chains = rules.wanted()?;
    let backend = rules.backend().await?;
    if is_dry_run {
        let script = Some(backend.script(&chains));
        return Ok(Answer { script, ..Answer::of(State::DryRun, Some(backend)) });
    }
    tool::require_privilege()?;
    let state = match backend.apply(&chains).await? {
        Applied::Changed => State::Applied,
        Applied::Unchanged => State::Unchanged,
    };
    Ok(Answer::of(state, Some(backend)))
}

async fn verify(rules: &Rules) -> Result<Answer, Failure> {
    let chains = rules.wanted()?;
    let backend = rules.backend().await?;
    tool::require_privilege()?;
    let differences = backend.differences(&chains).await?;
    if differences.is_empty() {
        return Ok(Answer::of(State::Verified, Some(backend)));
    }
    Ok(Answer {
        code: Some(Code::CaptureDiffers.id()),
        message: Some(Code::CaptureDiffers.title().to_owned()),
        differences,
        ..Answer::of(State::Differs, Some(backend))
    })
}

/// With every program that is there: the rules may have been put in force by either.
async fn clear() -> Result<Answer, CaptureError> {
    tool::require_privilege()?;
    let has_nft = tool::is_there("nft").await;
    if has_nft {
        nft::clear().await?;
    }
    match iptables::clear().await {
        Err(CaptureError::NoBackend) if has_nft => {}
        cleared => cleared?,
    }
    Ok(Answer::of(State::Cleared, None))
}

impl Rules {
    fn wanted(&self) -> Result<Vec<Chain>, Failure> {
        let mut config = Config::load(&self.config)?;
        if let (Some(capture), Some(uid)) = (&mut config.capture, self.uid) {
            capture.uid = uid;
        }
        Ok(wanted(&config, &self.config.display().to_string())?)
    }

    async fn backend(&self) -> Result<Backend, CaptureError> {
        match self.backend {
            None => Backend::found().await,
            Some(Program::Nft) => Ok(Backend::Nft),
            Some(Program::Iptables) => Ok(Backend::Iptables),
        }
    }
}

impl Failure {
    fn answer(&self) -> Answer {
        match self {
            Self::Config(error) => failed(error.code(), error.to_string(), State::BadConfig),
            Self::Capture(error) => {
                let code = error.code();
                let state = if code == Code::CaptureFailed { State::Failed } else { State::BadConfig };
                failed(code, error.to_string(), state)
            }
        }
    }
}

impl Answer {
    fn of(state: State, backend: Option<Backend>) -> Self {
        let backend = backend.map(Backend::as_str);
        Self { state, backend, code: None, message: None, differences: Vec::new(), script: None }
    }

    fn text(&self) -> String {
        let backend = self.backend.unwrap_or_default();
        let mut text = match (self.state, &self.script) {
            (State::DryRun, Some(script)) => return script.clone(),
            (State::Applied | State::DryRun, _) => format!("capture: in force now ({backend})"),
            (State::Unchanged, _) => format!("capture: in force already ({backend})"),
            (State::Verified, _) => format!("capture: in force, exactly as configured ({backend})"),
            (State::Cleared, _) => "capture: cleared; this workload's traffic is not protected".to_owned(),
            (State::Differs | State::Failed | State::BadConfig, _) => {
                let code = self.code.unwrap_or_default();
                format!("capture: {code}: {}", self.message.as_deref().unwrap_or_default())
            }
        };
        for difference in &self.differences {
            text.push_str("\n  ");
            text.push_str(difference);
        }
        if self.state == State::Differs {
            text.push_str(
                "\n  next: sidegate-proxy capture apply --config FILE, then find out who changed them",
            );
        } else if let Some(code) = self.code {
            text.push_str("\n  see: sidegate explain-code ");
            text.push_str(code);
        }
        text.push('\n');
        text
    }
}

fn failed(code: Code, message: String, state: State) -> Answer {
    Answer { code: Some(code.id()), message: Some(message), ..Answer::of(state, None) }
}

/// The answer on standard output, or on standard error if it is none for a person to go on with.
fn say(answer: &Answer, output: Output) -> ExitCode {
    let text = match output {
        Output::Text => answer.text(),
        Output::Json => {
            serde_json::to_string(answer).map_or_else(|error| error.to_string(), |json| json + "\n")
        }
    };
    let exit = match answer.state {
        State::Applied | State::Unchanged | State::DryRun | State::Verified | State::Cleared => 0,
        State::Differs | State::Failed => 1,
        State::BadConfig => 2,
    };
    let written = match (output, exit) {
        (Output::Text, 1..) => io::stderr().write_all(text.as_bytes()),
        _ => io::stdout().write_all(text.as_bytes()),
    };
    // Whoever closed the pipe still gets the number.
    drop(written);
    ExitCode::from(exit)
}

/// What messages call a configuration that is no file.
const ENVIRONMENT: &str = "SIDEGATE_CONFIG";
