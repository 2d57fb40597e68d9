//! Receives a Compose file; hands on what in its services breaks zero trust. What another file adds (`extends`,
//! `include`, overrides) is judged when that file is named too.

use sidegate_codes::Code;

use super::{
    finding::Finding,
    kubernetes::{SIDECAR_USER, is_sidegate, may_bypass},
    secret,
};
use crate::yaml::{Misread, Node, Value};

/// Judges every service of the file.
pub(super) fn read(file: &str, document: &Node, findings: &mut Vec<Finding>) -> Result<(), Misread> {
    let Some(services) = document.get("services")? else {
        return Ok(());
    };
    for (name, node) in services.fields()? {
        let image = node.get("image")?.map(Node::scalar).transpose()?;
        let service = Service {
            file,
            subject: format!("service {name}"),
            node,
            is_sidecar: image.as_deref().is_some_and(is_sidegate),
        };
        service.judge(findings)?;
    }
    Ok(())
}

struct Service<'f> {
    file: &'f str,
    subject: String,
    node: &'f Node,
    is_sidecar: bool,
}

impl Service<'_> {
    fn judge(&self, findings: &mut Vec<Finding>) -> Result<(), Misread> {
        for field in ["network_mode", "pid", "ipc"] {
            if let Some(node) = self.node.get(field)?
                && node.scalar()? == "host"
            {
                findings.push(self.error(Code::HostNamespace, node, format!("{field}: host")));
            }
        }
        // What is decided outside of the file may be true.
        if let Some(node) = self.node.get("privileged")?
            && node.scalar()? != "false"
        {
            findings.push(self.error(Code::PrivilegedContainer, node, "privileged: true"));
        }
        self.environment(findings)?;
        // A sidecar's own ports and capabilities are how it does its work.
        if !self.is_sidecar {
            self.capabilities(findings)?;
            self.ports(findings)?;
            self.user(findings)?;
        }
        Ok(())
    }

    /// A map of variables, or a list of `NAME=value`. A name alone is taken from outside.
    fn environment(&self, findings: &mut Vec<Finding>) -> Result<(), Misread> {
        let Some(environment) = self.node.get("environment")? else {
            return Ok(());
        };
        if environment.is_map() {
            for (name, node) in environment.fields()? {
                if !matches!(node.value, Value::Null) {
                    self.variable(name, &node.scalar()?, node, findings);
                }
            }
            return Ok(());
        }
        for node in environment.items()? {
            if let Some((name, value)) = node.text()?.split_once('=') {
                self.variable(name, value, node, findings);
            }
        }
        Ok(())
    }

    fn variable(&self, name: &str, value: &str, node: &Node, findings: &mut Vec<Finding>) {
        if let Some(reason) = secret::reason(name, value) {
            findings.push(self.error(Code::SecretInManifest, node, format!("{name}: {reason}")));
        }
    }

    fn capabilities(&self, findings: &mut Vec<Finding>) -> Result<(), Misread> {
        let Some(added) = self.node.get("cap_add")? else {
            return Ok(());
        };
        for node in added.items()? {
            let name = node.scalar()?;
            if may_bypass(&name) {
                findings.push(self.error(Code::BypassCapability, node, format!("cap_add: {name}")));
            }
        }
        Ok(())
    }

    fn ports(&self, findings: &mut Vec<Finding>) -> Result<(), Misread> {
        let Some(ports) = self.node.get("ports")? else {
            return Ok(());
        };
        for node in ports.items()? {
            let (saw, is_loopback) = match &node.value {
                Value::Map(_) => long_port(node)?,
                _ => short_port(&node.scalar()?),
            };
            let found = if is_loopback { Finding::warning } else { Finding::error };
            findings.push(found(Code::PortBesideSidecar, self.file, node, &self.subject, saw));
        }
        Ok(())
    }

    fn user(&self, findings: &mut Vec<Finding>) -> Result<(), Misread> {
        if let Some(node) = self.node.get("user")? {
            let user = node.scalar()?;
            if user.split(':').next() == Some(SIDECAR_USER) {
                findings.push(self.error(Code::SidecarsUser, node, format!("user: {user}")));
            }
        }
        Ok(())
    }

    fn error(&self, code: Code, node: &Node, saw: impl Into<String>) -> Finding {
        Finding::error(code, self.file, node, &self.subject, saw)
    }
}

/// `{target: 80, published: 8080, host_ip: 127.0.0.1}`: what it says, and whether only this host can connect.
fn long_port(node: &Node) -> Result<(String, bool), Misread> {
    let field = |name| node.get(name)?.map(Node::scalar).transpose();
    let (Some(target), published, host) = (field("target")?, field("published")?, field("host_ip")?) else {
        return Err(node.misread("a published port without `target`"));
    };
    let published = published.as_deref().unwrap_or("a port of Docker's choice");
    Ok((format!("{published} leads to {target}"), host.as_deref().is_some_and(is_loopback)))
}

/// `[[host:]published:]target[/protocol]`: what it says, and whether only this host can connect.
fn short_port(text: &str) -> (String, bool) {
    let host = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(host, _)| host),
        None => text.rsplitn(3, ':').nth(2),
    };
    (format!("published: {text}"), host.is_some_and(is_loopback))
}

fn is_loopback(host: &str) -> bool {
    host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}
