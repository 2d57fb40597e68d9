//! `sidegate-proxy healthcheck`: asks the admin port of a running sidecar for `/readyz`, and ends with what it says. So an
//! image needs no shell and no curl.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

/// Arguments of `sidegate-proxy healthcheck`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The sidecar's admin port.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15120")]
    admin: SocketAddr,
}

/// 0: ready; 1: not ready, or no answer in time.
pub(crate) fn run(args: &Args) -> ExitCode {
    match ask(args.admin) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => ExitCode::SUCCESS,
        Ok(answer) => {
            // The last line is the page: `not ready: …`.
            tell(answer.lines().last().unwrap_or("an empty answer"));
            ExitCode::FAILURE
        }
        Err(error) => {
            tell(&format!("{}: {error}", args.admin));
            ExitCode::FAILURE
        }
    }
}

fn ask(admin: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}

/// For the platform's record of the health check.
#[expect(clippy::print_stderr, reason = "the answer of a command that serves nothing")]
fn tell(message: &str) {
    eprintln!("sidegate-proxy: {message}");
}

/// Of each step: below the time that platforms give a health check.
const WAIT: Duration = Duration::from_secs(2);
/// The page is one line.
const MOST_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    fn exit_of(answer: &'static str) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 512];
            let length = stream.read(&mut asked).unwrap();
            assert!(asked[..length].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let is_healthy = run(&Args { admin }) == ExitCode::SUCCESS;
        server.join().unwrap();
        is_healthy
    }

    #[test]
    fn only_a_sidecar_that_says_it_is_ready_is_healthy() {
        assert!(exit_of("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n"));
        assert!(!exit_of("HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready: no certificate\n"));
        assert!(!exit_of(""));
    }

    #[test]
    fn a_port_where_nobody_listens_is_not_healthy() {
        let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(run(&Args { admin }), ExitCode::FAILURE);
    }
}
