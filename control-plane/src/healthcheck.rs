//! `sidegate-control-plane healthcheck`: asks the API of a running control plane for `/livez`, and ends with what it says. So
//! an image needs no shell and no curl.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

/// Arguments of `sidegate-control-plane healthcheck`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The control plane's API, in plaintext.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15180")]
    api: SocketAddr,
}

/// 0: it serves; 1: it does not, or not in time.
pub(crate) fn run(args: &Args) -> ExitCode {
    match ask(args.api) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => ExitCode::SUCCESS,
        Ok(answer) => unhealthy(args.api, answer.lines().next().unwrap_or("an empty answer")),
        Err(error) => unhealthy(args.api, &error.to_string()),
    }
}

fn ask(api: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&api, WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}

/// For the platform's record of the health check.
fn unhealthy(api: SocketAddr, why: &str) -> ExitCode {
    // A stderr that is gone leaves nobody to tell.
    let _ = writeln!(io::stderr(), "sidegate-control-plane: {api}: {why}");
    ExitCode::FAILURE
}

/// Of each step: below the time that platforms give a health check.
const WAIT: Duration = Duration::from_secs(2);
/// The page is one word.
const MOST_BYTES: u64 = 4096;
