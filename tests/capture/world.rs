//! A mesh of two on a wire: `orders` calls `payments`, both behind sidecars that the kernel leads all traffic to, and a
//! stranger owns the wire. What each program says is kept in a file.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    authority::Authority,
    hosts::{APP, Host, ROOT, Running, SIDECAR, User, Wire},
};

/// The program that the rules are put in force with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Nft,
    Iptables,
}

pub(crate) struct World {
    pub(crate) backend: Backend,
    running: Vec<(String, Running)>,
    // After the programs that are on it.
    pub(crate) wire: Wire,
    folder: tempfile::TempDir,
}

/// What the orders application finds out when it calls.
pub(crate) const PAYMENTS: [&str; 2] = ["10.77.0.2", "[fd77::2]"];
/// In every payload that a test hands an application; on the wire it is never seen.
pub(crate) const MARKER: &str = "PLAINTEXT";

impl Backend {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
        }
    }
}

impl World {
    /// Applications and sidecars, and no rules yet.
    pub(crate) fn uncaptured(backend: Backend) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        // Where other users can run them.
        fs::copy(env!("CARGO_BIN_EXE_sidegate"), folder.path().join("sidegate")).unwrap();
        fs::copy(std::env::current_exe().unwrap(), folder.path().join("program")).unwrap();
        let mut world = Self { backend, running: Vec::new(), wire: Wire::new(), folder };
        let authority = Authority::new();
        for (account, config) in [("orders", ORDERS), ("payments", PAYMENTS_CONFIG)] {
            world.furnish(account, config, &authority);
        }
        world.start("orders-http", Of::Orders, APP, &["http", "[::]:8080"]);
        world.start("payments-http", Of::Payments, APP, &["http", "[::]:8080"]);
        world.start("payments-echo", Of::Payments, APP, &["echo", "[::]:5432"]);
        world.start("payments-undeclared", Of::Payments, APP, &["echo", "[::]:9999"]);
        world.start("payments-udp", Of::Payments, APP, &["echo-udp", "[::]:7000"]);
        world.start("stranger-echo", Of::Stranger, APP, &["echo", "[::]:7777"]);
        world.start("stranger-impostor", Of::Stranger, APP, &["echo", "[::]:7778"]);
        world.start("stranger-udp", Of::Stranger, APP, &["echo-udp", "[::]:7001"]);
        world.start("stranger-resolver", Of::Stranger, ROOT, &["echo-udp", "0.0.0.0:53"]);
        world.start("sniffer", Of::Stranger, ROOT, &["sniff", MARKER]);
        world.start_sidecar(Of::Orders);
        world.start_sidecar(Of::Payments);
        world
    }

    /// The same with the rules in force on both hosts.
    pub(crate) fn new(backend: Backend) -> Self {
        let world = Self::uncaptured(backend);
        for of in [Of::Orders, Of::Payments] {
            assert_eq!(world.capture(of, &["apply"]).answer["state"], "applied");
        }
        world
    }

    pub(crate) fn host(&self, of: Of) -> &Host {
        match of {
            Of::Orders => &self.wire.orders,
            Of::Payments => &self.wire.payments,
            Of::Stranger => &self.wire.stranger,
        }
    }

    /// What becomes of one call, in a word or by its answer.
    pub(crate) fn call(&self, of: Of, user: User, words: &[&str]) -> String {
        let output = self.program(of, user, words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) fn program(&self, of: Of, user: User, words: &[&str]) -> Command {
        let mut command = self.host(of).command(user, self.path("program").to_str().unwrap());
        command.arg("program").args(words);
        command
    }

    /// Runs `sidegate proxy capture` as root on a host, with the configuration of its sidecar.
    pub(crate) fn capture(&self, of: Of, words: &[&str]) -> Captured {
        let mut command = self.host(of).command(ROOT, self.path("sidegate").to_str().unwrap());
        command.args(["proxy", "capture"]).args(words).args(["-o", "json"]);
        if words[0] != "clear" {
            command.args(["--backend", self.backend.as_str(), "--config"]).arg(self.config(of));
        }
        Captured::of(&command.output().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn config(&self, of: Of) -> PathBuf {
        self.path(of.account()).join("sidecar.yaml")
    }

    /// What a program has said so far, the access log if it is a sidecar.
    pub(crate) fn said(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap()
    }

    /// Waits until a program says `what`.
    pub(crate) fn wait_for(&self, name: &str, what: &str) {
        eventually(&format!("{name} says {what}"), || self.said(name).contains(what));
    }

    pub(crate) fn stop(&mut self, name: &str) {
        self.running.retain(|(running, _)| running != name);
    }

    /// Runs a program of the machine's own until the end; `is_up` tells when it serves.
    pub(crate) fn run(
        &mut self,
        name: &str,
        of: Of,
        user: User,
        words: &[&str],
        is_up: impl Fn(&Self) -> bool,
    ) {
        let mut command = self.host(of).command(user, words[0]);
        command.args(&words[1..]).current_dir(self.folder.path());
        let child = command.stdout(self.log(name)).stderr(self.log(&format!("{name}-errors"))).spawn();
        self.running.push((name.to_owned(), Running(child.unwrap())));
        eventually(&format!("{name} serves"), || is_up(self));
    }

    pub(crate) fn start(&mut self, name: &str, of: Of, user: User, words: &[&str]) {
        let log = self.log(name);
        let child = self.program(of, user, words).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.running.push((name.to_owned(), Running(child)));
        self.wait_for(name, "listening");
    }

    pub(crate) fn start_sidecar(&mut self, of: Of) {
        let name = format!("{}-sidecar", of.account());
        let log = self.log(&name);
        let mut command = self.host(of).command(SIDECAR, self.path("sidegate").to_str().unwrap());
        command.args(["proxy", "--config"]).arg(self.config(of));
        let child = command.stdout(log).stderr(self.log(&format!("{name}-errors"))).spawn().unwrap();
        self.running.push((name, Running(child)));
        eventually("the sidecar is ready", || {
            self.call(of, APP, &["get", "127.0.0.1:15120", "/readyz"]).starts_with("200")
        });
    }

    fn log(&self, name: &str) -> File {
        File::create(self.path(&format!("{name}.log"))).unwrap()
    }

    /// A sidecar's folder, which is its own alone.
    fn furnish(&self, account: &str, config: &str, authority: &Authority) {
        let folder = self.path(account);
        fs::create_dir(&folder).unwrap();
        let svid = authority.svid(&format!("spiffe://shop.test/ns/shop/sa/{account}"));
        for (name, text) in [
            ("svid.pem", svid.chain.as_str()),
            ("key.pem", &svid.key),
            ("bundle.pem", &authority.bundle()),
            ("policy.yaml", POLICY),
            ("sidecar.yaml", config),
        ] {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            chown(&path, Some(SIDECAR.0), Some(SIDECAR.0)).unwrap();
        }
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        chown(&folder, Some(SIDECAR.0), Some(SIDECAR.0)).unwrap();
    }
}

/// Which host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Orders,
    Payments,
    Stranger,
}

impl Of {
    pub(crate) fn account(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Payments => "payments",
            Self::Stranger => "stranger",
        }
    }
}

/// What `capture` answered.
pub(crate) struct Captured {
    pub(crate) exit: i32,
    pub(crate) answer: serde_json::Value,
}

impl Captured {
    pub(crate) fn of(output: &Output) -> Self {
        let answer = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        Self { exit: output.status.code().unwrap(), answer }
    }
}

/// Within a bound; otherwise the test has failed.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

const POLICY: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: payments-callers, namespace: shop}
spec:
  selector: {app: payments}
  action: Allow
  rules:
  - name: orders-http
    from: [{serviceAccounts: [shop/orders]}]
    to: [{ports: [8080], methods: [GET], paths: [/open/**]}]
  - name: orders-tcp
    from: [{serviceAccounts: [shop/orders]}]
    to: [{ports: [5432, 6379, 8443, 2222]}]
  - name: orders-http2
    from: [{serviceAccounts: [shop/orders]}]
    to: [{ports: [8082], paths: [/open/**]}]
---
apiVersion: sidegate.dev/v1alpha1
kind: EgressPolicy
metadata: {name: orders-out, namespace: shop}
spec:
  selector: {app: orders}
  rules:
  - {name: legacy, to: [{ipBlocks: [10.77.0.9], ports: [7777]}]}
  - {name: by-server-name, to: [{sni: [localhost], ipBlocks: [127.0.0.0/8], ports: [8443]}]}
  - {name: by-any-address, to: [{sni: [localhost], ports: [8444]}]}
  - {name: by-name, to: [{hosts: [localhost], ipBlocks: [127.0.0.0/8], ports: [8080]}]}
";

/// The application calls payments by the addresses of its hosts, or of a load balancer that no host has.
const ORDERS: &str = "
trustDomain: shop.test
workload: {namespace: shop, serviceAccount: orders, labels: {app: orders}}
identity:
  files: {certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}
policies: policy.yaml
inbound:
- {listen: '[::]:15106', forward: captured, ports: [{port: 8080, protocol: http}]}
outbound:
- {listen: '127.0.0.1:15101', captured: {}}
- {listen: '[::1]:15101', captured: {}}
services:
- name: payments
  identities: ['spiffe://shop.test/ns/shop/sa/payments']
  endpoints: ['10.77.0.2:8080', '[fd77::2]:8080']
  addresses: ['10.96.0.7:80', '[fd96::7]:80']
- name: payments-db
  protocol: tcp
  identities: ['spiffe://shop.test/ns/shop/sa/payments']
  endpoints: ['10.77.0.2:5432', '[fd77::2]:5432']
- name: payments-http2
  identities: ['spiffe://shop.test/ns/shop/sa/payments']
  endpoints: ['10.77.0.2:8082', '[fd77::2]:8082']
- name: payments-bytes
  identities: ['spiffe://shop.test/ns/shop/sa/payments']
  endpoints: ['10.77.0.2:6379', '[fd77::2]:6379', '10.77.0.2:2222', '[fd77::2]:2222', '10.77.0.2:8443', '[fd77::2]:8443']
- name: orders
  identities: ['spiffe://shop.test/ns/shop/sa/orders']
  endpoints: ['10.77.0.1:8080', '[fd77::1]:8080']
- name: impostor
  identities: ['spiffe://shop.test/ns/shop/sa/orders']
  endpoints: ['10.77.0.9:7778']
  addresses: ['10.96.0.8:80']
admin: {listen: '[::]:15120'}
workers: 1
capture: {resolvers: [10.77.0.9]}
";

const PAYMENTS_CONFIG: &str = "
trustDomain: shop.test
workload: {namespace: shop, serviceAccount: payments, labels: {app: payments}}
identity:
  files: {certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}
policies: policy.yaml
inbound:
- listen: '[::]:15106'
  forward: captured
  ports: [{port: 8080, protocol: http}, {port: 8082, protocol: http2}, {port: 5432, protocol: tcp}, {port: 6379}, {port: 8443}, {port: 2222}]
outbound:
- {listen: '127.0.0.1:15101', captured: {}}
- {listen: '[::1]:15101', captured: {}}
admin: {listen: '[::]:15120'}
workers: 1
capture: {resolvers: []}
";
