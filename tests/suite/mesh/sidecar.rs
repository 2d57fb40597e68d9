//! A real sidecar process in file mode. Its log and access log are read as they are written, so a test waits for what
//! it expects instead of sleeping.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::JoinHandle,
    time::Instant,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Authority, DOMAIN, PATIENCE, Svid};

/// One port of a sidecar's configuration.
pub(crate) enum Port<'a> {
    /// To the application at the address, with more fields such as `protocol: http`.
    Inbound(SocketAddr, &'a str),
    /// To `shop/<service>`, which must prove to be `spiffe://…/sa/<service>`, at the endpoint.
    Outbound(&'a str, SocketAddr, &'a str),
    /// To several such services, which the application chooses from by the field named first: `services` or `proxy`.
    Among(&'a str, &'a [(&'a str, SocketAddr, &'a str)]),
    /// To `shop/<service>`, which the further configuration describes.
    Service(&'a str, &'a str),
}

/// A running sidecar. Dropping it kills it.
pub(crate) struct Sidecar {
    child: Child,
    folder: TempDir,
    log: Lines,
    access: Lines,
    _readers: [JoinHandle<()>; 2],
    pub(crate) inbound: Option<SocketAddr>,
    pub(crate) outbound: Option<SocketAddr>,
    pub(crate) admin: SocketAddr,
}

/// JSON lines so far.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<(Mutex<Vec<Value>>, Condvar)>);

impl Sidecar {
    /// Beside `shop/<account>`, under `policies`, ready.
    pub(crate) fn start(account: &str, authority: &Authority, policies: &str, ports: &[Port<'_>]) -> Self {
        Self::start_as(account, &authority.svid(&super::id(account)), authority, policies, ports, "")
    }

    /// The same with an SVID and further configuration of the test's choice.
    pub(crate) fn start_as(
        account: &str,
        svid: &Svid,
        authority: &Authority,
        policies: &str,
        ports: &[Port<'_>],
        more: &str,
    ) -> Self {
        let folder = Self::folder(account, svid, authority, policies, ports, more);
        let sidecar = Self::start_in(folder, ports);
        sidecar.applied(1);
        sidecar
    }

    /// The files of such a sidecar, which is not started.
    pub(crate) fn folder(
        account: &str,
        svid: &Svid,
        authority: &Authority,
        policies: &str,
        ports: &[Port<'_>],
        more: &str,
    ) -> TempDir {
        let folder = TempDir::new().unwrap();
        let files = [
            ("bundle.pem", authority.bundle()),
            ("svid.pem", svid.chain.clone()),
            ("key.pem", svid.key.clone()),
            ("policies.yaml", policies.to_owned()),
            ("proxy.yaml", configuration(account, ports, more)),
        ];
        for (name, text) in files {
            write(&folder.path().join(name), &text);
        }
        folder
    }

    /// The same, by `script`, which the shell reads: it that runs its arguments.
    pub(crate) fn start_under(
        script: &str,
        svid: &Svid,
        authority: &Authority,
        policies: &str,
        ports: &[Port<'_>],
    ) -> Self {
        let folder = Self::folder("payments", svid, authority, policies, ports, "");
        let mut shell = Command::new("sh");
        shell.args(["-c", script, env!("CARGO_BIN_EXE_sidegate")]);
        let sidecar = Self::run(shell, folder, ports);
        sidecar.applied(1);
        sidecar
    }

    /// From the files in `folder`, as they are; it may never become ready.
    pub(crate) fn start_in(folder: TempDir, ports: &[Port<'_>]) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_sidegate")), folder, ports)
    }

    fn run(mut program: Command, folder: TempDir, ports: &[Port<'_>]) -> Self {
        let path = folder.path();
        let mut child = program
            .args(["proxy", "--config"])
            .arg(path.join("proxy.yaml"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (log, access) = (Lines::default(), Lines::default());
        let readers = [log.read(child.stderr.take().unwrap()), access.read(child.stdout.take().unwrap())];
        let address = |listener: &str| {
            log.first(|line| line["listener"] == listener)["address"].as_str().unwrap().parse().unwrap()
        };
        let has = |wanted: fn(&Port<'_>) -> bool| ports.iter().any(wanted);
        Self {
            inbound: has(|port| matches!(port, Port::Inbound(..))).then(|| address("inbound")),
            outbound: has(|port| !matches!(port, Port::Inbound(..))).then(|| address("outbound")),
            admin: address("admin"),
            child,
            folder,
            log,
            access,
            _readers: readers,
        }
    }

    /// Its process, even if a shell began it.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where peers reach it.
    pub(crate) fn inbound(&self) -> SocketAddr {
        self.inbound.expect("it has an inbound port")
    }

    /// Where its application reaches the upstream.
    pub(crate) fn outbound(&self) -> SocketAddr {
        self.outbound.expect("it has an outbound port")
    }

    /// A file in its folder.
    pub(crate) fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file of its configuration by rename, as tools do.
    pub(crate) fn replace(&self, file: &str, text: &str) {
        let beside = self.folder.path().join(format!(".{file}.new"));
        write(&beside, text);
        fs::rename(beside, self.folder.path().join(file)).unwrap();
    }

    /// Replaces its root by a new one, and its SVID by one of that; the old root is gone.
    pub(crate) fn move_away(&self, account: &str) {
        let other = Authority::new();
        let own = other.svid(&super::id(account));
        self.replace("svid.pem", &own.chain);
        self.replace("key.pem", &own.key);
        self.replace("bundle.pem", &other.bundle());
    }

    /// A folder with the same files; a socket is none.
    pub(crate) fn copy(&self) -> TempDir {
        let copy = TempDir::new().unwrap();
        for file in fs::read_dir(self.folder.path()).unwrap() {
            let file = file.unwrap();
            if !file.file_type().unwrap().is_file() {
                continue;
            }
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        copy
    }

    /// Changes its configuration file.
    pub(crate) fn configure(&self, change: impl FnOnce(String) -> String) {
        let text = fs::read_to_string(self.folder.path().join("proxy.yaml")).unwrap();
        self.replace("proxy.yaml", &change(text));
    }

    /// Waits until its files have been put in force `times` times since its start.
    pub(crate) fn applied(&self, times: usize) {
        self.log.nth(times - 1, |line| line["message"] == "identity and policies applied");
    }

    /// Waits until a changed configuration file has been put in force `times` times.
    pub(crate) fn configured(&self, times: usize) {
        self.log.nth(times - 1, |line| line["message"] == "configuration applied");
    }

    /// Waits for a line of its log.
    pub(crate) fn logged(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.log.first(wanted)
    }

    /// Waits for a line of its access log.
    pub(crate) fn accessed(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.access.first(wanted)
    }

    /// Waits for `times` such lines of its access log.
    pub(crate) fn accessed_times(&self, times: usize, wanted: impl Fn(&Value) -> bool) {
        self.access.nth(times - 1, wanted);
    }

    /// A page of its admin port.
    pub(crate) async fn page(&self, path: &str) -> super::Reply {
        super::Connection::plain(self.admin, super::Http::One).await.call("GET", path).await.unwrap()
    }

    /// What of its memory is resident.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// Asks it to end in order.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Lines {
    pub(super) fn read(&self, from: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                // Whatever is not JSON is kept too, for the message of a test that waits in vain.
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lines.0.0.lock().unwrap().push(value);
                lines.0.1.notify_all();
            }
        })
    }

    pub(super) fn first(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.nth(0, wanted)
    }

    fn nth(&self, n: usize, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.0.0.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().filter(|line| wanted(line)).nth(n) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no such line came; there are: {lines:#?}");
            lines = self.0.1.wait_timeout(lines, left).unwrap().0;
        }
    }
}

fn configuration(account: &str, ports: &[Port<'_>], more: &str) -> String {
    let (mut inbound, mut outbound, mut services) = (Vec::new(), Vec::new(), Vec::new());
    for port in ports {
        match port {
            Port::Inbound(app, fields) => {
                inbound.push(format!("- {{listen: '127.0.0.1:0', forward: '{app}', {fields}}}\n"));
            }
            Port::Outbound(service, endpoint, fields) => outbound.push(format!(
                "- {{listen: '127.0.0.1:0', service: shop/{service}, identities: ['{}'], \
                 endpoints: ['{endpoint}'], {fields}}}\n",
                super::id(service)
            )),
            Port::Among(how, list) => {
                let names: Vec<_> = list.iter().map(|(name, ..)| *name).collect();
                outbound.push(format!("- {{listen: '127.0.0.1:0', {how}: [{}]}}\n", names.join(", ")));
                services.extend(list.iter().map(|(name, endpoint, fields)| {
                    let id = super::id(name);
                    format!("- {{name: {name}, identities: ['{id}'], endpoints: ['{endpoint}'], {fields}}}\n")
                }));
            }
            Port::Service(service, fields) => {
                outbound.push(format!("- {{listen: '127.0.0.1:0', service: shop/{service}, {fields}}}\n"));
            }
        }
    }
    let section = |name: &str, list: Vec<String>| match list.concat() {
        list if list.is_empty() => list,
        list => format!(
            "{name}:
{list}"
        ),
    };
    format!(
        "trustDomain: {DOMAIN}\n\
         workload: {{namespace: shop, serviceAccount: {account}, labels: {{app: {account}}}}}\n\
         identity: {{files: {{certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}}}}\n\
         policies: policies.yaml\n\
         admin: {{listen: '127.0.0.1:0'}}\n\
         {}{}{}{more}\n",
        section("inbound", inbound),
        section("outbound", outbound),
        section("services", services),
    )
}

/// For nobody but this user, as keys must be.
pub(super) fn write(path: &Path, text: &str) {
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}
