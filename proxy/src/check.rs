//! `sidegate-proxy --check`: reads what a start would read, says whether it would be put in force, and ends. Nothing is
//! opened to the network, and nobody else is asked.

use std::process::ExitCode;

use rustls::pki_types::UnixTime;
use sidegate_codes::Code;
use sidegate_identity::{
    VerifiedSvid,
    renewal::{self, Standing},
};
use time::OffsetDateTime;

use crate::{
    config::{Config, Source},
    files,
};

/// 0: all is good; 1: not, and standard error says why.
pub(crate) fn run(config: &Config) -> ExitCode {
    let files = match &config.source {
        Source::Files(files) => files,
        // What it will be told is not known before it asks.
        Source::ControlPlane(_) => return ExitCode::SUCCESS,
    };
    match files::try_out(config, files) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(own)) => certificate(&own, UnixTime::now()),
        Err(error) => fail(&error.to_string(), error.code()),
    }
}

fn certificate(own: &VerifiedSvid, now: UnixTime) -> ExitCode {
    let (id, ends) = (own.id(), date(own.not_after()));
    match renewal::standing(own.not_before(), own.not_after(), now) {
        Standing::InTime => {
            say(&format!("{id}: the certificate is valid until {ends}"));
            ExitCode::SUCCESS
        }
        Standing::Late | Standing::Ended => fail(
            &format!("{id}: the certificate ends at {ends} and has no successor ({})", Code::RenewalFailed),
            Code::RenewalFailed,
        ),
    }
}

fn date(time: UnixTime) -> String {
    let time = i64::try_from(time.as_secs()).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    time.and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok()).unwrap_or_default()
}

#[expect(clippy::print_stdout, reason = "the answer of a command that serves nothing")]
fn say(message: &str) {
    println!("{message}");
}

#[expect(clippy::print_stderr, reason = "the answer of a command that serves nothing")]
fn fail(message: &str, code: Code) -> ExitCode {
    eprintln!("sidegate-proxy: {message}\n  see: sidegate explain-code {code}");
    ExitCode::FAILURE
}
