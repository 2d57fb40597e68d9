//! The rules of `sidegate compose check`: a complete file as a tree goes in, findings come out. A service is judged by what it has, not by
//! what it says of itself.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use sidegate_codes::Code;

use super::Finding;
use crate::{
    compose::{
        file::{INJECT, MODE, ROLE, SIDECAR_OF, env_files, pairs, past_the_rules, words},
        inject::{MESH, application::DROPPED},
        sidecar::CAPTURE,
        yaml::Node,
    },
    join_token,
};

/// Everything that is wrong with a file at `path`, to which secrets and `env_file` are relative.
pub(super) fn judge(document: &Node, path: &Path) -> Vec<Finding> {
    let file = File { document, services: document.get("services").map(Node::entries).unwrap_or_default() };
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut findings = Vec::new();
    for (name, service) in file.services {
        findings.extend(tokens_in_environment(name, service, folder));
        if is_of_mesh(service) {
            findings.extend(joins_an_application(name, service));
        } else if label(service, INJECT).as_deref() != Some("disabled") {
            findings.extend(file.not_alone(name, service));
            findings.extend(published(name, service));
        }
    }
    findings.extend(readable_secrets(document, folder));
    findings
}

struct File<'a> {
    document: &'a Node,
    services: &'a [(String, Node)],
}

impl File<'_> {
    /// An application whose networks are not just one, internal, with its own sidecar and nobody else on it.
    fn not_alone(&self, name: &str, service: &Node) -> Option<Finding> {
        let exposed = |what: String| Some(Finding::of(Some(name), Code::NotFenced, what));
        let sidecar =
            self.services.iter().find(|(_, other)| label(other, SIDECAR_OF).as_deref() == Some(name));
        let Some((sidecar, settings)) = sidecar else {
            return exposed("it has no sidecar".to_owned());
        };
        if label(settings, MODE).as_deref() == Some("transparent") {
            return self
                .not_behind_rules(name, service, sidecar, settings)
                .map(|(code, what)| Finding::of(Some(name), code, what));
        }
        if let Some(mode) = service.get("network_mode").and_then(Node::scalar) {
            return exposed(format!("`network_mode: {mode}` puts it on a network of others"));
        }
        let networks = words(service.get("networks"));
        let [fence] = &networks[..] else {
            let there = if networks.is_empty() { "default".to_owned() } else { networks.join(", ") };
            return exposed(format!("it is on {there}, not on a fence alone"));
        };
        let settings = self.document.get("networks").and_then(|all| all.get(fence));
        if settings.and_then(|network| network.get("internal")) != Some(&Node::Bool(true)) {
            return exposed(format!("its network {fence} is not internal: it leads outside"));
        }
        let others = self.services.iter().filter(|(other, _)| other != name && other != sidecar);
        let other = others.into_iter().find(|(_, other)| words(other.get("networks")).contains(fence));
        other.and_then(|(other, _)| exposed(format!("{other} is on its network {fence} too"))).or_else(|| {
            (fence == MESH).then(|| Finding::of(Some(name), Code::NotFenced, "it is among the sidecars"))
        })
    }
}

impl File<'_> {
    /// An application that has not joined a sidecar which starts with its rules, or has what leads past them.
    fn not_behind_rules(
        &self,
        name: &str,
        service: &Node,
        sidecar: &str,
        settings: &Node,
    ) -> Option<(Code, String)> {
        let mode = |service: &Node| service.get("network_mode").and_then(Node::scalar).unwrap_or_default();
        let joined = format!("service:{sidecar}");
        let exposed = |what: String| Some((Code::NotFenced, what));
        if mode(service) != joined {
            return exposed(format!("it has not joined {sidecar}, which is transparent"));
        }
        if words(settings.get("command")) != CAPTURE {
            return exposed(format!("{sidecar} does not start with `{}`", CAPTURE.join(" ")));
        }
        let dropped = words(service.get("cap_drop"));
        if !DROPPED.iter().all(|name| dropped.iter().any(|own| own == name || own == "ALL")) {
            return exposed(format!("its `cap_drop` lacks {}", DROPPED.join(" or ")));
        }
        let mut others = self.services.iter().filter(|(other, _)| other != name);
        if let Some((other, _)) = others.find(|(_, other)| mode(other) == joined) {
            return exposed(format!("{other} has joined {sidecar} too"));
        }
        past_the_rules(service).into_iter().next()
    }
}

/// A port at the host that does not lead to the sidecar.
fn published(name: &str, service: &Node) -> Option<Finding> {
    let entry = service.get("ports")?.items().first()?;
    let shown = entry.scalar().or_else(|| entry.get("target")?.scalar()).unwrap_or_default();
    Some(Finding::of(Some(name), Code::PortBesideSidecar, format!("it publishes {shown} itself")))
}

/// A sidecar in the network of its application: when that restarts, it stands naked.
fn joins_an_application(name: &str, service: &Node) -> Option<Finding> {
    let mode = service.get("network_mode").and_then(Node::scalar)?;
    Some(Finding::of(Some(name), Code::SidecarJoinsApplication, format!("`network_mode: {mode}`")))
}

/// A join token where `docker inspect` shows it, whichever file sets it.
fn tokens_in_environment(name: &str, service: &Node, folder: &Path) -> Option<Finding> {
    // A file that cannot be read is told by who has to read it; here it holds nothing.
    let files = env_files(service.get("env_file")).unwrap_or_default();
    let from_files = files.iter().filter_map(|file| file.read(folder).ok()).flatten();
    let (key, _) = pairs(service.get("environment")).into_iter().chain(from_files).find(|(key, value)| {
        join_token::is_in(value) || (is_of_mesh(service) && key.to_ascii_uppercase().contains("TOKEN"))
    })?;
    Some(Finding::of(
        Some(name),
        Code::SecretInManifest,
        format!("{key} in its environment looks like a join token"),
    ))
}

/// A secret's file that others on this host may read.
fn readable_secrets(document: &Node, folder: &Path) -> Vec<Finding> {
    let secrets = document.get("secrets").map(Node::entries).unwrap_or_default();
    let files = secrets.iter().filter_map(|(_, secret)| Some(folder.join(secret.get("file")?.scalar()?)));
    files
        .filter_map(|file| {
            let mode = fs::metadata(&file).ok()?.permissions().mode() & 0o777;
            let what = format!("the secret {} has mode {mode:o}", file.display());
            (mode & 0o077 != 0).then(|| Finding::of(None, Code::ReadableSecret, what))
        })
        .collect()
}

fn is_of_mesh(service: &Node) -> bool {
    label(service, SIDECAR_OF).is_some() || label(service, ROLE).is_some()
}

fn label(service: &Node, key: &str) -> Option<String> {
    pairs(service.get("labels")).into_iter().find(|(name, _)| name == key).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::yaml;

    fn codes(text: &str) -> Vec<&'static str> {
        let findings = judge(&yaml::parse(text).unwrap(), Path::new("compose.yaml"));
        findings.iter().map(|finding| finding.code.id()).collect()
    }

    const GOOD: &str = "
services:
  web: {image: a, networks: [web-sidegate]}
  web-sidegate:
    image: s
    labels: {sidegate.dev/sidecar-of: web}
    networks: {sidegate-mesh: {}, web-sidegate: {}}
    ports: ['80:80']
networks: {web-sidegate: {internal: true}, sidegate-mesh: {}}
";

    #[test]
    fn a_fenced_service_has_no_finding() {
        assert_eq!(codes(GOOD), [""; 0]);
    }

    #[test]
    fn every_way_past_a_sidecar_has_a_code() {
        let fence = "networks: [web-sidegate]}";
        for (from, to, code) in [
            (fence, "networks: [web-sidegate, front]}", Code::NotFenced),
            (fence, "x: y}", Code::NotFenced),
            (fence, "network_mode: host}", Code::NotFenced),
            ("{internal: true}", "{}", Code::NotFenced),
            ("sidecar-of: web", "sidecar-of: other", Code::NotFenced),
            ("services:", "services:\n  spy: {image: x, networks: [web-sidegate]}", Code::NotFenced),
            (fence, "networks: [web-sidegate], ports: ['80:80']}", Code::PortBesideSidecar),
            ("image: s", "network_mode: 'service:web'", Code::SidecarJoinsApplication),
            ("image: s", "environment: {JOIN_TOKEN: x}", Code::SecretInManifest),
            (
                "image: a",
                "environment: ['X=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef']",
                Code::SecretInManifest,
            ),
            ("image: a", "environment: {X: 'a sidegate-join-0 b'}", Code::SecretInManifest),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD);
            assert!(codes(&text).contains(&code.id()), "{to}: {:?}", codes(&text));
        }
    }

    #[test]
    fn a_token_is_found_in_a_file_of_variables_too() {
        let folder = tempfile::tempdir().unwrap();
        let text = GOOD.replacen("image: a", "image: a, env_file: a.env", 1);
        let judged = || judge(&yaml::parse(&text).unwrap(), &folder.path().join("compose.yaml"));
        fs::write(folder.path().join("a.env"), "X=none").unwrap();
        assert_eq!(judged(), []);
        fs::write(folder.path().join("a.env"), "X=sidegate-join-0").unwrap();
        assert_eq!(judged()[0].code, Code::SecretInManifest);
    }
}
