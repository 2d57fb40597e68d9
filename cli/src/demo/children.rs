//! The processes of the demo: started from this executable, in process groups of their own so that Ctrl-C reaches
//! the demo alone, logged to files, and ended in order: SIGTERM, a deadline, SIGKILL.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{Instant, timeout_at},
};

/// Every process that runs, in the order of their starts.
#[derive(Debug)]
pub(super) struct Children {
    executable: PathBuf,
    logs: PathBuf,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    name: String,
    arguments: Vec<OsString>,
    child: Child,
}

/// The pipes of a process that is spoken with.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
}

impl Children {
    /// Nobody yet; logs go to files in `logs`.
    pub(super) fn new(logs: PathBuf) -> io::Result<Self> {
        Ok(Self { executable: std::env::current_exe()?, logs, running: Vec::new() })
    }

    /// Starts `sidegate demo-part ARGUMENTS`; its output goes to `NAME.out` and `NAME.err`.
    pub(super) fn start(&mut self, name: &str, arguments: Vec<OsString>) -> io::Result<()> {
        let stdout = self.log(&format!("{name}.out"))?;
        self.spawn(name, arguments, Stdio::null(), stdout.into()).map(|_| ())
    }

    /// The same with pipes to talk through.
    pub(super) fn start_piped(&mut self, name: &str, arguments: Vec<OsString>) -> io::Result<Pipes> {
        let child = self.spawn(name, arguments, Stdio::piped(), Stdio::piped())?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        Ok(Pipes { stdin: stdin.expect("it was piped"), stdout: stdout.expect("it was piped") })
    }

    /// Ends a process as a crash does: no warning, no cleaning up. Returns when it is gone.
    pub(super) async fn kill(&mut self, name: &str) -> io::Result<()> {
        self.named(name)?.child.kill().await
    }

    /// Starts a process again that was killed, with the arguments it had. Logs are appended.
    pub(super) fn start_again(&mut self, name: &str) -> io::Result<()> {
        let place = self.place(name)?;
        let Running { name, arguments, .. } = self.running.remove(place);
        self.start(&name, arguments)
    }

    /// The first process that ended although nobody asked it to.
    pub(super) fn ended(&mut self) -> Option<(String, ExitStatus)> {
        self.running.iter_mut().find_map(|running| {
            let status = running.child.try_wait().ok().flatten()?;
            Some((running.name.clone(), status))
        })
    }

    /// The last lines that a process wrote to stderr.
    pub(super) fn last_words(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.logs.join(format!("{name}.err"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    /// Ends everybody, the youngest first, so that no load runs into a sidecar that is gone.
    pub(super) async fn stop(&mut self) {
        let deadline = Instant::now() + STOP_TIMEOUT;
        for running in self.running.iter().rev() {
            terminate(&running.child);
        }
        for mut running in self.running.drain(..).rev() {
            if timeout_at(deadline, running.child.wait()).await.is_err() {
                // It may have ended by itself since; then there is nothing to kill.
                let _ = running.child.kill().await;
            }
        }
    }

    fn spawn(
        &mut self,
        name: &str,
        arguments: Vec<OsString>,
        stdin: Stdio,
        stdout: Stdio,
    ) -> io::Result<&mut Child> {
        let child = Command::new(&self.executable)
            .args(["demo-part", "--parent", &std::process::id().to_string()])
            .args(&arguments)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(self.log(&format!("{name}.err"))?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        self.running.push(Running { name: name.to_owned(), arguments, child });
        Ok(&mut self.running.last_mut().expect("it was pushed above").child)
    }

    fn log(&self, file: &str) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(Path::new(&self.logs).join(file))
    }

    fn named(&mut self, name: &str) -> io::Result<&mut Running> {
        let place = self.place(name)?;
        Ok(&mut self.running[place])
    }

    fn place(&self, name: &str) -> io::Result<usize> {
        self.running
            .iter()
            .position(|running| running.name == name)
            .ok_or_else(|| io::Error::other(format!("{name} is not running")))
    }
}

fn terminate(child: &Child) {
    // A process that has been waited for has no id: it is gone, and its number may be another's by now.
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended meanwhile.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// How long an orderly end may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(4);

/// Enough of a log to see why a start failed.
const LAST_LINES: usize = 8;
