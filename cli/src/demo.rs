//! `sidegate demo`: a whole mesh as real processes on loopback, with load and attackers, shown live or proven by
//! checks. It leaves no process and, unless asked to, no file behind.

mod cast;
mod checks;
mod children;
mod documents;
mod evidence;
mod feeds;
mod folder;
pub(crate) mod parts;
mod ports;
mod screen;
mod stage;

use std::{io::Write, process::ExitCode, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{args::Output, exit::Exit, failure::Failure, status::block_on, table::Format};

use self::{
    documents::{AccessLog, Setting},
    stage::{Stage, broken},
};

/// Arguments of `sidegate demo`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Prove the promises instead of showing them; exit code 1 if one is broken.
    #[arg(long)]
    check: bool,
    /// How long the load runs; at least 15s with --check (default 20s). Without --check: until Ctrl-C.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Leave the folder with configurations and logs behind, and print where it is.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    output: Output,
}

/// Runs the demo until it is done or interrupted.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let act = args.act()?;
    // One thread: the children's lives are bound to the thread that starts them.
    block_on(play(act, args.keep))?.map(Into::into)
}

/// What is to be done once everything runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Show { until: Option<Duration> },
    Check { load: Duration, format: Format },
}

impl Args {
    fn act(&self) -> Result<Act, Failure> {
        match (self.check, self.output.output) {
            (false, Format::Json) => {
                Err(usage("-o json without --check", "a screen is not one JSON document"))
            }
            (false, _) => Ok(Act::Show { until: self.duration }),
            (true, format) => {
                let load = self.duration.unwrap_or(DEFAULT_LOAD);
                if load < MIN_LOAD {
                    return Err(usage(
                        &format!("--for {}", humantime::format_duration(load)),
                        "the checks need a load of at least 15s: certificates must rotate under it",
                    ));
                }
                Ok(Act::Check { load, format })
            }
        }
    }
}

async fn play(act: Act, keep: bool) -> Result<Exit, Failure> {
    let mut interruption = Interruption::listen()?;
    let mut stage = Stage::set(act.setting(keep))?;
    for note in stage.cast.replaced_ports() {
        say(&note);
    }
    let outcome = tokio::select! {
        biased;
        () = interruption.comes() => Ok(act.interrupted()),
        outcome = perform(&mut stage, act) => outcome,
    };
    say("stopping every process");
    if let Some(folder) = stage.strike(keep).await {
        say(&format!("kept {}", folder.display()));
    }
    outcome
}

async fn perform(stage: &mut Stage, act: Act) -> Result<Exit, Failure> {
    say("starting the control plane, three services, five sidecars");
    stage.raise().await?;
    match act {
        Act::Show { until } => screen::show(stage, until).await,
        Act::Check { load, format } => checks::run(stage, load, format).await,
    }
}

impl Act {
    /// Certificates live short enough to see them rotate.
    const fn setting(self, keep: bool) -> Setting {
        match self {
            Self::Show { .. } => Setting {
                leaf_life: Duration::from_secs(30),
                access_log: if keep { AccessLog::Stdout } else { AccessLog::Off },
            },
            Self::Check { .. } => {
                Setting { leaf_life: Duration::from_secs(12), access_log: AccessLog::Stdout }
            }
        }
    }

    /// Ending the show is what Ctrl-C is for; checks that did not end have not passed.
    const fn interrupted(self) -> Exit {
        match self {
            Self::Show { .. } => Exit::Ok,
            Self::Check { .. } => Exit::Findings,
        }
    }
}

/// Ctrl-C, SIGTERM, or the terminal going away.
struct Interruption([Signal; 3]);

impl Interruption {
    fn listen() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(|error| broken("listen for signals", &error));
        Ok(Self([on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?]))
    }

    async fn comes(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Progress, on stderr.
fn say(text: &str) {
    // A stderr that is gone leaves nobody to tell.
    let _ = writeln!(anstream::stderr(), "{text}");
}

fn usage(seen: &str, why: &str) -> Failure {
    Failure::new(Exit::Usage, "the demo does not understand", why, "sidegate demo --check --for 20s -o json")
        .seen(seen)
}

const DEFAULT_LOAD: Duration = Duration::from_secs(20);
const MIN_LOAD: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    fn args(check: bool, seconds: Option<u64>, output: Format) -> Args {
        Args { check, duration: seconds.map(Duration::from_secs), keep: false, output: Output { output } }
    }

    #[test]
    fn json_is_for_checks_and_checks_need_time() {
        assert!(args(false, None, Format::Json).act().is_err());
        assert!(args(true, Some(14), Format::Json).act().is_err());
        let act = args(true, Some(15), Format::Json).act().expect("15 s is enough");
        assert_eq!(act, Act::Check { load: Duration::from_secs(15), format: Format::Json });
        assert_eq!(args(false, None, Format::Table).act().expect("a show"), Act::Show { until: None });
    }

    #[test]
    fn interrupted_checks_have_not_passed() {
        assert_eq!(Act::Show { until: None }.interrupted(), Exit::Ok);
        assert_eq!(Act::Check { load: MIN_LOAD, format: Format::Json }.interrupted(), Exit::Findings);
    }
}
