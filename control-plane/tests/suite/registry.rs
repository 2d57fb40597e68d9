//! What the registry holds when things go wrong: the process is killed, the disk is full, a byte is changed.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use sidegate_codes::Code;
use tonic::Code as Grpc;

use crate::{
    mesh::{Mesh, trust_in},
    sidecar::{Key, issue_at, join},
};

/// A control plane that can be killed. The address is its gRPC listener's.
struct Process {
    child: Child,
    grpc: std::net::SocketAddr,
}

impl Process {
    fn start(config: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidegate-control-plane"));
        command.arg("--config").arg(config);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut seen = Vec::new();
        let grpc = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it ended: {seen:#?}"));
            let document: serde_json::Value = serde_json::from_str(&line).unwrap();
            if document.to_string().contains("\"listener\":\"grpc\"") {
                let address = line.split("\"address\":\"").nth(1).unwrap();
                break address.split('"').next().unwrap().parse().unwrap();
            }
            seen.push(line);
        };
        // The pipe must not fill up.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, grpc }
    }

    /// Its state folder is a filesystem of its own, of 1 MiB, in a mount namespace that ends with it.
    fn start_on_small_disk(mesh: &Mesh) -> Self {
        let state = mesh.path("state");
        fs::create_dir(&state).unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--mount", "sh", "-c"])
            .arg("mount -t tmpfs -o size=1m,mode=0700 tmpfs \"$0\" && exec \"$1\" --config \"$2\"");
        command.arg(state).arg(env!("CARGO_BIN_EXE_sidegate-control-plane")).arg(mesh.path("mesh.yaml"));
        Self::spawn(command)
    }

    /// SIGKILL: no destructor, no handler, nothing is finished.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The serial numbers in a registry that another mount namespace has, read from a copy.
fn records_in(mesh: &Mesh, state: &Path) -> Vec<String> {
    for entry in fs::read_dir(state).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), mesh.path("state").join(entry.file_name())).unwrap();
    }
    let folder = fs::Permissions::from_mode(0o700);
    fs::set_permissions(mesh.path("state"), folder).unwrap();
    mesh.records().0.into_iter().map(|issued| issued.serial).collect()
}

fn serial(certificate: &[u8]) -> String {
    use x509_parser::prelude::{FromDer, X509Certificate};

    let (_, leaf) = X509Certificate::from_der(certificate).unwrap();
    leaf.raw_serial().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_certificate_in_a_clients_hands_is_on_record_however_the_process_is_killed() {
    let mut mesh = Mesh::started().await;
    let trust = mesh.trust();
    mesh.stop().await;
    let mut held = BTreeSet::new();
    for round in 0..100_u64 {
        // More rounds, and longer ones, where the machine is busy.
        if round >= 25 && held.len() > 25 {
            break;
        }
        let process = Process::start(&mesh.path("mesh.yaml"));
        let grpc = process.grpc;
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let trust = trust.clone();
                tokio::spawn(async move {
                    let mut serials = Vec::new();
                    while let Ok(response) = issue_at(grpc, &trust, Key::new().csr, "payments").await {
                        serials.push(serial(&response.certificate_chain[0]));
                    }
                    serials
                })
            })
            .collect();
        // Another moment each round, from "nothing issued yet" to "in the middle of many".
        tokio::time::sleep(Duration::from_millis(3 + round * 7)).await;
        process.kill();
        for client in clients {
            held.extend(client.await.unwrap());
        }
        let recorded: BTreeSet<_> = mesh.records().0.into_iter().map(|issued| issued.serial).collect();
        let lost: Vec<_> = held.difference(&recorded).collect();
        assert!(lost.is_empty(), "round {round}: {lost:?}");
    }
    assert!(held.len() > 25, "only {} certificates were issued", held.len());
    mesh.start().await.unwrap();
    join(&mesh, "payments").await;
}

#[tokio::test]
async fn a_changed_record_refuses_the_start_and_says_what_to_do() {
    let mut mesh = Mesh::started().await;
    join(&mesh, "payments").await;
    mesh.stop().await;
    let registry = rusqlite::Connection::open(mesh.path("state/registry.db")).unwrap();
    registry.execute_batch("UPDATE record SET body = replace(body, 'sa/payments', 'sa/checkout')").unwrap();
    drop(registry);
    let refusal = mesh.start().await.unwrap_err();
    assert_eq!(refusal.code(), Code::RegistryBroken, "{refusal}");
    assert!(refusal.to_string().contains("was changed"), "{refusal}");
    assert!(Code::RegistryBroken.next_step().contains("sidegate certs verify"));
}

#[tokio::test]
async fn a_registry_cut_short_refuses_the_start() {
    let mut mesh = Mesh::started().await;
    join(&mesh, "payments").await;
    mesh.stop().await;
    let file = mesh.path("state/registry.db");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(mesh.start().await.unwrap_err().code(), Code::RegistryBroken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_nothing_is_issued_nothing_is_lost_and_it_goes_on_once_there_is_room() {
    let mesh = Mesh::new();
    let process = Process::start_on_small_disk(&mesh);
    let state = mesh.seen_by(process.child.id(), "state");
    let trust = trust_in(&fs::read(state.join("root.pem")).unwrap());
    let ask = || issue_at(process.grpc, &trust, Key::new().csr, "payments");
    let mut held = vec![serial(&ask().await.unwrap().certificate_chain[0])];
    let filler = state.join("filler");
    assert_eq!(fs::write(&filler, vec![1; 8 << 20]).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let refusal = loop {
        // The write-ahead log may have room left in pages that it has.
        match ask().await {
            Ok(response) => held.push(serial(&response.certificate_chain[0])),
            Err(refusal) => break refusal,
        }
        assert!(held.len() < 10_000, "the disk is never full");
    };
    assert_eq!(refusal.code(), Grpc::Unavailable);
    assert!(refusal.message().starts_with("SG0341"), "{refusal}");
    fs::remove_file(&filler).unwrap();
    held.push(serial(&ask().await.unwrap().certificate_chain[0]));
    let recorded: BTreeSet<_> = records_in(&mesh, &state).into_iter().collect();
    assert!(held.iter().all(|serial| recorded.contains(serial)), "{held:?} in {recorded:?}");
    process.kill();
}
