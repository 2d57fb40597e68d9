//! The running demo: folder, addresses and processes, put up in order and taken down again, whatever happens.

use std::{ffi::OsString, io, time::Duration};

use http::Method;
use tokio::time::{Instant, sleep};

use super::{
    cast::{CUSTOMER, Cast, INTRUDER, ORDERS, PAYMENTS, WEB, Workload},
    children::Children,
    documents::Setting,
    feeds::{Feed, Load},
    folder::Folder,
    parts::{caller::CallerReport, stranger::StrangerReport},
    ports::Ports,
};
use crate::{
    api::{self, client::Client},
    exit::Exit,
    failure::Failure,
    http1::Connection,
};

/// Everything that runs. Processes end when it is dropped; [`Stage::strike`] ends them in order.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) cast: Cast,
    pub(super) folder: Folder,
    pub(super) children: Children,
    pub(super) api: Client,
}

/// The processes that send, and what they say.
#[derive(Debug)]
pub(super) struct Performers {
    pub(super) load: Load,
    pub(super) intruder: Feed<CallerReport>,
    pub(super) foreign: Feed<StrangerReport>,
    pub(super) anonymous: Feed<StrangerReport>,
}

/// The control plane's process.
pub(super) const CONTROL_PLANE: &str = "control-plane";

impl Stage {
    /// Chooses addresses and writes the folder. Nothing runs yet.
    pub(super) fn set(setting: Setting) -> Result<Self, Failure> {
        let seed = u16::try_from(std::process::id() % 12_000).unwrap_or_default();
        let cast =
            Cast::at_free_ports(&mut Ports::from_seed(seed)).map_err(|error| broken("find ports", &error))?;
        let folder = Folder::write(&cast, setting).map_err(|error| broken("write its folder", &error))?;
        let children = Children::new(folder.logs()).map_err(|error| broken("find its executable", &error))?;
        let api = Client::new(cast.api.into());
        Ok(Self { cast, folder, children, api })
    }

    /// Starts the control plane, the services and the sidecars; returns when every sidecar is ready.
    pub(super) async fn raise(&mut self) -> Result<(), Failure> {
        self.start_control_plane()?;
        self.control_plane_up().await?;
        self.start_services().map_err(|error| broken("start the services", &error))?;
        self.start_sidecars().map_err(|error| broken("start the sidecars", &error))?;
        self.everybody_ready().await
    }

    /// Starts those who send: customers, intruder, strangers.
    pub(super) fn perform(&mut self) -> Result<Performers, Failure> {
        self.start_performers().map_err(|error| broken("start the load", &error))
    }

    /// Starts the control plane for the first time.
    fn start_control_plane(&mut self) -> Result<(), Failure> {
        let arguments = vec!["run-control-plane".into(), "--config".into(), self.folder.mesh().into()];
        self.children
            .start(CONTROL_PLANE, arguments)
            .map_err(|error| broken("start the control plane", &error))
    }

    /// Returns when the control plane answers and its root is on disk.
    pub(super) async fn control_plane_up(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let answers = self.api.get::<api::Status>("/v1/status").await;
            if answers.is_ok() && self.folder.root_certificate().exists() {
                return Ok(());
            }
            self.wait_a_little(deadline, "the control plane does not answer", CONTROL_PLANE).await?;
        }
    }

    /// Returns when every sidecar says that it is ready and the control plane says that it is up to date.
    async fn everybody_ready(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + START_TIMEOUT;
        for place in 0..self.cast.workloads.len() {
            let (name, admin) = (self.cast.workloads[place].name, self.cast.workloads[place].admin);
            while !is_ready(admin).await {
                self.wait_a_little(deadline, "a sidecar is not ready", &sidecar(name)).await?;
            }
        }
        while !self.everybody_connected().await {
            self.wait_a_little(deadline, "not every sidecar is connected", CONTROL_PLANE).await?;
        }
        Ok(())
    }

    /// Whether each sidecar is connected and has the newest version in force.
    pub(super) async fn everybody_connected(&self) -> bool {
        let Ok(proxies) = self.api.get::<api::Proxies>("/v1/proxies").await else {
            return false;
        };
        let current =
            |proxy: &&api::Proxy| proxy.connected && proxy.nack.is_none() && proxy.acked == proxy.version;
        let mut names: Vec<&str> =
            proxies.proxies.iter().filter(current).map(|proxy| &*proxy.identity).collect();
        names.sort_unstable();
        names.dedup();
        names.len() == self.cast.workloads.len()
    }

    /// Ends everybody; the folder is removed, or kept and named.
    pub(super) async fn strike(mut self, keep: bool) -> Option<std::path::PathBuf> {
        self.children.stop().await;
        keep.then(|| self.folder.keep())
    }

    fn start_services(&mut self) -> io::Result<()> {
        for (name, next) in [(WEB, Some(ORDERS)), (ORDERS, Some(PAYMENTS)), (PAYMENTS, None)] {
            let served = self.cast.served(name);
            let mut arguments = words(&["service", "--name", name]);
            arguments.extend(words(&["--listen", &served.app.to_string()]));
            arguments.extend(words(&["--counter", &served.counter.to_string()]));
            if let Some(next) = next {
                arguments.extend(words(&["--next", &self.cast.outbound(name, next).to_string()]));
            }
            self.children.start(name, arguments)?;
        }
        Ok(())
    }

    fn start_sidecars(&mut self) -> io::Result<()> {
        for Workload { name, .. } in &self.cast.workloads {
            let config = self.folder.sidecar_config(name);
            self.children
                .start(&sidecar(name), vec!["run-proxy".into(), "--config".into(), config.into()])?;
        }
        Ok(())
    }

    fn start_performers(&mut self) -> io::Result<Performers> {
        let inbound = self.cast.served(PAYMENTS).inbound.to_string();
        let through = |caller, service| self.cast.outbound(caller, service).to_string();
        let (buy, intrude) = (through(CUSTOMER, WEB), through(INTRUDER, PAYMENTS));
        let rate = ["load", "--target", &buy, "--rate", RATE, "--connections", CONNECTIONS];
        let mut start = |name: &str, arguments: &[&str]| self.children.start_piped(name, words(arguments));
        Ok(Performers {
            intruder: Feed::read(start("intruder", &["intruder", "--target", &intrude])?.stdout),
            foreign: Feed::read(start("foreign", &["foreign", "--target", &inbound])?.stdout),
            anonymous: Feed::read(start("anonymous", &["anonymous", "--target", &inbound])?.stdout),
            load: Load::new(start("load", &rate)?),
        })
    }

    /// Fails at the deadline, or when a process has ended.
    async fn wait_a_little(&mut self, deadline: Instant, what: &str, who: &str) -> Result<(), Failure> {
        if let Some((name, status)) = self.children.ended() {
            return Err(self.failed(&format!("{name} ended: {status}"), &name));
        }
        if Instant::now() >= deadline {
            return Err(self.failed(&format!("{what} after {} s", START_TIMEOUT.as_secs()), who));
        }
        sleep(POLL).await;
        Ok(())
    }

    fn failed(&self, what: &str, who: &str) -> Failure {
        Failure::new(
            Exit::Findings,
            format!("the demo cannot go on: {what}"),
            format!("the last lines of {who}:\n{}", self.children.last_words(who)),
            "run it again with `--keep` and read the folder's logs",
        )
    }
}

/// The process name of a workload's sidecar.
pub(super) fn sidecar(workload: &str) -> String {
    format!("{workload}-sidecar")
}

/// The demo itself cannot do something.
pub(super) fn broken(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(
        Exit::Findings,
        format!("the demo cannot {what}"),
        error.to_string(),
        "check the temporary folder (TMPDIR), the limits of processes and files, and the ports of this machine",
    )
}

async fn is_ready(admin: std::net::SocketAddr) -> bool {
    let Ok(mut connection) = Connection::open(admin, "localhost").await else {
        return false;
    };
    connection.send(Method::GET, "/readyz", &[]).await.is_ok_and(|answer| answer.status.is_success())
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Certificates, processes and two handshakes: a second or two on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);
/// Requests per second, of three hops each: visible, and gentle on a laptop.
const RATE: &str = "200";
const CONNECTIONS: &str = "8";
