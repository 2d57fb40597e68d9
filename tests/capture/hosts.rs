//! Network namespaces as hosts: made, used and taken away again, whatever becomes of the test.

use std::{
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// A host on the wire. Its namespace, and with it every interface and rule, ends with it.
pub(crate) struct Host {
    pub(crate) namespace: String,
    pub(crate) v4: &'static str,
    pub(crate) v6: &'static str,
}

/// Two hosts and a stranger who owns the wire between them.
pub(crate) struct Wire {
    pub(crate) orders: Host,
    pub(crate) payments: Host,
    pub(crate) stranger: Host,
}

/// Whoever runs a program.
#[derive(Clone, Copy)]
pub(crate) struct User(pub(crate) u32);

pub(crate) const ROOT: User = User(0);
pub(crate) const SIDECAR: User = User(15100);
pub(crate) const APP: User = User(1500);
pub(crate) const SOMEBODY: User = User(1501);

/// What is missing to run at all.
pub(crate) fn prerequisites() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("they need root, to make network namespaces".to_owned());
    }
    for (program, package) in [
        ("ip", "iproute2"),
        ("nft", "nftables"),
        ("iptables-nft-restore", "iptables"),
        ("ip6tables-nft-restore", "iptables"),
        ("setpriv", "util-linux"),
        ("curl", "curl"),
        ("h2load", "nghttp2-client"),
        ("/usr/sbin/nginx", "nginx-light"),
        ("redis-server", "redis-server"),
        ("/usr/sbin/sshd", "openssh-server"),
        ("ssh-keyscan", "openssh-client"),
    ] {
        let ran = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if ran.is_err() {
            return Err(format!("no {program}: apt-get install {package}"));
        }
    }
    Ok(())
}

impl Wire {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let host =
            |role: &str, v4, v6| Host::new(format!("sg{}-{number}-{role}", std::process::id()), v4, v6);
        let wire = Self {
            orders: host("orders", "10.77.0.1", "fd77::1"),
            payments: host("payments", "10.77.0.2", "fd77::2"),
            stranger: host("wire", "10.77.0.9", "fd77::9"),
        };
        wire.stranger.ip("link add br0 type bridge");
        for (end, host) in [("o", &wire.orders), ("p", &wire.payments)] {
            wire.stranger.ip(&format!("link add {end} type veth peer name eth0 netns {}", host.namespace));
            wire.stranger.ip(&format!("link set {end} master br0 up"));
            host.addresses("eth0");
            // Services have addresses that no host has: something must look like the way there.
            host.ip("route add default via 10.77.0.9");
            host.ip("-6 route add default via fd77::9");
        }
        wire.stranger.addresses("br0");
        wire
    }
}

impl Host {
    fn new(namespace: String, v4: &'static str, v6: &'static str) -> Self {
        run(Command::new("ip").args(["netns", "add", &namespace]));
        let host = Self { namespace, v4, v6 };
        host.ip("link set lo up");
        host
    }

    fn addresses(&self, interface: &str) {
        self.ip(&format!("link set {interface} up"));
        self.ip(&format!("addr add {}/24 dev {interface}", self.v4));
        // Without waiting for others who might have the address.
        self.ip(&format!("-6 addr add {}/64 dev {interface} nodad", self.v6));
    }

    fn ip(&self, arguments: &str) {
        let arguments = arguments.split(' ');
        run(Command::new("ip").args(["-n", &self.namespace]).args(arguments));
    }

    /// A program on this host, without any capability unless it is root's.
    pub(crate) fn command(&self, user: User, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]);
        if user.0 != 0 {
            let id = user.0.to_string();
            command.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
            command.args(["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]);
        }
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a shell line as root; it has to succeed.
    pub(crate) fn shell(&self, line: &str) -> String {
        let output = self.command(ROOT, "sh").args(["-euc", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Never in the way of the panic that may be on its way.
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

/// A program that is ended with its owner.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
