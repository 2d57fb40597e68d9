//! A real control plane, and real sidecars of it. The control plane can be stopped and started again at its address.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread::JoinHandle,
    time::Instant,
};

use rustix::process::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{
    Connection, DOMAIN, Http, PATIENCE, id,
    sidecar::{Lines, write},
};

/// A control plane of `shop/orders` and `shop/payments`. Dropping it kills it.
pub(crate) struct ControlPlane {
    folder: TempDir,
    running: Option<Running>,
    pub(crate) grpc: SocketAddr,
    pub(crate) api: SocketAddr,
    /// Where partners ask for its bundle.
    pub(crate) bundle: SocketAddr,
    domain: &'static str,
    report_interval: &'static str,
    /// Further lines of its configuration.
    more: &'static str,
    /// Whose processes are `shop/orders` at its socket. `None`: it has no socket.
    local_users: Option<String>,
}

/// A sidecar of a control plane. Dropping it kills it.
pub(crate) struct Member {
    running: Running,
    folder: TempDir,
}

/// A process whose log is read as it is written. Dropping it kills it.
struct Running {
    child: Child,
    log: Lines,
    _reader: JoinHandle<()>,
}

impl ControlPlane {
    pub(crate) fn start(report_interval: &'static str, policies: &str) -> Self {
        Self::start_with(report_interval, policies, "")
    }

    /// The same with further configuration.
    pub(crate) fn start_with(report_interval: &'static str, policies: &str, more: &'static str) -> Self {
        Self::start_of(DOMAIN, report_interval, policies, more)
    }

    /// The same of a trust domain of its own.
    pub(crate) fn start_of(
        domain: &'static str,
        report_interval: &'static str,
        policies: &str,
        more: &'static str,
    ) -> Self {
        let mut control_plane = Self::new(domain, report_interval, policies, more);
        control_plane.start_again();
        control_plane
    }

    /// The same with a socket, at which processes of `users` are `shop/orders`.
    pub(crate) fn start_local(users: &str, policies: &str, more: &'static str) -> Self {
        let mut control_plane = Self::new(DOMAIN, "100ms", policies, more);
        control_plane.local_users = Some(users.to_owned());
        control_plane.start_again();
        control_plane
    }

    fn new(domain: &'static str, report_interval: &'static str, policies: &str, more: &'static str) -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("policies")).unwrap();
        write(&folder.path().join("policies/all.yaml"), policies);
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let (grpc, api, bundle) = (free, free, free);
        let (running, local_users) = (None, None);
        Self { folder, running, grpc, api, bundle, domain, report_interval, more, local_users }
    }

    /// Other processes are `shop/orders` at its socket, while it runs.
    pub(crate) fn local_users(&mut self, users: &str) {
        let before = self.local_users.replace(users.to_owned()).expect("it has a socket");
        let text = fs::read_to_string(self.mesh_file()).unwrap();
        write(&self.mesh_file(), &text.replace(&before, users));
    }

    /// Other policies, in place of all that there were.
    pub(crate) fn policies(&self, policies: &str) {
        write(&self.folder.path().join("policies/all.yaml"), policies);
    }

    /// Further lines at the end of the configuration that it runs with, in place of those there were.
    pub(crate) fn extend(&self, lines: &str) {
        let mark = "# further\n";
        let text = fs::read_to_string(self.mesh_file()).unwrap();
        let own = text.split(mark).next().unwrap_or_default();
        write(&self.mesh_file(), &format!("{own}{mark}{lines}"));
    }

    /// Another file beside its configuration.
    pub(crate) fn write(&self, name: &str, text: &str) {
        write(&self.folder.path().join(name), text);
    }

    /// At the address it had.
    pub(crate) fn start_again(&mut self) {
        let path = self.folder.path().join("mesh.yaml");
        write(&path, &self.configuration());
        let running = Running::start(&["control-plane", "--config", path.to_str().unwrap()]);
        self.grpc = running.address("grpc");
        self.api = running.address("api");
        self.bundle = running.address("bundle");
        self.running = Some(running);
    }

    /// What it says at a start that comes to nothing.
    pub(crate) fn start_fails(&self) -> String {
        let mut program = Command::new(env!("CARGO_BIN_EXE_sidegate"));
        let output = program.args(["control-plane", "--config"]).arg(self.mesh_file()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn stop(&mut self) {
        let mut running = self.running.take().expect("it runs");
        running.terminate();
        assert!(running.child.wait().unwrap().success());
    }

    /// It falls, and nobody hears of it before.
    pub(crate) fn kill(&mut self) {
        drop(self.running.take().expect("it runs"));
    }

    /// Forgets its root and everything it issued, as no operator should.
    pub(crate) fn lose_its_state(&self) {
        fs::remove_dir_all(self.folder.path().join("state")).unwrap();
    }

    pub(crate) fn root(&self) -> String {
        fs::read_to_string(self.folder.path().join("state/root.pem")).unwrap()
    }

    /// Runs `sidegate quarantine` on its files.
    pub(crate) fn quarantine(&self, arguments: &[&str]) {
        let output = self.operator(&[&["quarantine"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a command of `sidegate` on its files.
    pub(crate) fn operator(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sidegate"))
            .args(arguments)
            .arg("--mesh")
            .arg(self.mesh_file())
            .output()
            .unwrap()
    }

    /// The path of its configuration.
    pub(crate) fn mesh_file(&self) -> PathBuf {
        self.file("mesh.yaml")
    }

    /// A file beside its configuration.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A document of its API.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let mut api = Connection::plain(self.api, Http::One).await;
        let request = http::Request::get(path).header("host", "localhost");
        let reply = api.send(request.body(http_body_util::Full::default()).unwrap()).await.unwrap();
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        serde_json::from_str(&reply.body).unwrap()
    }

    /// Waits until an element of the `list` at `path` is wanted.
    pub(crate) async fn first(&self, path: &str, list: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let document = self.get(path).await;
            if let Some(found) = document[list].as_array().unwrap().iter().find(|one| wanted(one)) {
                return found.clone();
            }
            assert!(Instant::now() < deadline, "not in {path}: {document:#}");
            // Nothing tells when a document of the API changes.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Waits until the sidecars of `payments` and `orders` have taken what there is for them.
    pub(crate) async fn serves_both(&self) {
        for account in ["payments", "orders"] {
            let is_served =
                |proxy: &Value| proxy["identity"] == id(account) && proxy["acked"].as_u64() > Some(0);
            self.first("/v1/proxies", "proxies", is_served).await;
        }
    }

    /// Waits until it has an edge like this.
    pub(crate) async fn edge(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.first("/v1/edges?window=1h", "edges", wanted).await
    }

    fn configuration(&self) -> String {
        let service = |name: &str, more: &str| {
            let digest: [u8; 32] = Sha256::digest(token(name)).into();
            let digest = hex(&digest);
            format!("- {{namespace: shop, name: {name}, joinTokens: ['sha256:{digest}']{more}}}\n")
        };
        let (socket, users) = match &self.local_users {
            Some(users) => (", socket: local.sock", format!(", localUsers: [{users}]")),
            None => ("", String::new()),
        };
        format!(
            "apiVersion: sidegate.dev/v1alpha1\nkind: Mesh\ntrustDomain: {}\n\
             policies: policies/\nstate: state/\nlisten: {{grpc: '{}', api: '{}', bundle: '{}'{socket}}}\n\
             reportInterval: {}\n{}services:\n{}{}",
            self.domain,
            self.grpc,
            self.api,
            self.bundle,
            self.report_interval,
            self.more,
            service("orders", &users),
            service("payments", ""),
        )
    }
}

impl Member {
    /// Beside `shop/<account>`, with listeners that are written as in a configuration.
    pub(crate) fn start(account: &str, control_plane: &ControlPlane, listeners: &str) -> Self {
        Self::joining(&token(account), account, control_plane, listeners)
    }

    /// The same, by another join token.
    pub(crate) fn joining(
        join_token: &str,
        account: &str,
        control_plane: &ControlPlane,
        listeners: &str,
    ) -> Self {
        let how = format!("address: '{}', joinToken: token", control_plane.grpc);
        let files = [("root.pem", control_plane.root()), ("token", join_token.to_owned())];
        Self::by(&how, &files, account, control_plane.domain, listeners)
    }

    /// The same, by nothing but the control plane's socket.
    pub(crate) fn local(account: &str, control_plane: &ControlPlane, listeners: &str) -> Self {
        Self::local_under(&control_plane.root(), account, control_plane, listeners)
    }

    /// The same, knowing the control plane by another root.
    pub(crate) fn local_under(
        root: &str,
        account: &str,
        control_plane: &ControlPlane,
        listeners: &str,
    ) -> Self {
        let how = format!("address: 'unix:{}'", control_plane.file("local.sock").display());
        let files = [("root.pem", root.to_owned())];
        Self::by(&how, &files, account, control_plane.domain, listeners)
    }

    fn by(how: &str, files: &[(&str, String)], account: &str, domain: &str, listeners: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let configuration = format!(
            "trustDomain: {domain}\nworkload: {{namespace: shop, serviceAccount: {account}}}\n\
             controlPlane: {{{how}, trustBundle: root.pem}}\n{listeners}\n"
        );
        for (name, text) in files.iter().chain([&("proxy.yaml", configuration)]) {
            write(&folder.path().join(name), text);
        }
        let path: PathBuf = folder.path().join("proxy.yaml");
        let running = Running::start(&["proxy", "--config", path.to_str().unwrap()]);
        Self { running, folder }
    }

    /// Where `listener` listens.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        self.running.address(listener)
    }

    pub(crate) fn logged(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.running.log.first(wanted)
    }

    /// A file in its folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces the roots by which it knows the control plane.
    pub(crate) fn replace_root(&self, pem: &str) {
        write(&self.folder.path().join("root.pem"), pem);
    }

    pub(crate) fn terminate(&self) {
        self.running.terminate();
    }

    /// It stands still, as a machine that is suspended.
    pub(crate) fn suspend(&self) {
        self.running.signal(Signal::STOP);
    }

    /// It goes on.
    pub(crate) fn resume(&self) {
        self.running.signal(Signal::CONT);
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.running.child.wait().unwrap()
    }
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sidegate"))
            .args(arguments)
            // Nobody reads it.
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Lines::default();
        let reader = log.read(child.stderr.take().unwrap());
        Self { child, log, _reader: reader }
    }

    fn address(&self, listener: &str) -> SocketAddr {
        let line = self.log.first(|line| line["listener"] == listener);
        line["address"].as_str().unwrap().parse().unwrap()
    }

    fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The join token of a service.
fn token(service: &str) -> String {
    format!("the join token of shop/{service}, which is long enough")
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}
