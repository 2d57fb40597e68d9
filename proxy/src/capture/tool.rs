//! Runs a program that speaks to the kernel: a script in, its output or its own words of refusal out, within a bound.

use std::{io, process::Stdio, time::Duration};

use rustix::thread::CapabilitySet;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    time::timeout,
};

use super::CaptureError;

/// Whether rules can be read and changed by this process.
pub(super) fn require_privilege() -> Result<(), CaptureError> {
    match rustix::thread::capabilities(None) {
        Ok(own) if own.effective.contains(CapabilitySet::NET_ADMIN) => Ok(()),
        _ => Err(CaptureError::Privilege),
    }
}

/// Whether `program` is installed.
pub(super) async fn is_there(program: &str) -> bool {
    run(program, &["--version"], "").await.is_ok()
}

/// What `program` prints when it reads `script`. It has to end well, and in time.
pub(super) async fn run(program: &str, arguments: &[&str], script: &str) -> Result<String, CaptureError> {
    let failed =
        |said: String| CaptureError::Tool { command: [&[program], arguments].concat().join(" "), said };
    let ran = async {
        let mut child = spawn(program, arguments)?;
        let mut stdin = child.stdin.take();
        // Both at once: neither may wait for the other with a full pipe.
        let write = async {
            if let Some(stdin) = &mut stdin {
                stdin.write_all(script.as_bytes()).await?;
            }
            drop(stdin);
            Ok(())
        };
        let (written, output) = tokio::join!(write, child.wait_with_output());
        let output = output?;
        // A program that refuses its script early closes the pipe: what it says counts more.
        if output.status.success() { written.map(|()| output) } else { Ok(output) }
    };
    let output = timeout(LONGEST, ran)
        .await
        .map_err(|_| failed(format!("did not end within {LONGEST:?}")))?
        .map_err(|error: io::Error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("{}: {}", output.status, said.trim())))
}

fn spawn(program: &str, arguments: &[&str]) -> io::Result<Child> {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// Some wait for a lock that another program holds.
const LONGEST: Duration = Duration::from_secs(20);
