//! Receives Kubernetes objects; hands on what in their pods breaks zero trust. Whatever holds a pod template where
//! workloads hold one is a workload, custom kinds included.

use std::collections::BTreeMap;

use sidegate_codes::Code;

use super::{
    finding::{Finding, Severity},
    secret,
};
use crate::yaml::{Misread, Node};

/// The user of a sidecar, whose traffic capture leaves out (`capture.uid`).
pub(super) const SIDECAR_USER: &str = "15100";

/// Identities and tokens of every pod and account seen: they are judged when all files are read.
#[derive(Debug, Default)]
pub(super) struct Pods {
    seen: Vec<Seen>,
    /// By namespace and name: whether tokens are mounted into its pods.
    accounts: BTreeMap<(String, String), Option<bool>>,
}

/// What is asked of a pod when all accounts are known.
#[derive(Debug)]
struct Seen {
    namespace: String,
    account: String,
    shares_default: Finding,
    mounts: Mounts,
    mounted: Finding,
}

/// Whether a token of the Kubernetes API is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mounts {
    Yes,
    No,
    AsTheAccountSays,
}

/// A workload, and what its findings are about.
struct Workload<'f> {
    file: &'f str,
    subject: String,
    namespace: String,
}

impl Pods {
    /// Judges one object, or each of a list's.
    pub(super) fn read(
        &mut self,
        file: &str,
        object: &Node,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Misread> {
        let kind = text(object, &["kind"])?.unwrap_or_default();
        if let Some(items) = object.get("items")?.filter(|_| kind.ends_with("List")) {
            return items.items()?.iter().try_for_each(|item| self.read(file, item, findings));
        }
        let name = text(object, &["metadata", "name"])?.or(text(object, &["metadata", "generateName"])?);
        let shown = name.unwrap_or("(without name)");
        // Objects without a namespace get the same one, whichever it is.
        let (namespace, subject) = match text(object, &["metadata", "namespace"])? {
            Some(namespace) => (namespace.to_owned(), format!("{kind} {namespace}/{shown}")),
            None => (String::new(), format!("{kind} {shown}")),
        };
        let workload = Workload { file, subject, namespace };
        match kind {
            "ServiceAccount" => self.account(&workload, object, name.unwrap_or_default())?,
            "ConfigMap" => workload.settings(object, findings)?,
            _ => {
                if let Some(pod) = pod(kind, object)? {
                    workload.pod(pod, findings)?;
                    self.seen.push(workload.identity(pod)?);
                }
            }
        }
        Ok(())
    }

    /// What can only be said when every file is read.
    pub(super) fn identities(self) -> Vec<Finding> {
        let Self { seen, accounts } = self;
        let mut of_default: BTreeMap<String, usize> = BTreeMap::new();
        for pod in seen.iter().filter(|pod| pod.account == DEFAULT) {
            *of_default.entry(pod.namespace.clone()).or_default() += 1;
        }
        let mut findings = Vec::new();
        for pod in seen {
            let others = of_default.get(&pod.namespace).map_or(0, |all| all - 1);
            if pod.account == DEFAULT {
                findings.push(shared(pod.shares_default, others));
            }
            let account = accounts.get(&(pod.namespace, pod.account)).copied().flatten();
            let is_mounted = match pod.mounts {
                Mounts::Yes => true,
                Mounts::No => false,
                Mounts::AsTheAccountSays => account.unwrap_or(true),
            };
            if is_mounted {
                findings.push(pod.mounted);
            }
        }
        findings
    }

    fn account(&mut self, workload: &Workload<'_>, object: &Node, name: &str) -> Result<(), Misread> {
        let mounts = object.get("automountServiceAccountToken")?.map(Node::boolean).transpose()?;
        self.accounts.insert((workload.namespace.clone(), name.to_owned()), mounts);
        Ok(())
    }
}

impl Workload<'_> {
    fn pod(&self, pod: &Node, findings: &mut Vec<Finding>) -> Result<(), Misread> {
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            if let Some(node) = is_true(pod, &[field])? {
                findings.push(self.error(Code::HostNamespace, node, format!("{field}: true")));
            }
        }
        self.user(&self.subject, pod, findings)?;
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            let Some(containers) = pod.get(list)? else { continue };
            for container in containers.items()? {
                self.container(container, findings)?;
            }
        }
        Ok(())
    }

    fn container(&self, container: &Node, findings: &mut Vec<Finding>) -> Result<(), Misread> {
        let name = text(container, &["name"])?.unwrap_or("(without name)");
        let subject = format!("{}, container {name}", self.subject);
        if let Some(node) = is_true(container, &["securityContext", "privileged"])? {
            findings.push(self.of(&subject, Code::PrivilegedContainer, node, "privileged: true"));
        }
        self.environment(&subject, container, findings)?;
        // What a sidecar and its start need to capture is theirs.
        if !text(container, &["image"])?.is_some_and(is_sidegate) {
            self.capabilities(&subject, container, findings)?;
            self.ports(&subject, container, findings)?;
            self.user(&subject, container, findings)?;
        }
        Ok(())
    }

    fn environment(
        &self,
        subject: &str,
        container: &Node,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Misread> {
        let Some(variables) = container.get("env")? else {
            return Ok(());
        };
        for variable in variables.items()? {
            let (Some(name), Some(value)) = (text(variable, &["name"])?, variable.get("value")?) else {
                continue;
            };
            if let Some(reason) = secret::reason(name, &value.scalar()?) {
                let saw = format!("{name}: {reason}");
                findings.push(self.of(subject, Code::SecretInManifest, value, saw));
            }
        }
        Ok(())
    }

    fn capabilities(
        &self,
        subject: &str,
        container: &Node,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Misread> {
        let Some(added) = container.at(&["securityContext", "capabilities", "add"])? else {
            return Ok(());
        };
        for node in added.items()? {
            let name = node.text()?;
            if may_bypass(name) {
                let saw = format!("capabilities.add: {name}");
                findings.push(self.of(subject, Code::BypassCapability, node, saw));
            }
        }
        Ok(())
    }

    fn ports(&self, subject: &str, container: &Node, findings: &mut Vec<Finding>) -> Result<(), Misread> {
        let Some(ports) = container.get("ports")? else {
            return Ok(());
        };
        for port in ports.items()? {
            if let Some(node) = port.get("hostPort")? {
                let saw = format!("hostPort: {}", node.scalar()?);
                findings.push(Finding::warning(Code::PortBesideSidecar, self.file, node, subject, saw));
            }
        }
        Ok(())
    }

    fn user(&self, subject: &str, holder: &Node, findings: &mut Vec<Finding>) -> Result<(), Misread> {
        if let Some(node) = holder.at(&["securityContext", "runAsUser"])?
            && node.scalar()? == SIDECAR_USER
        {
            findings.push(self.of(subject, Code::SidecarsUser, node, format!("runAsUser: {SIDECAR_USER}")));
        }
        Ok(())
    }

    /// A configuration ends in the environment or in files: neither is a place for a secret.
    fn settings(&self, object: &Node, findings: &mut Vec<Finding>) -> Result<(), Misread> {
        let Some(settings) = object.get("data")? else {
            return Ok(());
        };
        for (name, node) in settings.fields()? {
            if let Some(reason) = secret::reason(name, &node.scalar()?) {
                let saw = format!("{name}: {reason}");
                findings.push(self.error(Code::SecretInManifest, node, saw));
            }
        }
        Ok(())
    }

    fn identity(&self, pod: &Node) -> Result<Seen, Misread> {
        // `serviceAccount` is the older name of the field.
        let named = pod.get("serviceAccountName")?.or(pod.get("serviceAccount")?);
        let account = named.map(Node::text).transpose()?.unwrap_or(DEFAULT).to_owned();
        let says = match named {
            Some(_) => "serviceAccountName: default",
            None => "no serviceAccountName, so it runs as `default`",
        };
        let automount = pod.get("automountServiceAccountToken")?;
        let (mounts, mounted) = match automount.map(Node::boolean).transpose()? {
            Some(true) => (Mounts::Yes, "automountServiceAccountToken: true"),
            Some(false) => (Mounts::No, ""),
            None => (Mounts::AsTheAccountSays, "no automountServiceAccountToken, so a token is mounted"),
        };
        Ok(Seen {
            namespace: self.namespace.clone(),
            account,
            shares_default: Finding::warning(
                Code::SharedAccount,
                self.file,
                named.unwrap_or(pod),
                &self.subject,
                says,
            ),
            mounts,
            mounted: Finding::warning(
                Code::AutomountedToken,
                self.file,
                automount.unwrap_or(pod),
                &self.subject,
                mounted,
            ),
        })
    }

    fn error(&self, code: Code, node: &Node, saw: impl Into<String>) -> Finding {
        self.of(&self.subject, code, node, saw)
    }

    fn of(&self, subject: &str, code: Code, node: &Node, saw: impl Into<String>) -> Finding {
        Finding::error(code, self.file, node, subject, saw)
    }
}

/// Whether an image is one of Sidegate's own, by the last part of its name.
pub(super) fn is_sidegate(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    let name = name.split(['@', ':']).next().unwrap_or_default();
    matches!(name, "sidegate" | "sidegate-proxy" | "sidegate-control-plane")
}

/// Whether a process with it can lead its traffic past the sidecar, or leave its own namespace.
pub(super) fn may_bypass(capability: &str) -> bool {
    let name = capability.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    matches!(name, "ALL" | "BPF" | "NET_ADMIN" | "NET_RAW" | "SYS_ADMIN" | "SYS_MODULE" | "SYS_PTRACE")
}

/// The spec of the pods that an object makes, if it makes any.
fn pod<'o>(kind: &str, object: &'o Node) -> Result<Option<&'o Node>, Misread> {
    if kind == "Pod" {
        return object.get("spec");
    }
    for path in TEMPLATES {
        if let Some(pod) = under(object, path)
            && pod.get("containers")?.is_some()
        {
            return Ok(Some(pod));
        }
    }
    Ok(None)
}

/// A custom kind may have something else under these names.
fn under<'o>(object: &'o Node, path: &[&str]) -> Option<&'o Node> {
    object.at(path).ok().flatten().filter(|node| node.is_map())
}

fn shared(finding: Finding, others: usize) -> Finding {
    let severity = if others == 0 { finding.severity } else { Severity::Error };
    let saw = match others {
        0 => finding.saw,
        1 => format!("{}, as does another workload of these files", finding.saw),
        _ => format!("{}, as do {others} other workloads of these files", finding.saw),
    };
    Finding { severity, saw, ..finding }
}

fn text<'n>(node: &'n Node, path: &[&str]) -> Result<Option<&'n str>, Misread> {
    node.at(path)?.map(Node::text).transpose()
}

fn is_true<'n>(node: &'n Node, path: &[&str]) -> Result<Option<&'n Node>, Misread> {
    let Some(node) = node.at(path)? else {
        return Ok(None);
    };
    Ok(node.boolean()?.then_some(node))
}

const DEFAULT: &str = "default";

/// Where workloads hold the spec of their pods: most kinds, `CronJob`, `PodTemplate`.
const TEMPLATES: [&[&str]; 3] = [
    &["spec", "template", "spec"],
    &["spec", "jobTemplate", "spec", "template", "spec"],
    &["template", "spec"],
];
