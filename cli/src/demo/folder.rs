//! The demo's only place on disk: one temporary folder with configurations, policies, tokens, caches and logs.
//! It is removed when dropped, unless it is to be kept.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{
    cast::{Cast, Workload},
    documents::{self, AccessLog, Setting},
};
use crate::join_token;

/// The folder and the names of what is in it.
#[derive(Debug)]
pub(super) struct Folder {
    root: TempDir,
}

impl Folder {
    /// Makes the folder and every file in it.
    pub(super) fn write(cast: &Cast, setting: Setting) -> io::Result<Self> {
        let root = tempfile::Builder::new()
            .prefix("sidegate-demo-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()?;
        let folder = Self { root };
        for name in ["policies", "logs"] {
            fs::create_dir(folder.path().join(name))?;
        }
        for (name, text) in documents::policies() {
            folder.write_policy(name, &text)?;
        }
        let tokens = cast
            .workloads
            .iter()
            .map(|workload| folder.sidecar(cast, workload, setting.access_log))
            .collect::<Result<Vec<_>, _>>()?;
        fs::write(folder.mesh(), documents::mesh(cast, &tokens, setting))?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(super) fn mesh(&self) -> PathBuf {
        self.path().join("mesh.yaml")
    }

    /// Written by the control plane at its first start.
    pub(super) fn root_certificate(&self) -> PathBuf {
        self.path().join("state/root.pem")
    }

    pub(super) fn policies(&self) -> PathBuf {
        self.path().join("policies")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.path().join("logs")
    }

    pub(super) fn sidecar_config(&self, name: &str) -> PathBuf {
        self.path().join("sidecars").join(name).join("sidecar.yaml")
    }

    /// Replaces a policy file in one step, as a careful operator does.
    pub(super) fn write_policy(&self, name: &str, text: &str) -> io::Result<()> {
        // Not a name that the control plane reads, and the same file system, so that the rename is atomic.
        let draft = self.policies().join(format!(".{name}.draft"));
        fs::write(&draft, text)?;
        fs::rename(draft, self.policies().join(name))
    }

    pub(super) fn remove_policy(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.policies().join(name))
    }

    /// Leaves the folder behind and says where it is.
    pub(super) fn keep(self) -> PathBuf {
        self.root.keep()
    }

    /// Writes one sidecar's folder; returns the digest of its join token.
    fn sidecar(&self, cast: &Cast, workload: &Workload, access_log: AccessLog) -> io::Result<String> {
        let config = self.sidecar_config(workload.name);
        let folder = config.parent().expect("the configuration is in a folder of its own");
        fs::create_dir_all(folder)?;
        fs::write(&config, documents::sidecar(cast, workload, access_log))?;
        let token = join_token::random()?;
        write_secret(&folder.join("token"), token.as_str())?;
        Ok(join_token::digest(token.as_str()))
    }
}

fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::ports::Ports;

    fn folder() -> Folder {
        let cast = Cast::at_free_ports(&mut Ports::from_seed(3)).expect("ports");
        let setting =
            Setting { leaf_life: std::time::Duration::from_secs(12), access_log: AccessLog::Stdout };
        Folder::write(&cast, setting).expect("a folder")
    }

    #[test]
    fn tokens_are_secret_and_only_their_digest_is_in_mesh_yaml() {
        let folder = folder();
        let token = folder.sidecar_config("web").with_file_name("token");
        let mode = fs::metadata(&token).expect("a token").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let token = fs::read_to_string(token).expect("a token");
        let mesh = fs::read_to_string(folder.mesh()).expect("mesh.yaml");
        assert!(!mesh.contains(&token));
        assert!(mesh.contains(&join_token::digest(&token)));
    }

    #[test]
    fn nothing_is_left_of_the_folder_unless_it_is_kept() {
        let dropped = folder();
        let path = dropped.path().to_owned();
        drop(dropped);
        assert!(!path.exists());
        let kept = folder().keep();
        assert!(kept.join("policies/guards.yaml").exists());
        fs::remove_dir_all(kept).expect("to clean up");
    }

    #[test]
    fn a_replaced_policy_leaves_no_draft_behind() {
        let folder = folder();
        folder.write_policy("guards.yaml", "new").expect("to write");
        let mut names: Vec<_> = fs::read_dir(folder.policies())
            .expect("the folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        assert_eq!(names, ["callers.yaml", "guards.yaml", "probes.yaml"]);
    }
}
