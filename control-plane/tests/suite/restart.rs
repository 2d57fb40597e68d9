//! What survives a restart, what refuses one, and how the control plane ends.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use sidegate_codes::Code;

use crate::{
    mesh::{Mesh, mesh_yaml},
    sidecar::{Key, Sidecar, hello, issue, join},
};

#[tokio::test]
async fn the_root_survives_and_certificates_from_before_still_renew() {
    let mut mesh = Mesh::started().await;
    let payments = join(&mesh, "payments").await;
    let root = fs::read(mesh.path("state/root.pem")).unwrap();
    mesh.stop().await;
    mesh.start().await.unwrap();
    assert_eq!(fs::read(mesh.path("state/root.pem")).unwrap(), root);
    issue(&mesh, Some(&payments), Key::new().csr, "").await.unwrap();
}

#[tokio::test]
async fn the_roots_certificate_is_put_where_sidecars_read_it() {
    let mut mesh = Mesh::new();
    let text = mesh_yaml("6h") + "trustBundle: trust/root.pem\n";
    mesh.write("mesh.yaml", &text);
    assert_eq!(mesh.start().await.unwrap_err().code(), Code::StateUnusable, "there is no such folder");
    fs::create_dir(mesh.path("trust")).unwrap();
    mesh.start().await.unwrap();
    let root = fs::read(mesh.path("state/root.pem")).unwrap();
    assert_eq!(fs::read(mesh.path("trust/root.pem")).unwrap(), root);
    assert_eq!(fs::read_dir(mesh.path("trust")).unwrap().count(), 1, "the key stays where it is");
}

#[tokio::test]
async fn a_key_that_others_can_read_refuses_the_start() {
    let mut mesh = Mesh::started().await;
    mesh.stop().await;
    fs::set_permissions(mesh.path("state/root.key"), Permissions::from_mode(0o644)).unwrap();
    assert_eq!(mesh.start().await.unwrap_err().code(), Code::UnsafeKeyFile);
}

#[tokio::test]
async fn a_second_control_plane_on_the_same_state_is_refused() {
    let mesh = Mesh::started().await;
    let second = sidegate_control_plane::app::Running::start(&mesh.path("mesh.yaml")).await;
    assert_eq!(second.unwrap_err().code(), Code::StateUnusable);
}

#[tokio::test]
async fn stopping_ends_open_streams() {
    let mut mesh = Mesh::started().await;
    let credentials = join(&mesh, "payments").await;
    let mut sidecar = Sidecar::subscribe(&mesh, &credentials, hello(&[])).await.unwrap();
    sidecar.acked_update().await;
    mesh.stop().await;
    assert_eq!(sidecar.end_or_update().await.unwrap_err().code(), tonic::Code::Unavailable);
}

#[test]
fn a_configuration_with_errors_refuses_the_start_and_names_them_all() {
    let mesh = Mesh::new();
    let text = fs::read_to_string(mesh.path("mesh.yaml")).unwrap();
    mesh.write("mesh.yaml", &text.replace("shop.test", "Shop.test").replace("6h", "1s"));
    let output = Command::new(env!("CARGO_BIN_EXE_sidegate-control-plane"))
        .arg("--config")
        .arg(mesh.path("mesh.yaml"))
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(
        log.contains("trustDomain") && log.contains("certificates.leafLife") && log.contains("SG0403"),
        "{log}"
    );
}

#[test]
fn sigterm_ends_the_process_in_order() {
    let mesh = Mesh::new();
    let mut process = Command::new(env!("CARGO_BIN_EXE_sidegate-control-plane"))
        .arg("--config")
        .arg(mesh.path("mesh.yaml"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = std::io::BufReader::new(process.stderr.take().unwrap());
    let mut lines = std::io::BufRead::lines(log).map(Result::unwrap);
    assert!(lines.any(|line| line.contains("\"listener\":\"api\"")), "it never listened");
    let id = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(0));
    assert!(lines.any(|line| line.contains("stopping")));
}
