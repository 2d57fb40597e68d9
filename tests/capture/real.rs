//! Programs of the machine's own, as they are shipped, on two captured hosts: none is told of a sidecar, and none of their
//! bytes is on the wire.

use std::{fs, os::unix::fs::PermissionsExt, process::Output};

use crate::{
    hosts::{APP, ROOT},
    world::{Backend, MARKER, Of, PAYMENTS, World},
};

tests![real_programs_of_each_kind_speak_through_capture];

fn real_programs_of_each_kind_speak_through_capture(backend: Backend) {
    let mut world = World::uncaptured(backend);
    start_nginx(&mut world);
    start_redis(&mut world);
    start_sshd(&mut world);
    for of in [Of::Orders, Of::Payments] {
        assert_eq!(world.capture(of, &["apply"]).answer["state"], "applied");
    }
    for peer in PAYMENTS {
        http2(&world, peer);
        tls_of_its_own(&world, peer);
        client_first(&world, peer);
        server_first(&world, peer);
    }
    let seen = world.said("sniffer");
    assert!(!seen.contains("plaintext:"), "{seen}");
}

/// HTTP/2 with prior knowledge, as gRPC speaks it.
fn http2(world: &World, peer: &str) {
    let at = |path: &str| format!("http://{peer}:8082{path}");
    let curl =
        ["curl", "-sS", "-m", "10", "--http2-prior-knowledge", "-w", " %{http_code} HTTP/%{http_version}"];
    let found = told(&world.orders(&[&curl[..], &[&at("/open/file")]].concat()));
    assert_eq!(found, format!("{MARKER}\n 200 HTTP/2"), "{peer}");
    let denied = told(&world.orders(&[&curl[..], &[&at("/closed/file")]].concat()));
    assert!(denied.starts_with("denied") && denied.ends_with(" 403 HTTP/2"), "{peer}: {denied}");
    // By itself it would name an IPv6 host without its brackets.
    let authority = ":authority: payments";
    let h2load = ["h2load", "-n", "400", "-c", "4", "-m", "16", "-H", authority, &at("/open/file")];
    let load = told(&world.orders(&h2load));
    assert!(load.contains("400 succeeded, 0 failed, 0 errored"), "{peer}: {load}");
}

/// The client verifies the application's own certificate, so that nobody has opened its TLS.
fn tls_of_its_own(world: &World, peer: &str) {
    let certificate = world.path("nginx.pem");
    let found = told(&world.orders(&[
        "curl",
        "-sS",
        "-m",
        "10",
        "--cacert",
        certificate.to_str().unwrap(),
        "--connect-to",
        &format!("shop.test:443:{peer}:8443"),
        "https://shop.test/open/file",
    ]));
    assert_eq!(found, format!("{MARKER}\n"), "{peer}");
}

fn client_first(world: &World, peer: &str) {
    let host = peer.trim_matches(['[', ']']);
    let redis = |words: &[&str]| told(&world.orders(&[&["redis-cli", "-h", host], words].concat()));
    assert_eq!(redis(&["set", "what", MARKER]), "OK\n", "{peer}");
    assert_eq!(redis(&["get", "what"]), format!("{MARKER}\n"), "{peer}");
}

/// The server's greeting and its host key arrive, on a port of which nothing is declared.
fn server_first(world: &World, peer: &str) {
    let host = peer.trim_matches(['[', ']']);
    let keys = told(&world.orders(&["ssh-keyscan", "-T", "10", "-p", "2222", host]));
    let own = fs::read_to_string(world.path("host_key.pub")).unwrap();
    let key = own.split_whitespace().nth(1).unwrap();
    assert!(keys.contains(key), "{peer}: {keys}");
}

fn start_nginx(world: &mut World) {
    let folder = world.path("nginx");
    let folder = folder.to_str().unwrap();
    fs::create_dir_all(format!("{folder}/files/open")).unwrap();
    fs::write(format!("{folder}/files/open/file"), format!("{MARKER}\n")).unwrap();
    let own = rcgen::generate_simple_self_signed(vec!["shop.test".to_owned()]).unwrap();
    fs::write(world.path("nginx.pem"), own.cert.pem()).unwrap();
    fs::write(format!("{folder}/key.pem"), own.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {folder}/{name};"))
        .join("\n");
    let configuration = format!(
        "daemon off;
pid {folder}/pid;
error_log stderr warn;
events {{}}
http {{
access_log off;
{temporary}
server {{ listen [::]:8082 ipv6only=off http2; root {folder}/files; }}
server {{
  listen [::]:8443 ipv6only=off ssl;
  ssl_certificate {folder}/../nginx.pem;
  ssl_certificate_key {folder}/key.pem;
  root {folder}/files;
}}
}}
"
    );
    fs::write(format!("{folder}/conf"), configuration).unwrap();
    world.run("nginx", Of::Payments, APP, &["/usr/sbin/nginx", "-c", &format!("{folder}/conf")], |world| {
        world.is_open("8443")
    });
}

fn start_redis(world: &mut World) {
    let redis = ["redis-server", "--save", "", "--bind", "* -::*", "--protected-mode", "no"];
    world.run("redis", Of::Payments, APP, &redis, |world| world.is_open("6379"));
}

fn start_sshd(world: &mut World) {
    let key = world.path("host_key");
    let key = key.to_str().unwrap();
    world
        .host(Of::Payments)
        .shell(&format!("ssh-keygen -q -t ed25519 -N '' -f {key}; mkdir -p -m 755 /run/sshd"));
    let options = ["-D", "-e", "-f", "/dev/null", "-p", "2222", "-o", "PidFile=none", "-h", key];
    world.run("sshd", Of::Payments, ROOT, &[&["/usr/sbin/sshd"], &options[..]].concat(), |world| {
        world.is_open("2222")
    });
}

impl World {
    /// Runs a program of the machine's own to its end, as the application on the host of orders.
    fn orders(&self, words: &[&str]) -> Output {
        self.host(Of::Orders).command(APP, words[0]).args(&words[1..]).output().unwrap()
    }

    fn is_open(&self, port: &str) -> bool {
        let listening = self.host(Of::Payments).shell("ss -Hltn");
        listening.lines().any(|line| line.contains(&format!(":{port} ")))
    }
}

fn told(output: &Output) -> String {
    let (said, errors) = (&output.stdout, &output.stderr);
    assert!(output.status.success(), "{}{}", said.escape_ascii(), errors.escape_ascii());
    String::from_utf8_lossy(said).into_owned()
}
