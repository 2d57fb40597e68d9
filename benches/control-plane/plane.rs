//! A control plane as a process: where it listens, what it used.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use sidegate_identity::{TrustBundle, TrustBundles, TrustDomain};

use crate::mesh::Mesh;

/// Ends with SIGKILL when it is dropped.
pub(crate) struct Plane {
    /// Held for as long as it takes to kill it.
    child: Mutex<Child>,
    id: u32,
    pub(crate) grpc: SocketAddr,
    pub(crate) trust: TrustBundles,
}

impl Plane {
    pub(crate) fn start(program: &Path, mesh: &Mesh) -> Result<Self> {
        let mut child = Command::new(program)
            .arg("--config")
            .arg(mesh.file())
            .args(["--log-level", "info"])
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("it has no stderr")?).lines();
        let mut grpc = None;
        for line in lines.by_ref() {
            let line = line?;
            if line.contains("\"listener\":\"grpc\"") {
                let rest = line.split("\"address\":\"").nth(1).context("no address")?;
                grpc = Some(rest.split('"').next().context("no address")?.parse()?);
                break;
            }
        }
        // The pipe must not fill up.
        std::thread::spawn(move || lines.for_each(drop));
        let trust_domain = TrustDomain::parse("shop.test")?;
        let pem = fs::read(mesh.path("state/root.pem"))?;
        let trust = [TrustBundle::from_pem(trust_domain, &pem)?].into_iter().collect();
        let id = child.id();
        Ok(Self { child: Mutex::new(child), id, grpc: grpc.context("it has ended")?, trust })
    }

    /// User and kernel time so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu(&self.id.to_string())
    }

    /// User and kernel time since it was `before`.
    pub(crate) fn cpu_since(&self, before: Duration) -> Result<Duration> {
        Ok(self.cpu()?.saturating_sub(before))
    }

    /// Resident memory in MiB.
    pub(crate) fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        Ok(line.split_whitespace().nth(1).context("no figure")?.parse::<u64>()? / 1024)
    }
}

impl Plane {
    /// As a crash would.
    pub(crate) fn kill(&self) -> Result<()> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.kill());
    }
}

/// What the simulated proxies have used so far, all together.
pub(crate) fn proxies_cpu() -> Result<Duration> {
    cpu("self")
}

fn cpu(process: &str) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<_> = stat.rsplit(')').next().context("no fields")?.split_whitespace().collect();
    ensure!(fields.len() > 12, "{stat}");
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}
