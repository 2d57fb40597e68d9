//! One thing in a manifest that breaks zero trust.

use serde::Serialize;
use sidegate_codes::Code;

use crate::{
    sarif,
    terminal::Paint,
    yaml::{Node, Place},
};

/// What was found, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    #[serde(serialize_with = "as_id")]
    pub(super) code: Code,
    pub(super) severity: Severity,
    pub(super) file: String,
    #[serde(flatten)]
    pub(super) at: Place,
    /// `Deployment shop/web, container app`, or `service web`.
    pub(super) subject: String,
    /// What the file says; never the value of a secret.
    pub(super) saw: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// The mesh's promises do not hold for this workload.
    Error,
    /// They hold with one layer less.
    Warning,
}

/// Every code of a finding, in the order of their numbers.
pub(super) const CODES: [Code; 8] = [
    Code::SecretInManifest,
    Code::HostNamespace,
    Code::PrivilegedContainer,
    Code::BypassCapability,
    Code::PortBesideSidecar,
    Code::SharedAccount,
    Code::AutomountedToken,
    Code::SidecarsUser,
];

impl Finding {
    pub(super) fn error(code: Code, file: &str, node: &Node, subject: &str, saw: impl Into<String>) -> Self {
        let (subject, file) = (subject.to_owned(), file.to_owned());
        Self { code, severity: Severity::Error, file, at: node.at, subject, saw: saw.into() }
    }

    pub(super) fn warning(
        code: Code,
        file: &str,
        node: &Node,
        subject: &str,
        saw: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, file, node, subject, saw) }
    }

    /// `file:line`
    pub(super) fn source(&self) -> String {
        self.at.in_file(&self.file)
    }
}

impl Severity {
    pub(super) const fn paint(self) -> Paint {
        match self {
            Self::Error => Paint::Bad,
            Self::Warning => Paint::Warn,
        }
    }
}

impl From<Severity> for sarif::Level {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Error => Self::Error,
            Severity::Warning => Self::Warning,
        }
    }
}

/// The level of a code where nothing makes it milder.
pub(super) fn level(code: Code) -> sarif::Level {
    match code {
        Code::AutomountedToken => sarif::Level::Warning,
        _ => sarif::Level::Error,
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn as_id<S: serde::Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code.id())
}
