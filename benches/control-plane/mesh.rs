//! The files of a mesh: services with a join token each, and policies that select one service each.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A mesh in a folder of its own.
pub(crate) struct Mesh {
    folder: TempDir,
    policies: usize,
}

impl Mesh {
    pub(crate) fn new(services: usize, policies: usize) -> Result<Self> {
        let mesh = Self { folder: TempDir::new()?, policies };
        let mut text = String::from(HEAD);
        for service in 0..services {
            let digest = Sha256::digest(name(service));
            let hex = digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
            writeln!(text, "- {{namespace: shop, name: {}, joinTokens: [\"sha256:{hex}\"]}}", name(service))?;
        }
        fs::write(mesh.file(), text)?;
        fs::create_dir(mesh.folder.path().join("policies"))?;
        for service in 0..services {
            mesh.write_policies(service, "GET")?;
        }
        Ok(mesh)
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("mesh.yaml")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The policies of one service, in one file, as an editor writes it: aside, then in place.
    pub(crate) fn write_policies(&self, service: usize, method: &str) -> Result<()> {
        let mut text = String::new();
        for policy in 0..self.policies {
            let name = name(service);
            write!(
                text,
                "---\napiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}-{policy}, namespace: shop}}\n\
                 spec:\n  selector: {{app: {name}}}\n  action: Allow\n  rules:\n  - name: callers\n    \
                 from: [{{serviceAccounts: [shop/caller-{policy}]}}]\n    to: [{{methods: [{method}], paths: [\"/{policy}/**\"]}}]\n"
            )?;
        }
        self.write(&format!("policies/{}.yaml", name(service)), &text)
    }

    /// A policy that selects everything.
    pub(crate) fn write_guardrail(&self, header: usize) -> Result<()> {
        let text = format!(
            "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: guardrail, namespace: mesh}}\n\
             spec:\n  action: Deny\n  rules: [{{name: admin, to: [{{paths: [\"/admin-{header}/**\"]}}]}}]\n"
        );
        self.write("policies/guardrail.yaml", &text)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let aside = self.folder.path().join("aside");
        fs::write(&aside, text)?;
        Ok(fs::rename(aside, self.folder.path().join(Path::new(name)))?)
    }
}

/// The service's name, account and join token.
pub(crate) fn name(service: usize) -> String {
    format!("s{service:04}")
}

const HEAD: &str = r#"apiVersion: sidegate.dev/v1alpha1
kind: Mesh
trustDomain: shop.test
rootNamespace: mesh
policies: policies
state: state
listen: {grpc: "127.0.0.1:0", api: "127.0.0.1:0"}
services:
"#;
