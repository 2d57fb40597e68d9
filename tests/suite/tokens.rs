//! `sidegate token` and the sidecars that join by what it makes.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::mesh::{ControlPlane, Member};

const LISTENERS: &str = "inbound: [{listen: '127.0.0.1:0', forward: '127.0.0.1:9', protocol: tcp}]";

/// A control plane and a folder for tokens.
struct World {
    control_plane: ControlPlane,
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let control_plane = ControlPlane::start("100ms", "");
        Self { control_plane, folder: TempDir::new().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("payments.token")
    }

    /// Runs `sidegate token` with these words.
    fn token(&self, words: &str) -> Output {
        let words: Vec<_> = ["token"].into_iter().chain(words.split(' ')).collect();
        self.control_plane.operator(&words)
    }

    /// The same for the file, in JSON: the name of the token that is in it now.
    fn made(&self, words: &str) -> String {
        let output = self.token(&format!("{words} --out {} -o json", self.file().display()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        document(&output)["token"]["id"].as_str().unwrap().to_owned()
    }

    fn secret(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn join(&self, secret: &str) -> Member {
        Member::joining(secret, "payments", &self.control_plane, LISTENERS)
    }
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn is_in(member: &Member) {
    member.logged(|line| line["message"] == "update applied");
}

fn is_out(member: &Member, code: &str) {
    member.logged(|line| line.to_string().contains(code));
}

#[test]
fn a_token_brings_one_sidecar_in_and_a_second_not() {
    let world = World::new();
    let id = world.made("create shop/payments");
    assert_eq!(fs::metadata(world.file()).unwrap().permissions().mode() & 0o777, 0o600);
    is_in(&world.join(&world.secret()));
    is_out(&world.join(&world.secret()), "SG0351");
    let listed = document(&world.token("list --all -o json"));
    assert_eq!(listed["tokens"][0]["id"], id);
    assert_eq!(listed["tokens"][0]["state"], "usedUp");
    assert_eq!(listed["tokens"][0]["sources"], serde_json::json!(["127.0.0.1"]));
    let refused = document(&world.control_plane.operator(&["certs", "list", "--refused", "-o", "json"]));
    assert_eq!(refused["records"][0]["reason"], "token_used_up", "{refused:#}");
}

#[test]
fn a_rotated_token_and_its_successor_both_bring_sidecars_in_until_one_is_revoked() {
    let world = World::new();
    let old = world.made("create shop/payments --reusable --ttl 30d");
    let old_secret = world.secret();
    let new = world.made(&format!("rotate {old}"));
    let new_secret = world.secret();
    assert_ne!(old_secret, new_secret, "the file was replaced");
    is_in(&world.join(&old_secret));
    is_in(&world.join(&new_secret));
    assert!(world.token(&format!("revoke {old}")).status.success());
    is_out(&world.join(&old_secret), "SG0351");
    is_in(&world.join(&new_secret));
    let valid = document(&world.token("list -o json"));
    assert_eq!(valid["tokens"].as_array().unwrap().len(), 1);
    assert_eq!(valid["tokens"][0]["id"], new);
}

#[test]
fn tokens_are_made_before_the_control_plane_has_a_state_folder() {
    let mut world = World::new();
    world.control_plane.stop();
    world.control_plane.lose_its_state();
    assert_eq!(document(&world.token("list -o json"))["tokens"], serde_json::json!([]));
    world.made("create shop/payments");
    world.control_plane.start_again();
    is_in(&world.join(&world.secret()));
}

#[test]
fn what_cannot_be_done_changes_nothing_and_says_what_to_do() {
    let world = World::new();
    let id = world.made("create shop/payments --reusable");
    let (before, out) = (world.secret(), world.file().display().to_string());
    for (words, why) in [
        (format!("create shop/payments --out {out}"), "is there already"),
        (format!("create shop/nobody --out {out}.2"), "no service of mesh.yaml"),
        (format!("create shop/payments --out {out}.2/token"), "Not a directory"),
        (format!("create shop/payments --out {out}.2 --ttl 500d"), "bounds"),
        (format!("rotate 0123456789abcdef --out {out}"), "there is no token"),
        ("revoke 0123456789abcdef".to_owned(), "there is no token"),
    ] {
        if words.contains("/token") {
            fs::write(format!("{out}.2"), "a file where a folder is needed").unwrap();
        }
        let refused = world.token(&words);
        let told = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && told.contains(why), "{words}: {told}");
        assert!(refused.stdout.is_empty(), "{words}");
        let _ = fs::remove_file(format!("{out}.2"));
    }
    assert_eq!(world.secret(), before);
    let tokens = document(&world.token("list --all -o json"));
    assert_eq!(tokens["tokens"].as_array().unwrap().len(), 1);
    assert_eq!(tokens["tokens"][0]["id"], id);
    let left: Vec<_> =
        fs::read_dir(world.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["payments.token"]);
}

#[test]
fn a_token_on_stdout_is_alone_there() {
    let world = World::new();
    let output = world.token("create shop/payments --out -");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("sidegate-join-") && text.trim_end().len() == 78, "{text}");
    is_in(&world.join(&text));
}
